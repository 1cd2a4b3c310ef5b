/** Sizes and long sentences as people read them. Pure. */

/** A number of bytes in MB or GB; "" for 0, which stands for unknown. */
export function size(bytes: number): string {
  if (!bytes) {
    return '';
  }
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

/** The beginning of a text, cut between words; all of one that is no longer than `length`. */
export function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length).replace(/[\s,;:·(]+\S*$/, '')}…`;
}
