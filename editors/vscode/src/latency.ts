/** How long answers took, over the last few. Pure. */

const KEPT = 50;

export class Latency {
  private readonly taken: number[] = [];

  /** An answer took `ms` milliseconds. */
  add(ms: number): void {
    this.taken.push(ms);
    if (this.taken.length > KEPT) {
      this.taken.shift();
    }
  }

  /** The last one, in milliseconds. */
  get last(): number | undefined {
    return this.taken.at(-1);
  }

  /** The `part` quantile (0 to 1) of those kept, by nearest rank. */
  quantile(part: number): number | undefined {
    const sorted = [...this.taken].sort((a, b) => a - b);
    return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)];
  }
}
