/** Tells the server what became of its suggestions: shown, accepted in part, accepted by word. */

import { commands, Disposable, window, workspace } from 'vscode';
import type { InlineCompletionItem, Position, Range, TextDocument, TextDocumentChangeEvent } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { Offer } from './acceptance';
import type { CompletionMiddleware } from './client';
import type { Latency } from './latency';

// VS Code paints ghost text within a frame or two of the answer, if it shows it.
const SHOWN_AFTER_MS = 60;

type Item = { insertText: string; range: Range; command?: unknown };

export class Suggestions implements Disposable {
  client: LanguageClient | undefined;
  private offer: Offer<Item> | undefined;
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
          this.offered(document, position, Array.isArray(result) ? result[0] : result.items[0]);
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

  private offered(document: TextDocument, position: Position, item?: InlineCompletionItem): void {
    if (!item?.range || typeof item.insertText !== 'string') {
      return;
    }
    const uri = document.uri.toString();
    const start = document.offsetAt(item.range.start);
    if (this.offer?.isGoneOnWith(uri, start, item.insertText)) {
      return;
    }
    const there = document.offsetAt(position) - start;
    const { insertText, range, command } = item;
    const offer = new Offer<Item>(uri, start, insertText, { insertText, range, command }, there);
    this.offer = offer;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const editor = window.activeTextEditor;
      if (editor?.document === document && editor.selection.active.isEqual(position)) {
        this.show(offer);
      }
    }, SHOWN_AFTER_MS);
  }

  private show(offer: Offer<Item>): void {
    if (this.offer === offer && !offer.shown) {
      offer.shown = true;
      this.notify('textDocument/didShowCompletion', { item: offer.item });
    }
  }

  private edited(event: TextDocumentChangeEvent): void {
    const offer = this.offer;
    const change = event.contentChanges[0];
    if (offer === undefined || change === undefined || event.document.uri.toString() !== offer.uri) {
      return;
    }
    const outcome =
      event.contentChanges.length === 1
        ? offer.edited({ offset: change.rangeOffset, replaced: change.rangeLength, text: change.text })
        : 'diverged';
    if (outcome === 'accepted-part') {
      this.show(offer); // nobody accepts what was not shown
      this.notify('textDocument/didPartiallyAcceptCompletion', {
        item: offer.item,
        acceptedLength: offer.done,
      });
    }
    if (outcome === 'accepted-part' || outcome === 'accepted-whole') {
      void commands.executeCommand('setContext', 'midspan.accepted', true);
    }
    if (outcome === 'accepted-whole' || outcome === 'diverged') {
      if (outcome === 'accepted-whole') {
        this.show(offer);
      }
      this.offer = undefined;
    }
  }

  private notify(method: string, params: object): void {
    // A server that went away counts nothing; the next one starts afresh.
    this.client?.sendNotification(method, params).catch(() => undefined);
  }
}
