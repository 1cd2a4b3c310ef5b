/** Sizes as people read them. Pure. */

/** A number of bytes in MB or GB; "" for 0, which stands for unknown. */
export function size(bytes: number): string {
  if (!bytes) {
    return '';
  }
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
