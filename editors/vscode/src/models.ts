/** The quick pick of models: switch, add one from disk, and on to those that can be downloaded. */

import { l10n, QuickPickItemKind, window } from 'vscode';
import type { QuickPickItem } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { DOWNLOAD, downloadModel } from './downloads';
import { complain, execute, offers } from './server';
import { size } from './units';

const ADD = 'midspan.addModel';

/** What of a row of `midspan.listModels` is shown. */
interface Model {
  name: string;
  state: string;
  size_bytes: number;
  quantisation: string;
  no_fim_reason: string;
  problem: string;
}

interface Listing {
  models: Model[];
  current: string;
}

interface Entry extends QuickPickItem {
  run?: () => Promise<void>;
}

/** Lets the user choose a model, and switches to it. */
export async function chooseModel(client: LanguageClient | undefined): Promise<void> {
  try {
    const listing = await execute<Listing>(client, 'midspan.listModels');
    const picked = await window.showQuickPick(entries(client, listing), {
      title: l10n.t('Midspan: model'),
      placeHolder: l10n.t('The model that completes, in all windows'),
      matchOnDescription: true,
      matchOnDetail: true,
    });
    await picked?.run?.();
  } catch (error) {
    complain(error);
  }
}

/** Lets the user pick a GGUF file or a folder with a model, and adds it. */
export async function addModel(client: LanguageClient | undefined): Promise<void> {
  const [file, folder] = [l10n.t('A GGUF file'), l10n.t('A folder with safetensors or MLX weights')];
  const title = l10n.t('Midspan: add a model');
  const kind = await window.showQuickPick([file, folder], { title });
  if (kind === undefined) {
    return;
  }
  const found = await window.showOpenDialog({
    title,
    canSelectFiles: kind === file,
    canSelectFolders: kind === folder,
    openLabel: l10n.t('Add'),
    ...(kind === file ? { filters: { GGUF: ['gguf'] } } : {}),
  });
  const place = found?.[0];
  if (place === undefined) {
    return;
  }
  try {
    const added = await execute<Model>(client, ADD, [{ path: place.fsPath }]);
    await offerUse(client, added.name, l10n.t('Midspan: {0} was added.', added.name));
  } catch (error) {
    complain(error);
  }
}

function entries(client: LanguageClient | undefined, listing: Listing): Entry[] {
  const models = listing.models.map((model): Entry => {
    const detail = model.problem || model.no_fim_reason;
    return {
      label: `$(${model.name === listing.current ? 'check' : 'blank'}) ${model.name}`,
      description: [model.state, model.quantisation, size(model.size_bytes)].filter(Boolean).join(' · '),
      ...(detail ? { detail } : {}),
      run: () => select(client, model.name),
    };
  });
  const more: [string, string, () => Promise<void>][] = [
    [DOWNLOAD, `$(cloud-download) ${l10n.t('Download a model…')}`, () => getModel(client)],
    [ADD, `$(add) ${l10n.t('Add a model from disk…')}`, () => addModel(client)],
  ];
  const offered = more.filter(([command]) => offers(client, command)).map(([, label, run]) => ({ label, run }));
  return [...models, { label: '', kind: QuickPickItemKind.Separator }, ...offered];
}

/** Lets the user download a model, and offers to use it. */
export async function getModel(client: LanguageClient | undefined): Promise<void> {
  try {
    const name = await downloadModel(client);
    if (name !== undefined) {
      await offerUse(client, name, l10n.t('Midspan: {0} is on this machine.', name));
    }
  } catch (error) {
    complain(error);
  }
}

async function offerUse(client: LanguageClient | undefined, name: string, text: string): Promise<void> {
  const use = l10n.t('Use it now');
  if ((await window.showInformationMessage(text, use)) === use) {
    await select(client, name);
  }
}

async function select(client: LanguageClient | undefined, name: string): Promise<void> {
  await execute(client, 'midspan.selectModel', [name]);
}
