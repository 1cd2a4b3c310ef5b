/** Finds the server's command, and offers to install it: in a terminal, where one sees it happen. */

import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

import { commands, l10n, window, workspace } from 'vscode';

import { candidates } from './locate';
import { own } from './settings';

const UV = 'uv tool install "midspan[llama-cpp]"';
const PIPX = 'pipx install "midspan[llama-cpp]"';

/** The command to start, undefined where there is none. */
export async function findServer(): Promise<string | undefined> {
  const folders = (workspace.workspaceFolders ?? []).map((folder) => folder.uri.fsPath);
  const places = candidates({
    platform: process.platform,
    home: homedir(),
    env: process.env,
    configured: own('server.path', ''),
    untrusted: workspace.isTrusted ? [] : folders,
  });
  for (const place of places) {
    if (await isExecutable(place)) {
      return place;
    }
  }
  return undefined;
}

/** Offers what can install the server here, if it isn't; nothing is run before the user chose it. */
export async function offerInstall(): Promise<void> {
  const found = await findServer();
  if (found !== undefined) {
    void window.showInformationMessage(l10n.t('Midspan: the language server is installed: {0}', found));
    return;
  }
  const byUv = l10n.t('Install with uv');
  const byPipx = l10n.t('Install with pipx');
  const setPath = l10n.t('Say where it is');
  const tools = [(await onPath('uv')) && byUv, (await onPath('pipx')) && byPipx].filter((tool) => tool !== false);
  const text = tools.length
    ? l10n.t('Midspan: the command midspan was not found. It can be installed in a terminal.')
    : l10n.t('Midspan: the command midspan was not found. Install uv or pipx first, or say where midspan is.');
  const answer = await window.showWarningMessage(text, ...tools, setPath);
  if (answer === setPath) {
    await commands.executeCommand('workbench.action.openSettings', 'midspan.server.path');
  } else if (answer !== undefined) {
    const terminal = window.createTerminal('Midspan');
    terminal.show();
    terminal.sendText(answer === byUv ? UV : PIPX);
  }
}

async function onPath(tool: string): Promise<boolean> {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const found = await Promise.all(folders.map((folder) => isExecutable(join(folder, tool + suffix))));
  return found.includes(true);
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
