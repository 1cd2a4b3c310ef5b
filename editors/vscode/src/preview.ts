/**
 * Edits of the server's that the user is to confirm: shown as differences, then made or not.
 *
 * VS Code has a preview of its own for them, where every change must be ticked before it is made;
 * this one takes a single click. Rule: an edit is made as the server sent it, or not at all.
 */

import { commands, Disposable, l10n, Position, Range, TabInputText, Uri, window, workspace } from 'vscode';
import type { Tab, TextEdit, WorkspaceEdit } from 'vscode';
import type { ApplyWorkspaceEditParams, ApplyWorkspaceEditResult, LanguageClient } from 'vscode-languageclient/node';

import { complain } from './server';

export const SCHEME = 'midspan-preview';

type Apply = (params: ApplyWorkspaceEditParams) => unknown;
/** An address to show, what stands at it now (undefined: nothing), and what would. */
type Row = [Uri, Uri | undefined, Uri];

interface Shown {
  title: string;
  /** The new texts, by the addresses that stand for them. */
  contents: Map<string, string>;
  answer: (make: boolean) => void;
}

export class Previews implements Disposable {
  private current: Shown | undefined;
  private count = 0;
  private readonly disposables = [
    workspace.registerTextDocumentContentProvider(SCHEME, {
      provideTextDocumentContent: (uri) => this.current?.contents.get(uri.toString()) ?? '',
    }),
    window.tabGroups.onDidChangeTabs(({ closed }) => {
      if (this.current && closed.some(isOf(this.current.title))) {
        this.settle(false);
      }
    }),
  ];

  dispose(): void {
    this.settle(false);
    Disposable.from(...this.disposables).dispose();
  }

  /** Makes an edit of the server's, after the user saw it where it is to be confirmed. */
  async apply(client: LanguageClient, params: ApplyWorkspaceEditParams, apply: Apply): Promise<ApplyWorkspaceEditResult> {
    const { documentChanges, changeAnnotations } = params.edit;
    const asked = Object.values(changeAnnotations ?? {}).find((each) => each.needsConfirmation);
    if (documentChanges === undefined || asked === undefined) {
      return (await apply(params)) as ApplyWorkspaceEditResult;
    }
    const bare = { documentChanges }; // with no annotations, nothing more is asked
    const edit = await client.protocol2CodeConverter.asWorkspaceEdit(bare);
    const text = [asked.label, asked.description].filter(Boolean).join(': ');
    if (!(await this.confirmed(asked.label, text, edit))) {
      return { applied: false, failureReason: l10n.t('The edit was discarded.') };
    }
    // New files are saved, as those of a refactoring are.
    const isRefactoring = documentChanges.some((change) => 'kind' in change && change.kind === 'create');
    const made = (await apply({ ...params, edit: bare, metadata: { isRefactoring } })) as ApplyWorkspaceEditResult;
    const [first, edits] = edit.entries()[0] ?? [];
    if (!made.applied) {
      complain(l10n.t('A file changed meanwhile: nothing was written.'));
    } else if (first !== undefined) {
      const at = edits?.[0]?.range.start ?? new Position(0, 0);
      await window.showTextDocument(await workspace.openTextDocument(first), { selection: new Range(at, at) });
    }
    return made;
  }

  /** The user's answer to what is shown; does nothing where nothing is. */
  settle(make: boolean): void {
    const shown = this.current;
    this.current = undefined;
    this.tell();
    shown?.answer(make);
  }

  private async confirmed(title: string, text: string, edit: WorkspaceEdit): Promise<boolean> {
    this.settle(false);
    const contents = new Map<string, string>();
    const rows = await Promise.all(edit.entries().map(([uri, edits]) => this.row(uri, edits, contents)));
    const make = await new Promise<boolean>((answer) => {
      this.current = { title, contents, answer };
      this.tell();
      void commands.executeCommand('vscode.changes', title, rows);
      void this.offer(text);
    });
    await window.tabGroups.close(window.tabGroups.all.flatMap((group) => group.tabs.filter(isOf(title))));
    return make;
  }

  private async row(uri: Uri, edits: readonly TextEdit[], contents: Map<string, string>): Promise<Row> {
    const shown = Uri.from({ scheme: SCHEME, path: uri.path, query: String(++this.count) });
    const there = await exists(uri);
    const document = there ? await workspace.openTextDocument(uri) : undefined;
    let text = document?.getText() ?? '';
    for (const { range, newText } of [...edits].sort((one, other) => other.range.start.compareTo(one.range.start))) {
      const [from, to] = document ? [document.offsetAt(range.start), document.offsetAt(range.end)] : [0, 0];
      text = text.slice(0, from) + newText + text.slice(to);
    }
    contents.set(shown.toString(), text);
    return [uri, there ? uri : undefined, shown];
  }

  private async offer(text: string): Promise<void> {
    const shown = this.current;
    const apply = l10n.t('Apply');
    const picked = await window.showInformationMessage(l10n.t('Midspan: {0}', text), apply, l10n.t('Discard'));
    if (this.current === shown && picked !== undefined) {
      this.settle(picked === apply);
    }
  }

  private tell(): void {
    void commands.executeCommand('setContext', 'midspan.previewing', this.current !== undefined);
  }
}

/** Of such a tab published extensions know its label alone: the title and how many files there are. */
function isOf(title: string): (tab: Tab) => boolean {
  return (tab) => !(tab.input instanceof TabInputText) && tab.label.startsWith(title);
}

async function exists(uri: Uri): Promise<boolean> {
  try {
    await workspace.fs.stat(uri);
    return true;
  } catch {
    return false;
  }
}
