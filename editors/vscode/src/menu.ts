/** What a click on the status item offers. */

import { commands, l10n, window } from 'vscode';
import type { LogOutputChannel } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { complain, execute } from './server';

interface Toggled {
  scope: string;
  enabled: boolean;
}

export async function showMenu(running: boolean): Promise<void> {
  const editor = window.activeTextEditor;
  const language = editor?.document.languageId ?? '';
  const rows: [string, string, boolean][] = [
    ['$(cloud-download) ' + l10n.t('Install the language server…'), 'midspan.installServer', !running],
    ['$(server) ' + l10n.t('Choose a model…'), 'midspan.chooseModel', running],
    ['$(cloud-download) ' + l10n.t('Download a model…'), 'midspan.getModel', running],
    ['$(sparkle) ' + l10n.t('Fill in here'), 'midspan.fillHere', running && editor !== undefined],
    ['$(symbol-function) ' + l10n.t('Complete this function body'), 'midspan.completeFunction', running && editor !== undefined],
    ['$(zap) ' + l10n.t('Generate a kernel for this function…'), 'midspan.generateKernel', running && language === 'python'],
    ['$(edit) ' + l10n.t('Edit the selection…'), 'midspan.editSelection', running && editor !== undefined],
    ['$(circle-slash) ' + l10n.t('Switch suggestions on or off'), 'midspan.toggleEverywhere', running],
    ['$(code) ' + l10n.t('Switch them on or off for {0}', language), 'midspan.toggleLanguage', running && language !== ''],
    ['$(file) ' + l10n.t('Switch them on or off in this file'), 'midspan.toggleFile', running && editor !== undefined],
    ['$(gear) ' + l10n.t('Settings'), 'workbench.action.openSettings', true],
    ['$(output) ' + l10n.t('Show the log'), 'midspan.showLog', true],
    ['$(debug-restart) ' + l10n.t('Restart the language server'), 'midspan.restartServer', true],
  ];
  const items = rows.filter(([, , shown]) => shown).map(([label, command]) => ({ label, command }));
  const picked = await window.showQuickPick(items, { title: 'Midspan' });
  if (picked !== undefined) {
    const query = picked.command === 'workbench.action.openSettings' ? ['@ext:midspan.midspan'] : [];
    await commands.executeCommand(picked.command, ...query);
  }
}

/** Switches suggestions everywhere, for the editor's language or in its file; says how it is now. */
export async function toggle(
  client: LanguageClient | undefined,
  scope: 'all' | 'language' | 'document',
  log: LogOutputChannel,
): Promise<void> {
  const document = window.activeTextEditor?.document;
  const names = { all: '', language: document?.languageId, document: document?.uri.toString() };
  const name = names[scope];
  if (name === undefined) {
    return;
  }
  try {
    const { enabled } = await execute<Toggled>(client, 'midspan.toggle', scope === 'all' ? [] : [scope, name]);
    const where = { all: l10n.t('everywhere'), language: name, document: l10n.t('in this file') }[scope];
    const text = enabled
      ? l10n.t('Midspan: suggestions are on ({0})', where)
      : l10n.t('Midspan: suggestions are off ({0})', where);
    window.setStatusBarMessage(text, 4000);
    log.info(text);
  } catch (error) {
    complain(error);
  }
}
