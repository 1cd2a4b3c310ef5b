/**
 * What became of a suggestion, read from the edits that followed it. Pure.
 *
 * VS Code tells its own extensions alone when ghost text was accepted in part (a proposed API). An
 * edit at the cursor that inserts the beginning of the suggestion is such an acceptance, unless it
 * is what a key inserts: one character, a pair of brackets or quotes, a line's indentation.
 */

export interface Edit {
  /** Where it begins, in UTF-16 units from the document's start. */
  offset: number;
  /** How much it replaces. */
  replaced: number;
  text: string;
}

export type Outcome = 'typed' | 'part' | 'whole' | 'diverged';

const TYPED_PAIR = /^(\(\)|\[\]|\{\}|""|''|``|<>)$/;

/** `text` goes to `start`; what of it lies before the cursor stands there already. */
export class Offer {
  /** How much of `text` stands in the document, in UTF-16 units. */
  done: number;
  private readonly there: number;

  constructor(
    private readonly start: number,
    private readonly text: string,
    there = 0,
  ) {
    this.done = this.there = there;
  }

  /** Takes the next edit of the document into account. */
  edited(edit: Edit): Outcome {
    const rest = this.text.slice(this.done);
    if (edit.offset === this.start && edit.replaced === this.there && edit.text === this.text) {
      return 'whole';
    }
    const goesOn = edit.replaced === 0 && edit.offset === this.start + this.done;
    if (!goesOn || edit.text === '' || !rest.startsWith(edit.text)) {
      return 'diverged';
    }
    this.done += edit.text.length;
    if (byKey(edit.text)) {
      return 'typed';
    }
    return edit.text === rest ? 'whole' : 'part';
  }
}

function byKey(text: string): boolean {
  return [...text].length === 1 || text.trim() === '' || TYPED_PAIR.test(text);
}
