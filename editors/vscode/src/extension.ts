/** Where the extension starts: makes the parts, and says which command is whose. */

import { commands, l10n, window, workspace } from 'vscode';
import type { ExtensionContext } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { isServed, makeClient } from './client';
import { Edits } from './edit';
import { findServer, offerInstall } from './install';
import { Kernels } from './kernels';
import { Latency } from './latency';
import { showMenu, toggle } from './menu';
import { addModel, chooseModel, getModel } from './models';
import { Previews } from './preview';
import { openSample } from './sample';
import { StatusItem } from './statusItem';
import type { ServerStatus } from './statusText';
import { Suggestions } from './suggestions';
import { Supervisor } from './supervisor';
import type { Connection, Phase } from './supervisor';

// Installing goes on in a terminal: that the command is there now is noticed by looking.
const LOOK_AGAIN_MS = 3000;

let supervisor: Supervisor<string> | undefined;

export function activate(context: ExtensionContext): void {
  const log = window.createOutputChannel('Midspan', { log: true });
  const latency = new Latency();
  const item = new StatusItem(latency);
  const suggestions = new Suggestions(latency, () => item.update());
  const previews = new Previews();
  const kernels = new Kernels(() => client);
  let client: LanguageClient | undefined;
  let looking: NodeJS.Timeout | undefined;

  const report = (phase: Phase): void => {
    item.setPhase(phase);
    log.info(`language server: ${JSON.stringify(phase)}`);
    void commands.executeCommand('setContext', 'midspan.running', phase.name === 'running');
    clearInterval(looking);
    if (phase.name === 'missing') {
      looking = setInterval(() => void lookAgain(servers), LOOK_AGAIN_MS);
      void offerInstallOnce(context);
    } else if (phase.name === 'failed') {
      void sayFailed(phase.reason);
    }
  };

  const connect = (command: string, closed: () => void): Connection => {
    log.info(`starting ${command}`);
    const shown = { ...suggestions.middleware, ...kernels.middleware };
    const made = makeClient(command, log, shown, kernels.commands, previews, closed);
    made.onNotification('midspan/status', (status: ServerStatus) => {
      if (client === made) {
        item.setStatus(status);
      }
    });
    client = suggestions.client = made;
    return {
      start: async () => {
        await made.start();
        focused(made);
      },
      stop: async () => {
        // A client whose server is gone refuses to stop.
        await made.dispose().catch((error: unknown) => log.debug(String(error)));
      },
    };
  };

  const servers = new Supervisor<string>({ locate: findServer, connect, report });
  supervisor = servers;
  const edits = new Edits(() => client);
  const table: Record<string, () => unknown> = {
    'midspan.showMenu': () => showMenu(item.phase.name === 'running'),
    'midspan.chooseModel': () => chooseModel(client),
    'midspan.getModel': () => getModel(client),
    'midspan.addModelFromDisk': () => addModel(client),
    'midspan.toggleEverywhere': () => toggle(client, 'all', log),
    'midspan.toggleLanguage': () => toggle(client, 'language', log),
    'midspan.toggleFile': () => toggle(client, 'document', log),
    'midspan.fillHere': () => codeAction('refactor.rewrite.fill'),
    'midspan.completeFunction': () => codeAction('refactor.rewrite.body'),
    'midspan.generateKernel': () => kernels.generateHere(),
    'midspan.applyPreview': () => previews.settle(true),
    'midspan.discardPreview': () => previews.settle(false),
    'midspan.editSelection': () => edits.ask(),
    'midspan.applyEdit': () => edits.apply(),
    'midspan.discardEdit': () => edits.discard(),
    'midspan.installServer': () => offerInstall(),
    'midspan.restartServer': () => servers.restart(),
    'midspan.openSample': () => openSample(),
    'midspan.showLog': () => log.show(),
  };
  for (const [name, run] of Object.entries(table)) {
    context.subscriptions.push(commands.registerCommand(name, run));
  }
  context.subscriptions.push(
    log,
    item,
    suggestions,
    edits,
    previews,
    { dispose: () => clearInterval(looking) },
    window.onDidChangeActiveTextEditor(() => focused(client)),
    workspace.onDidGrantWorkspaceTrust(() => item.phase.name === 'missing' && servers.restart()),
    workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration('midspan.server')) {
        void servers.restart();
      }
    }),
  );
  void servers.restart();
}

export async function deactivate(): Promise<void> {
  await supervisor?.stop();
}

/** Runs the server's code action of this kind at the cursor; VS Code says so where there is none. */
async function codeAction(kind: string): Promise<void> {
  await commands.executeCommand('editor.action.codeAction', { kind, apply: 'first' });
}

/** Has the document that the user turned to made ready. */
function focused(client: LanguageClient | undefined): void {
  const document = window.activeTextEditor?.document;
  if (client?.isRunning() && document !== undefined && isServed(document)) {
    const params = { textDocument: { uri: client.code2ProtocolConverter.asUri(document.uri) } };
    client.sendNotification('textDocument/didFocus', params).catch(() => undefined);
  }
}

async function lookAgain(servers: Supervisor<string>): Promise<void> {
  if ((await findServer()) !== undefined) {
    await servers.restart();
  }
}

async function offerInstallOnce(context: ExtensionContext): Promise<void> {
  if (!context.globalState.get('offeredInstall', false)) {
    await context.globalState.update('offeredInstall', true);
    await offerInstall();
  }
}

async function sayFailed(reason: string): Promise<void> {
  const again = l10n.t('Start it again');
  const show = l10n.t('Show the log');
  const text = l10n.t('Midspan: the language server ended several times in a row. {0}', reason);
  const answer = await window.showErrorMessage(text, again, show);
  if (answer === again) {
    await supervisor?.restart();
  } else if (answer === show) {
    await commands.executeCommand('midspan.showLog');
  }
}
