/** Shows files as they would be written, beside what they are; they are written or not afterwards. */

import { commands, Disposable, FileType, l10n, Uri, window, workspace } from 'vscode';
import type { Tab, WorkspaceEdit } from 'vscode';

export const SCHEME = 'midspan-preview';

export interface NewFile {
  uri: Uri;
  text: string;
}

interface Shown {
  title: string;
  /** By the address that stands for the file in the preview. */
  contents: Map<string, string>;
  answer: (write: boolean) => void;
}

export class Previews implements Disposable {
  private current: Shown | undefined;
  private count = 0;
  private readonly disposables = [
    workspace.registerTextDocumentContentProvider(SCHEME, {
      provideTextDocumentContent: (uri) => this.current?.contents.get(uri.toString()) ?? '',
    }),
    window.tabGroups.onDidChangeTabs(({ closed }) => {
      if (closed.some((tab) => tab.label === this.current?.title)) {
        this.settle(false);
      }
    }),
  ];

  dispose(): void {
    this.settle(false);
    Disposable.from(...this.disposables).dispose();
  }

  /**
   * Shows the files and applies `edit` if the user says so; answers whether it was applied.
   * `text` says what they are; `button` what applying is called.
   */
  async ask(title: string, text: string, button: string, files: NewFile[], edit: WorkspaceEdit): Promise<boolean> {
    this.settle(false);
    const contents = new Map<string, string>();
    const rows = await Promise.all(files.map(async (file) => this.row(file, contents)));
    const write = await new Promise<boolean>((answer) => {
      this.current = { title, contents, answer };
      this.tell();
      void commands.executeCommand('vscode.changes', title, rows);
      void this.offer(text, button);
    });
    await window.tabGroups.close(tabs(title));
    return write && workspace.applyEdit(edit, { isRefactoring: true });
  }

  /** The user's answer to what is shown; none where nothing is. */
  settle(write: boolean): void {
    const shown = this.current;
    this.current = undefined;
    this.tell();
    shown?.answer(write);
  }

  private async row(file: NewFile, contents: Map<string, string>): Promise<[Uri, Uri | undefined, Uri]> {
    const shown = Uri.from({ scheme: SCHEME, path: file.uri.path, query: String(++this.count) });
    contents.set(shown.toString(), file.text);
    return [file.uri, (await exists(file.uri)) ? file.uri : undefined, shown];
  }

  private async offer(text: string, button: string): Promise<void> {
    const shown = this.current;
    const picked = await window.showInformationMessage(text, button, l10n.t('Discard'));
    if (this.current === shown && picked !== undefined) {
      this.settle(picked === button);
    }
  }

  private tell(): void {
    void commands.executeCommand('setContext', 'midspan.previewing', this.current !== undefined);
  }
}

function tabs(title: string): Tab[] {
  return window.tabGroups.all.flatMap((group) => group.tabs).filter((tab) => tab.label === title);
}

async function exists(uri: Uri): Promise<boolean> {
  try {
    return (await workspace.fs.stat(uri)).type !== FileType.Directory;
  } catch {
    return false;
  }
}
