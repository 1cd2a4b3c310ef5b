/** The language client: which documents, which settings, and what a failure looks like. */

import { languages, l10n, window, workspace } from 'vscode';
import type { CancellationToken as Cancellation, LogOutputChannel, TextDocument } from 'vscode';
import {
  CancellationToken,
  CloseAction,
  ErrorAction,
  LanguageClient,
  LSPErrorCodes,
  ResponseError,
  RevealOutputChannelOn,
} from 'vscode-languageclient/node';
import type { LanguageClientOptions, MessageSignature, Middleware } from 'vscode-languageclient/node';

import type { Previews } from './preview';
import { SECTION, explicitSettings, own } from './settings';

/** Schemes of documents that people write in, wherever they are. */
const SCHEMES = ['file', 'untitled', 'vscode-notebook-cell', 'vscode-vfs', 'vscode-remote'];

export type CompletionMiddleware = Pick<Middleware, 'provideInlineCompletionItems'>;
type Shown = CompletionMiddleware & Pick<Middleware, 'provideCodeLenses'>;

/** Commands of the server's that are run here instead, by their names. */
export type TakenOver = Readonly<Record<string, (args: unknown[]) => Promise<void>>>;

/** Whether the server is told of this document. */
export function isServed(document: TextDocument): boolean {
  return languages.match(selector(), document) > 0;
}

export function makeClient(
  command: string,
  log: LogOutputChannel,
  shown: Shown,
  takenOver: TakenOver,
  previews: Previews,
  closed: () => void,
): LanguageClient {
  const options: LanguageClientOptions = {
    documentSelector: selector(),
    outputChannel: log,
    revealOutputChannelOn: RevealOutputChannelOn.Never,
    errorHandler: {
      error: () => ({ action: ErrorAction.Continue, handled: true }),
      closed: () => {
        closed(); // starting it again is the supervisor's
        return { action: CloseAction.DoNotRestart, handled: true };
      },
    },
    initializationFailedHandler: () => false,
    middleware: {
      ...shown,
      executeCommand: (name, args, next) => takenOver[name]?.(args) ?? next(name, args),
      workspace: {
        handleApplyEdit: (params, next) => previews.apply(client, params, (edit) => next(edit, CancellationToken.None)),
        configuration: (params, token, next) => {
          const values = next(params, token);
          return Array.isArray(values)
            ? values.map((value, at) => (params.items[at]?.section === SECTION ? explicitSettings() : value))
            : values;
        },
        didChangeConfiguration: () =>
          client.sendNotification('workspace/didChangeConfiguration', {
            settings: { [SECTION]: explicitSettings() },
          }),
      },
    },
  };
  const server = {
    command,
    args: ['lsp'],
    options: { env: { ...process.env, MIDSPAN_LOG: own('server.logLevel', 'warning') } },
  };
  const client = new MidspanClient(SECTION, 'Midspan', server, options);
  return client;
}

function selector(): { scheme: string }[] {
  const folders = (workspace.workspaceFolders ?? []).map((folder) => folder.uri.scheme);
  return [...new Set([...SCHEMES, ...folders])].map((scheme) => ({ scheme }));
}

class MidspanClient extends LanguageClient {
  /** Failures go to the log; what the user must know, the supervisor and the commands tell. */
  override error(message: string, data?: unknown): void {
    super.error(message, data, false);
  }

  /** A refusal says in its message what is wrong and what to do: that is shown, no stack trace. */
  override handleFailedRequest<T>(
    type: MessageSignature,
    token: Cancellation | undefined,
    error: unknown,
    defaultValue: T,
    showNotification?: boolean,
    throwOnCancel?: boolean,
  ): T {
    if (error instanceof ResponseError && error.code === LSPErrorCodes.RequestFailed) {
      if (!token?.isCancellationRequested) {
        void window.showInformationMessage(l10n.t('Midspan: {0}', error.message));
      }
      return defaultValue;
    }
    return super.handleFailedRequest(type, token, error, defaultValue, showNotification, throwOnCancel);
  }
}
