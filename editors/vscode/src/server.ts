/** What the rest of the extension asks of the running server. */

import { commands, l10n, ProgressLocation, window } from 'vscode';
import type { CancellationToken, Disposable, Progress } from 'vscode';
import { ErrorCodes, ExecuteCommandRequest, ResponseError, WorkDoneProgress } from 'vscode-languageclient/node';
import type { LanguageClient } from 'vscode-languageclient/node';

let watched = 0;

/** Runs a command of the server's; rejects with the server's sentence for the user. */
export async function execute<T>(
  client: LanguageClient | undefined,
  command: string,
  args: unknown[] = [],
  token?: CancellationToken,
  workDoneToken?: string,
): Promise<T> {
  const params = { command, arguments: args, ...(workDoneToken === undefined ? {} : { workDoneToken }) };
  return token === undefined
    ? running(client).sendRequest(ExecuteCommandRequest.type, params)
    : running(client).sendRequest(ExecuteCommandRequest.type, params, token);
}

/**
 * The same, in a notification with what the server says of its progress, and with a button that
 * stops it; undefined when it was stopped. The notification goes when the server says that the work
 * is done, which may be before it answers. Progress that the server begins by itself VS Code hides in
 * the status bar, with no button.
 */
export async function executeSlowly<T>(
  client: LanguageClient | undefined,
  title: string,
  command: string,
  args: unknown[],
): Promise<T | undefined> {
  const serving = running(client);
  return new Promise((resolve, reject) => {
    const options = { location: ProgressLocation.Notification, title, cancellable: true };
    void window.withProgress(options, async (shown, cancel) => {
      const token = `midspan-vscode-${++watched}`;
      const progress = watch(serving, token, shown);
      const answered = execute<T>(serving, command, args, cancel, token);
      answered.then(resolve, (error: unknown) => (cancel.isCancellationRequested ? resolve(undefined) : reject(error)));
      await Promise.race([progress.ended, answered]).catch(() => undefined);
      progress.dispose();
    });
  });
}

interface Watched extends Disposable {
  ended: Promise<void>;
}

/** Shows the server's progress under `token`. */
function watch(client: LanguageClient, token: string, shown: Progress<{ message?: string; increment?: number }>): Watched {
  let [percentage, end] = [0, (): void => undefined];
  const ended = new Promise<void>((resolve) => (end = resolve));
  const listener = client.onProgress(WorkDoneProgress.type, token, (step) => {
    if (step.kind === 'end') {
      end();
      return;
    }
    const reached = Math.max(percentage, step.percentage ?? 0);
    const message = [step.percentage === undefined ? '' : `${reached} %`, step.message].filter(Boolean).join(' · ');
    shown.report({ message, increment: reached - percentage });
    percentage = reached;
  });
  return { ended, dispose: () => listener.dispose() };
}

function running(client: LanguageClient | undefined): LanguageClient {
  if (!client?.isRunning()) {
    throw new Error(l10n.t('The language server is not running.'));
  }
  return client;
}

/** Whether the server offers a command: what it lacks is not shown. */
export function offers(client: LanguageClient | undefined, command: string): boolean {
  return client?.initializeResult?.capabilities.executeCommandProvider?.commands.includes(command) ?? false;
}

/** Shows what went wrong; the text is a sentence for the user. What a model cannot do, another may. */
export function complain(error: unknown): void {
  const gone = error instanceof ResponseError && error.code === ErrorCodes.PendingResponseRejected;
  const said = error instanceof Error ? error.message : String(error);
  const text = gone ? l10n.t('The language server ended, and starts again. Ask once more.') : said;
  const others = [
    { title: l10n.t('Choose a model…'), command: 'midspan.chooseModel' },
    { title: l10n.t('Download a model…'), command: 'midspan.getModel' },
  ];
  void window.showErrorMessage(l10n.t('Midspan: {0}', text), ...(isUnsupported(error) ? others : [])).then((picked) => {
    if (picked !== undefined) {
      void commands.executeCommand(picked.command);
    }
  });
}

/** Whether it is the model that has no such thing. */
function isUnsupported(error: unknown): boolean {
  const data: unknown = error instanceof ResponseError ? error.data : undefined;
  return typeof data === 'object' && data !== null && 'kind' in data && data.kind === 'unsupported';
}
