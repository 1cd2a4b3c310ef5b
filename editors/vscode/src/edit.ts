/** Select code, say what should become of it, look at the difference, apply it or not. */

import {
  CancellationTokenSource,
  commands,
  Disposable,
  EventEmitter,
  l10n,
  ProgressLocation,
  Range,
  TabInputTextDiff,
  Uri,
  window,
  workspace,
  WorkspaceEdit,
} from 'vscode';
import type { TextDocument, TextEditor } from 'vscode';
import { ProgressType } from 'vscode-languageclient/node';
import type { LanguageClient } from 'vscode-languageclient/node';

import { isServed } from './client';
import { complain, execute } from './server';

export const SCHEME = 'midspan-edit';
const COMMAND = 'midspan.edit';
const STREAM = new ProgressType<Written>();

/** The new text of whole lines of the document: so far, or all of it. */
interface Written {
  range: { start: { line: number; character: number }; end: { line: number; character: number } };
  text: string;
}

interface Answer extends Written {
  model: string;
  /** The model stopped because it may write no more. */
  truncated: boolean;
}

interface Edit {
  document: TextDocument;
  original: string;
  preview: Uri;
  cancel: CancellationTokenSource;
  range: Range;
  text: string | undefined;
}

export class Edits implements Disposable {
  private current: Edit | undefined;
  private count = 0;
  private readonly changed = new EventEmitter<Uri>();
  private readonly disposables = [
    this.changed,
    workspace.registerTextDocumentContentProvider(SCHEME, {
      onDidChange: this.changed.event,
      provideTextDocumentContent: (uri) => this.content(uri),
    }),
    window.tabGroups.onDidChangeTabs(({ closed }) => {
      if (closed.some((tab) => isPreview(tab.input, this.current?.preview))) {
        this.end();
      }
    }),
  ];

  constructor(private readonly client: () => LanguageClient | undefined) {}

  dispose(): void {
    this.end();
    Disposable.from(...this.disposables).dispose();
  }

  /** Asks what should be done with the selection, and shows what would become of it. */
  async ask(): Promise<void> {
    const editor = window.activeTextEditor;
    if (editor === undefined || !isServed(editor.document)) {
      complain(l10n.t('There is no file to edit.'));
      return;
    }
    const prompt = await window.showInputBox({
      title: l10n.t('Midspan: edit the selection'),
      prompt: editor.selection.isEmpty
        ? l10n.t('What should stand in this line?')
        : l10n.t('What should become of the selected lines?'),
      placeHolder: l10n.t('For example: raise an error instead of returning None'),
      ignoreFocusOut: true,
    });
    if (prompt?.trim()) {
      await this.run(editor, prompt.trim());
    }
  }

  /** Puts the new text into the document, unless it changed there meanwhile. */
  async apply(): Promise<void> {
    const edit = this.current;
    if (edit?.text === undefined) {
      return;
    }
    if (edit.document.getText() !== edit.original) {
      complain(l10n.t('The file changed since the edit was made; ask for it again.'));
      return;
    }
    const changes = new WorkspaceEdit();
    changes.replace(edit.document.uri, edit.range, edit.text);
    this.end();
    if (await workspace.applyEdit(changes)) {
      await window.showTextDocument(edit.document);
    }
    await closeTab(edit.preview);
  }

  /** Gives the edit up, under way or done. */
  async discard(): Promise<void> {
    const edit = this.current;
    this.end();
    if (edit !== undefined) {
      await closeTab(edit.preview);
    }
  }

  private async run(editor: TextEditor, prompt: string): Promise<void> {
    await this.discard();
    const { document, selection } = editor;
    const edit: Edit = {
      document,
      original: document.getText(),
      preview: Uri.from({ scheme: SCHEME, path: document.uri.path, query: String(++this.count) }),
      cancel: new CancellationTokenSource(),
      range: new Range(selection.start, selection.end),
      text: undefined,
    };
    this.current = edit;
    this.tell();
    try {
      const answer = await window.withProgress(
        { location: ProgressLocation.Notification, title: l10n.t('Midspan: editing'), cancellable: true },
        (_, token) => {
          token.onCancellationRequested(() => edit.cancel.cancel());
          return this.stream(edit, prompt);
        },
      );
      if (this.current === edit) {
        await this.show(edit, answer);
        edit.text = answer.text;
        this.tell();
        await this.offer(answer);
      }
    } catch (error) {
      const cancelled = edit.cancel.token.isCancellationRequested;
      if (this.current === edit) {
        await this.discard();
      }
      if (!cancelled) {
        complain(error);
      }
    }
  }

  private async stream(edit: Edit, prompt: string): Promise<Answer> {
    const client = this.client();
    const token = edit.preview.toString();
    const listener = client?.onProgress(STREAM, token, (written) => void this.show(edit, written));
    try {
      const params = {
        uri: client?.code2ProtocolConverter.asUri(edit.document.uri),
        range: client?.code2ProtocolConverter.asRange(edit.range),
        prompt,
        partialResultToken: token,
      };
      return await execute<Answer>(client, COMMAND, [params], edit.cancel.token);
    } finally {
      listener?.dispose();
    }
  }

  private contents = new Map<string, string>();

  private async show(edit: Edit, written: Written): Promise<void> {
    if (this.current !== edit) {
      return;
    }
    const { start, end } = written.range;
    edit.range = new Range(start.line, start.character, end.line, end.character);
    const [from, to] = [edit.document.offsetAt(edit.range.start), edit.document.offsetAt(edit.range.end)];
    const key = edit.preview.toString();
    const first = !this.contents.has(key);
    this.contents.set(key, edit.original.slice(0, from) + written.text + edit.original.slice(to));
    if (first) {
      const name = edit.document.uri.path.split('/').at(-1) ?? '';
      const title = l10n.t('{0}: as edited by Midspan', name);
      await commands.executeCommand('vscode.diff', edit.document.uri, edit.preview, title);
    } else {
      this.changed.fire(edit.preview);
    }
  }

  private async offer(answer: Answer): Promise<void> {
    const [apply, discard] = [l10n.t('Apply'), l10n.t('Discard')];
    const text = answer.truncated
      ? l10n.t('Midspan: the edit is incomplete, because {0} may write no more. Apply it nevertheless?', answer.model)
      : l10n.t('Midspan: apply the edit of {0}?', answer.model);
    const edit = this.current;
    const picked = await window.showInformationMessage(text, apply, discard);
    if (this.current === edit && picked === apply) {
      await this.apply();
    } else if (this.current === edit && picked === discard) {
      await this.discard();
    }
  }

  private content(uri: Uri): string {
    return this.contents.get(uri.toString()) ?? '';
  }

  private end(): void {
    this.current?.cancel.cancel();
    this.current?.cancel.dispose();
    this.current = undefined;
    this.contents.clear();
    this.tell();
  }

  private tell(): void {
    void commands.executeCommand('setContext', 'midspan.editing', this.current !== undefined);
    void commands.executeCommand('setContext', 'midspan.editReady', this.current?.text !== undefined);
  }
}

function isPreview(input: unknown, preview: Uri | undefined): boolean {
  return input instanceof TabInputTextDiff && input.modified.toString() === preview?.toString();
}

async function closeTab(preview: Uri): Promise<void> {
  const tabs = window.tabGroups.all.flatMap((group) => group.tabs);
  await window.tabGroups.close(tabs.filter((tab) => isPreview(tab.input, preview)));
}
