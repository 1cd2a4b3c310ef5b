/** What the rest of the extension asks of the running server. */

import { l10n, ProgressLocation, window } from 'vscode';
import type { CancellationToken } from 'vscode';
import { ExecuteCommandRequest, WorkDoneProgress } from 'vscode-languageclient/node';
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
  if (!client?.isRunning()) {
    throw new Error(l10n.t('The language server is not running.'));
  }
  const params = { command, arguments: args, ...(workDoneToken === undefined ? {} : { workDoneToken }) };
  return token === undefined
    ? client.sendRequest(ExecuteCommandRequest.type, params)
    : client.sendRequest(ExecuteCommandRequest.type, params, token);
}

/**
 * The same, in a notification with what the server says of its progress, and with a button that
 * stops it; undefined when it was stopped. Progress that the server begins by itself VS Code hides
 * in the status bar, with no button.
 */
export async function executeSlowly<T>(
  client: LanguageClient | undefined,
  title: string,
  command: string,
  args: unknown[],
): Promise<T | undefined> {
  const location = ProgressLocation.Notification;
  return window.withProgress({ location, title, cancellable: true }, async (shown, cancel) => {
    const token = `midspan-vscode-${++watched}`;
    let percentage = 0;
    const listener = client?.onProgress(WorkDoneProgress.type, token, (step) => {
      const message = step.message === undefined ? {} : { message: step.message };
      if (step.kind === 'end' || step.percentage === undefined) {
        shown.report(message);
        return;
      }
      shown.report({ ...message, increment: Math.max(0, step.percentage - percentage) });
      percentage = Math.max(percentage, step.percentage);
    });
    try {
      return await execute<T>(client, command, args, cancel, token);
    } catch (error) {
      if (cancel.isCancellationRequested) {
        return undefined;
      }
      throw error;
    } finally {
      listener?.dispose();
    }
  });
}

/** Whether the server offers a command: what it lacks is not shown. */
export function offers(client: LanguageClient | undefined, command: string): boolean {
  return client?.initializeResult?.capabilities.executeCommandProvider?.commands.includes(command) ?? false;
}

/** Shows what went wrong; the text is a sentence for the user. */
export function complain(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  void window.showErrorMessage(l10n.t('Midspan: {0}', text));
}
