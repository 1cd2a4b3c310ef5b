/**
 * Kernels for the PyTorch function at the cursor: asks for shapes where the server guessed them, and
 * shows the workers while they write and check.
 *
 * Rule: the server decides what is right and says so in its statement; nothing is judged here. What
 * it writes it sends as an edit to be confirmed, which is `preview`'s.
 */

import { commands, l10n, TextEditorRevealType, window } from 'vscode';
import type { CodeLens } from 'vscode';
import type { LanguageClient, Middleware } from 'vscode-languageclient/node';

import { complain, execute, executeSlowly } from './server';
import { shortened } from './units';

const RUN = 'midspan.kernel.run';
const SHAPES = 'midspan.kernel.shapes';
const EVIDENCE = 'midspan.kernel.evidence';
/** Longest text of a lens: what else it says would push the actions beside it out of sight. */
const LENS_LENGTH = 48;
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

/** What is known of a kernel now, in one line; "" where there is none. */
interface Answer {
  success: boolean;
  statement: string;
  /** Whether what was made was written; of a command that writes. */
  applied?: boolean;
}

/** All that is known of a kernel: a sentence, and a line for each check. */
interface Known {
  message: string;
}

export class Kernels {
  constructor(private readonly client: () => LanguageClient | undefined) {}

  /** Lenses with short texts; all of one is seen where the mouse rests on it. */
  readonly middleware: Pick<Middleware, 'provideCodeLenses'> = {
    provideCodeLenses: async (document, token, next) => {
      const lenses = await next(document, token);
      for (const { command } of lenses ?? []) {
        if (command !== undefined && command.title.length > LENS_LENGTH) {
          command.tooltip = command.title;
          command.title = shortened(command.title, LENS_LENGTH);
        }
      }
      return lenses;
    },
  };

  /** The commands of code actions and lenses that are run here: to be watched, or to be read. */
  readonly commands: Record<string, (args: unknown[]) => Promise<void>> = {
    [RUN]: ([place]) => this.generate(place as Place),
    'midspan.kernel.resample': (args) => this.watched('midspan.kernel.resample', args),
    'midspan.kernel.repair': (args) => this.watched('midspan.kernel.repair', args),
    'midspan.kernel.verify': (args) => this.watched('midspan.kernel.verify', args),
    [EVIDENCE]: ([kernel]) => this.explain(kernel as object),
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
      await this.generate({ uri, line: editor.selection.active.line, language: language.toLowerCase() });
    }
  }

  private async generate(place: Place): Promise<void> {
    try {
      const { name, shapes, guessed } = await execute<Shapes>(this.client(), SHAPES, [place]);
      const said = guessed ? await askShapes(name, shapes) : '';
      if (said !== undefined) {
        await this.watched(RUN, [{ ...place, shapes: said }]);
      }
    } catch (error) {
      complain(error);
    }
  }

  private async watched(command: string, args: unknown[]): Promise<void> {
    try {
      const title = l10n.t('Midspan: working on a kernel');
      const answer = await executeSlowly<Answer>(this.client(), title, command, args);
      if (answer?.success && answer.applied !== false) {
        void window.showInformationMessage(l10n.t('Midspan: {0}', answer.statement));
      } else if (answer?.success === false && answer.applied === undefined) {
        void window.showWarningMessage(l10n.t('Midspan: {0}', answer.statement));
      }
      if (answer?.applied) {
        await revealLenses();
      }
    } catch (error) {
      complain(error);
    }
  }

  /** Shows each check in a line of its own, for which a notification has no room. */
  private async explain(kernel: object): Promise<void> {
    try {
      const { message } = await execute<Known>(this.client(), EVIDENCE, [{ ...kernel, quiet: true }]);
      const [statement = '', ...checks] = message.split('\n');
      void window.showInformationMessage(statement, { modal: true, detail: checks.join('\n') });
    } catch (error) {
      complain(error);
    }
  }
}

/** Scrolls a kernel that was written to its function, where the lenses are. */
async function revealLenses(): Promise<void> {
  const editor = window.activeTextEditor;
  if (editor !== undefined) {
    const lenses = await commands.executeCommand<CodeLens[]>('vscode.executeCodeLensProvider', editor.document.uri);
    const first = lenses.find((lens) => lens.command?.command === EVIDENCE);
    if (first !== undefined) {
      editor.revealRange(first.range, TextEditorRevealType.InCenter);
    }
  }
}

async function askShapes(name: string, shapes: string): Promise<string | undefined> {
  return window.showInputBox({
    title: l10n.t('Midspan: the shapes of {0}', name),
    prompt: l10n.t('Nobody wrote them down: these are a guess. A name stands for any size, the same name for the same size.'),
    value: shapes,
    ignoreFocusOut: true,
  });
}
