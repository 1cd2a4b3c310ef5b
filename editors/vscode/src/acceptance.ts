/**
 * What became of a suggestion, read from the edits that followed it. Pure.
 *
 * What VS Code offers, and what a published extension may use of it:
 * - `InlineCompletionItem.command` runs after all of an item was accepted. Stable: used.
 * - `handleDidShowCompletionItem` and `handleDidPartiallyAcceptCompletionItem` of a provider are the
 *   proposed API `inlineCompletionsAdditions`: registering a provider that has them throws, the
 *   Marketplace takes no extension that asks for it, and the language client registers neither.
 * - So a part that was accepted is read from two stable events. An edit at the cursor inserts the
 *   beginning of the suggestion; then the selection moves, and says by what: `Keyboard` for
 *   everything that is typed or pasted, `Command` and `Mouse` for what they say, and nothing at all
 *   for an edit that the editor made by itself, as accepting a part does.
 */

export interface Edit {
  /** Where it begins, in UTF-16 units from the document's start. */
  offset: number;
  /** How much it replaces. */
  replaced: number;
  text: string;
}

/** `further`: the beginning of what was left stands in the document now. */
export type Outcome = 'further' | 'whole' | 'diverged';

/** `text` goes to `start`; what of it lies before the cursor stands there already. */
export class Offer {
  /** How much of `text` stands in the document, in UTF-16 units. */
  done: number;
  private readonly there: number;

  /** `chosen` is the text of the popup's entry that `text` begins with, "" for none. */
  constructor(
    private readonly start: number,
    private readonly text: string,
    there = 0,
    private readonly chosen = '',
  ) {
    this.done = this.there = there;
  }

  /** Takes the next edit of the document into account. */
  edited(edit: Edit): Outcome {
    if (edit.offset === this.start && edit.replaced === this.there && edit.text !== '') {
      if (edit.text === this.text) {
        return 'whole';
      }
      if (edit.text === this.chosen) {
        return 'diverged'; // the popup's entry was accepted, not the suggestion
      }
    }
    const rest = this.text.slice(this.done);
    const goesOn = edit.replaced === 0 && edit.offset === this.start + this.done;
    if (!goesOn || edit.text === '' || !rest.startsWith(edit.text)) {
      return 'diverged';
    }
    this.done += edit.text.length;
    return edit.text === rest ? 'whole' : 'further';
  }
}
