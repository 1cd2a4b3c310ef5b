/**
 * What became of a suggestion, read from the edits that followed it. Pure.
 *
 * VS Code tells its own extensions alone when ghost text was shown or accepted in part (a proposed
 * API). An edit at the cursor that inserts the beginning of the suggestion is such an acceptance,
 * unless it is what a key inserts: one character, a pair of brackets or quotes, a line's indentation.
 */

export interface Edit {
  /** Where it begins, in UTF-16 units from the document's start. */
  offset: number;
  /** How much it replaces. */
  replaced: number;
  text: string;
}

export type Outcome = 'typed' | 'accepted-part' | 'accepted-whole' | 'diverged';

const TYPED_PAIR = /^(\(\)|\[\]|\{\}|""|''|``|<>)$/;

export class Offer<Item> {
  /** How much of `text` stands in the document, in UTF-16 units. */
  done: number;
  /** Whether it was reported as shown. */
  shown = false;

  /** `text` replaces what begins at `start`; `cursor` lies `there` units behind that. */
  constructor(
    readonly uri: string,
    readonly start: number,
    readonly text: string,
    readonly item: Item,
    there = 0,
  ) {
    this.done = there;
  }

  /** The part that is not in the document yet. */
  get rest(): string {
    return this.text.slice(this.done);
  }

  /** Takes the next edit of the document into account. */
  edited(edit: Edit): Outcome {
    if (edit.offset === this.start && edit.replaced === this.done && edit.text === this.text) {
      this.done = this.text.length;
      return 'accepted-whole';
    }
    const goesOn = edit.replaced === 0 && edit.offset === this.start + this.done;
    if (!goesOn || edit.text === '' || !this.rest.startsWith(edit.text)) {
      return 'diverged';
    }
    this.done += edit.text.length;
    if (this.rest === '') {
      return 'accepted-whole';
    }
    return byKey(edit.text) ? 'typed' : 'accepted-part';
  }

  /** Whether an offer of `text` at `start` is what is left of this one. */
  isGoneOnWith(uri: string, start: number, text: string): boolean {
    return uri === this.uri && start === this.start + this.done && text === this.rest;
  }
}

function byKey(text: string): boolean {
  const characters = [...text].length;
  return characters === 1 || text.trim() === '' || TYPED_PAIR.test(text);
}
