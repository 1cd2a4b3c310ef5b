/** Sizes and long sentences as people read them. Pure. */

/** A number of bytes in MiB or GiB, as the server's texts have them; "" for 0, which stands for unknown. */
export function size(bytes: number): string {
  if (!bytes) {
    return '';
  }
  return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** The beginning of a text, cut between words; all of one that is no longer than `length`. */
export function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length).replace(/[\s,;:·(]+\S*$/, '')}…`;
}
