/** Tells the server what became of its suggestions: shown, and accepted in part. */

import { commands, Disposable, window, workspace } from 'vscode';
import type {
  InlineCompletionContext,
  InlineCompletionItem,
  Position,
  TextDocument,
  TextDocumentChangeEvent,
  TextEditorSelectionChangeEvent,
} from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { Offer } from './acceptance';
import type { Outcome } from './acceptance';
import type { CompletionMiddleware } from './client';
import type { Latency } from './latency';

// VS Code paints ghost text within a frame or two of the answer, if it shows it. That it did is
// told by a proposed API alone (see `acceptance`).
const SHOWN_AFTER_MS = 60;

/** An item that may be shown: the server's own words for it, and what became of it. */
interface Offered {
  item: { insertText: string; range: unknown; command: unknown };
  offer: Offer;
}

export class Suggestions implements Disposable {
  client: LanguageClient | undefined;
  private document: TextDocument | undefined;
  private offered: Offered[] = [];
  /** What stands in the document just now, while it is not known by what. */
  private inserted: (Offered & { outcome: Outcome }) | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly listeners = Disposable.from(
    workspace.onDidChangeTextDocument((event) => this.edited(event)),
    window.onDidChangeTextEditorSelection((event) => this.moved(event)),
  );

  constructor(
    private readonly latency: Latency,
    private readonly answered: () => void,
  ) {}

  readonly middleware: CompletionMiddleware = {
    provideInlineCompletionItems: async (document, position, context, token, next) => {
      const began = performance.now();
      const version = document.version;
      try {
        const result = await next(document, position, context, token);
        if (result && !token.isCancellationRequested && document.version === version) {
          this.latency.add(performance.now() - began);
          this.answered();
          this.offer(document, position, context, Array.isArray(result) ? result : result.items);
        }
        return result;
      } catch {
        return undefined; // the server went away; typing goes on
      }
    },
  };

  dispose(): void {
    clearTimeout(this.timer);
    this.listeners.dispose();
  }

  private offer(
    document: TextDocument,
    position: Position,
    context: InlineCompletionContext,
    items: InlineCompletionItem[],
  ): void {
    this.document = document;
    this.inserted = undefined;
    this.offered = items.flatMap(({ insertText, range, command }) => {
      if (range === undefined || typeof insertText !== 'string') {
        return [];
      }
      const start = document.offsetAt(range.start);
      const there = document.offsetAt(position) - start;
      const offer = new Offer(start, insertText, there, context.selectedCompletionInfo?.text);
      return [{ item: { insertText, range, command }, offer }];
    });
    clearTimeout(this.timer);
    const first = this.offered[0];
    this.timer = setTimeout(() => {
      if (first !== undefined && this.offered.includes(first) && isShown(document, position)) {
        this.notify('textDocument/didShowCompletion', { item: first.item });
      }
    }, SHOWN_AFTER_MS);
  }

  private edited({ document, contentChanges }: TextDocumentChangeEvent): void {
    const change = contentChanges[0];
    if (document !== this.document || change === undefined) {
      return;
    }
    this.inserted = undefined;
    if (contentChanges.length > 1) {
      this.offered = [];
      return;
    }
    const edit = { offset: change.rangeOffset, replaced: change.rangeLength, text: change.text };
    const after = this.offered.map((each) => ({ ...each, outcome: each.offer.edited(edit) }));
    this.offered = after.filter(({ outcome }) => outcome === 'further');
    this.inserted = after.find(({ outcome }) => outcome !== 'diverged');
  }

  private moved({ textEditor, kind }: TextEditorSelectionChangeEvent): void {
    if (textEditor.document !== this.document || this.inserted === undefined) {
      return;
    }
    const { item, offer, outcome } = this.inserted;
    this.inserted = undefined;
    if (kind !== undefined) {
      return; // it was typed
    }
    void commands.executeCommand('setContext', 'midspan.accepted', true);
    if (outcome === 'further') { // of a whole one the item's own command tells
      this.notify('textDocument/didPartiallyAcceptCompletion', { item, acceptedLength: offer.done });
    }
  }

  private notify(method: string, params: object): void {
    // A server that went away counts nothing; the next one starts afresh.
    this.client?.sendNotification(method, params).catch(() => undefined);
  }
}

/** Whether a suggestion at this place is to be seen, as far as can be told. */
function isShown(document: TextDocument, position: Position): boolean {
  const editor = window.activeTextEditor;
  const on = workspace.getConfiguration('editor.inlineSuggest', document).get('enabled', true);
  return on && editor?.document === document && editor.selection.active.isEqual(position);
}
