/** When a server that ended is started again. Pure: time comes in, a delay comes out. */

const DELAYS_S = [0.2, 1, 2, 4, 8, 16, 30];
const HEALTHY_MS = 60_000;

export class Backoff {
  private failures = 0;
  private startedAt = 0;

  /** A server was started at `now` (milliseconds). */
  started(now: number): void {
    this.startedAt = now;
  }

  /** It ended at `now`: seconds to wait before the next start; undefined after too many. */
  next(now: number): number | undefined {
    if (now - this.startedAt >= HEALTHY_MS) {
      this.failures = 0;
    }
    return DELAYS_S[this.failures++];
  }

  /** The user asked for a start: what failed before no longer counts. */
  reset(): void {
    this.failures = 0;
  }
}
