/** Tells the server what became of its suggestions: shown, and accepted in part. */

import { commands, Disposable, window, workspace } from 'vscode';
import type { InlineCompletionItem, Position, TextDocument, TextDocumentChangeEvent } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { Offer } from './acceptance';
import type { CompletionMiddleware } from './client';
import type { Latency } from './latency';

// VS Code paints ghost text within a frame or two of the answer, if it shows it.
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
  private timer: NodeJS.Timeout | undefined;
  private readonly listener = workspace.onDidChangeTextDocument((event) => this.edited(event));

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
          this.offer(document, position, Array.isArray(result) ? result : result.items);
        }
        return result;
      } catch {
        return undefined; // the server went away; typing goes on
      }
    },
  };

  dispose(): void {
    clearTimeout(this.timer);
    this.listener.dispose();
  }

  private offer(document: TextDocument, position: Position, items: InlineCompletionItem[]): void {
    this.document = document;
    this.offered = items.flatMap(({ insertText, range, command }) => {
      if (range === undefined || typeof insertText !== 'string') {
        return [];
      }
      const start = document.offsetAt(range.start);
      const offer = new Offer(start, insertText, document.offsetAt(position) - start);
      return [{ item: { insertText, range, command }, offer }];
    });
    clearTimeout(this.timer);
    const first = this.offered[0];
    this.timer = setTimeout(() => {
      const editor = window.activeTextEditor;
      const there = editor?.document === document && editor.selection.active.isEqual(position);
      if (first !== undefined && there && this.offered.includes(first)) {
        this.notify('textDocument/didShowCompletion', { item: first.item });
      }
    }, SHOWN_AFTER_MS);
  }

  private edited({ document, contentChanges }: TextDocumentChangeEvent): void {
    const change = contentChanges[0];
    if (document !== this.document || change === undefined) {
      return;
    }
    if (contentChanges.length > 1) {
      this.offered = [];
      return;
    }
    const edit = { offset: change.rangeOffset, replaced: change.rangeLength, text: change.text };
    const after = this.offered.map((each) => ({ ...each, outcome: each.offer.edited(edit) }));
    this.offered = after.filter(({ outcome }) => outcome === 'typed' || outcome === 'part');
    const accepted = after.find(({ outcome }) => outcome === 'part' || outcome === 'whole');
    if (accepted?.outcome === 'part') {
      const { item, offer } = accepted;
      this.notify('textDocument/didPartiallyAcceptCompletion', { item, acceptedLength: offer.done });
    }
    if (accepted !== undefined) {
      void commands.executeCommand('setContext', 'midspan.accepted', true);
    }
  }

  private notify(method: string, params: object): void {
    // A server that went away counts nothing; the next one starts afresh.
    this.client?.sendNotification(method, params).catch(() => undefined);
  }
}
