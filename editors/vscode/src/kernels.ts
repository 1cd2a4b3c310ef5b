/**
 * Kernels for the PyTorch function at the cursor: asks for shapes where the server guessed them,
 * shows the workers while they write and check, then the files, and writes those that the user wants.
 *
 * Rule: the server decides what is right and says so in its statement; nothing is judged here.
 */

import { l10n, window, workspace } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';
import type { WorkspaceEdit } from 'vscode-languageclient/node';

import type { Previews } from './preview';
import { complain, execute, executeSlowly } from './server';

const GENERATE = 'midspan.kernel.generate';
const SHAPES = 'midspan.kernel.shapes';
const LANGUAGES = ['Triton', 'C', 'Numba', 'CUDA'];

/** Where the function is: any line of it, counted from 0. */
interface Place {
  uri: string;
  line: number;
  language: string;
  shapes?: string;
}

interface Shapes {
  name: string;
  /** As people write them: "x: (N, 128) float16". */
  shapes: string;
  /** Nobody wrote them down. */
  guessed: boolean;
}

/** What generating came to. */
interface Outcome {
  success: boolean;
  name: string;
  message: string;
  /** What is known of the kernel, in one line. */
  statement: string;
  files: { uri: string; text: string }[];
  edit?: WorkspaceEdit | null;
}

export class Kernels {
  constructor(
    private readonly client: () => LanguageClient | undefined,
    private readonly previews: Previews,
  ) {}

  /** Commands of code actions and lenses that take long: they are run here, to be watched. */
  readonly commands: Record<string, (args: unknown[]) => Promise<void>> = {
    'midspan.kernel.run': ([place]) => this.report(() => this.generate(place as Place)),
    'midspan.kernel.resample': (args) => this.again('midspan.kernel.resample', args),
    'midspan.kernel.repair': (args) => this.again('midspan.kernel.repair', args),
    'midspan.kernel.verify': (args) => this.report(() => this.verify(args)),
  };

  /** Generates one for the function at the cursor, in a language that is asked for. */
  async generateHere(): Promise<void> {
    const editor = window.activeTextEditor;
    const client = this.client();
    if (editor === undefined || client === undefined) {
      complain(l10n.t('There is no function here.'));
      return;
    }
    const title = l10n.t('Midspan: generate a kernel');
    const language = await window.showQuickPick(LANGUAGES, { title, placeHolder: l10n.t('What it is written in') });
    if (language !== undefined) {
      const uri = client.code2ProtocolConverter.asUri(editor.document.uri);
      const line = editor.selection.active.line;
      await this.report(() => this.generate({ uri, line, language: language.toLowerCase() }));
    }
  }

  private async generate(place: Place): Promise<void> {
    const shapes = place.shapes ?? (await this.askShapes(place));
    if (shapes !== undefined) {
      const title = l10n.t('Midspan: generating a kernel');
      await this.show(await executeSlowly<Outcome>(this.client(), title, GENERATE, [{ ...place, shapes }]));
    }
  }

  /** The shapes to generate for, "" where the server knows them; undefined where the user left. */
  private async askShapes(place: Place): Promise<string | undefined> {
    const { name, shapes, guessed } = await execute<Shapes>(this.client(), SHAPES, [place]);
    if (!guessed) {
      return '';
    }
    return window.showInputBox({
      title: l10n.t('Midspan: the shapes of {0}', name),
      prompt: l10n.t('Nobody wrote them down: these are a guess. A name stands for any size, the same name for the same size.'),
      value: shapes,
      ignoreFocusOut: true,
    });
  }

  private again(command: string, [first]: unknown[]): Promise<void> {
    const title = l10n.t('Midspan: generating a kernel');
    const args = [{ ...(first as object), apply: false }];
    return this.report(async () => this.show(await executeSlowly<Outcome>(this.client(), title, command, args)));
  }

  private async verify(args: unknown[]): Promise<void> {
    const title = l10n.t('Midspan: verifying the kernel');
    const answer = await executeSlowly<{ statement?: string }>(this.client(), title, 'midspan.kernel.verify', args);
    if (answer?.statement) {
      void window.showInformationMessage(l10n.t('Midspan: {0}', answer.statement));
    }
  }

  /** Shows the files; undefined is an outcome that the user did not wait for. */
  private async show(outcome: Outcome | undefined): Promise<void> {
    if (outcome === undefined) {
      return;
    }
    const converter = this.client()?.protocol2CodeConverter;
    // Its annotations ask for a confirmation, which the preview is: without them there is one.
    const edit = await converter?.asWorkspaceEdit({ documentChanges: outcome.edit?.documentChanges ?? [] });
    if (converter === undefined || edit === undefined || outcome.files.length === 0) {
      complain(outcome.message);
      return;
    }
    const files = outcome.files.map(({ uri, text }) => ({ uri: converter.asUri(uri), text }));
    if (!outcome.success) {
      const look = l10n.t('Show the best attempt');
      if ((await window.showWarningMessage(l10n.t('Midspan: {0}', outcome.message), look)) !== look) {
        return;
      }
    }
    const title = l10n.t('A kernel for {0}', outcome.name);
    const text = l10n.t('Midspan: {0}', outcome.statement || outcome.message);
    if ((await this.previews.ask(title, text, l10n.t('Write the files'), files, edit)) && files[0]) {
      await window.showTextDocument(await workspace.openTextDocument(files[0].uri));
    }
  }

  private async report(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      complain(error);
    }
  }
}
