/** What the rest of the extension asks of the running server. */

import { l10n, window } from 'vscode';
import type { CancellationToken } from 'vscode';
import { ExecuteCommandRequest } from 'vscode-languageclient/node';
import type { LanguageClient } from 'vscode-languageclient/node';

/** Runs a command of the server's; rejects with the server's sentence for the user. */
export async function execute<T>(
  client: LanguageClient | undefined,
  command: string,
  args: unknown[] = [],
  token?: CancellationToken,
): Promise<T> {
  if (!client?.isRunning()) {
    throw new Error(l10n.t('The language server is not running.'));
  }
  const params = { command, arguments: args };
  return token === undefined
    ? client.sendRequest(ExecuteCommandRequest.type, params)
    : client.sendRequest(ExecuteCommandRequest.type, params, token);
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
