/** Models that can be downloaded: which suit this machine, and fetching one. */

import { l10n, QuickPickItemKind, window } from 'vscode';
import type { QuickPickItem } from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

import { execute, executeSlowly } from './server';
import { size } from './units';

export const DOWNLOAD = 'midspan.downloadModel';

/** What of a model of `midspan.downloadable` is shown. */
interface Downloadable {
  name: string;
  licence: string;
  note: string;
  downloaded: boolean;
  quantisation: string;
  size_bytes: number;
  fits: 'yes' | 'tight' | 'no';
  why: string;
}

interface Catalogue {
  models: Downloadable[];
  recommended: string;
}

/** What the server is asked for. */
type Wanted = { model: string } | { repository: string; quantisation?: string };

interface Entry extends QuickPickItem {
  model?: Downloadable;
}

const ICONS = { yes: 'pass', tight: 'warning', no: 'circle-slash' };

/** Has the user choose a model and downloads it; answers its name, undefined where they left it. */
export async function downloadModel(client: LanguageClient | undefined): Promise<string | undefined> {
  const catalogue = await execute<Catalogue>(client, 'midspan.downloadable');
  const elsewhere: Entry = { label: `$(repo) ${l10n.t('Another repository of Hugging Face…')}` };
  const separator: Entry = { label: '', kind: QuickPickItemKind.Separator };
  const picked = await window.showQuickPick([...entries(catalogue), separator, elsewhere], {
    title: l10n.t('Midspan: download a model'),
    placeHolder: l10n.t('What suits this machine stands first'),
    matchOnDescription: true,
    matchOnDetail: true,
  });
  if (picked?.model?.downloaded) {
    return picked.model.name;
  }
  const wanted = picked === elsewhere ? await askRepository() : await confirmed(picked?.model);
  if (wanted === undefined) {
    return undefined;
  }
  const name = 'model' in wanted ? wanted.model : wanted.repository;
  const title = l10n.t('Midspan: downloading {0}', name);
  const row = await executeSlowly<{ name: string }>(client, title, DOWNLOAD, [wanted]);
  if (row === undefined) {
    const text = l10n.t('Midspan: the download of {0} was stopped. Asked for again, it goes on from there.', name);
    void window.showInformationMessage(text);
  }
  return row?.name;
}

function entries({ models, recommended }: Catalogue): Entry[] {
  const rank = (model: Downloadable): number =>
    model.name === recommended ? 0 : 1 + ['yes', 'tight', 'no'].indexOf(model.fits);
  return [...models]
    .sort((one, other) => rank(one) - rank(other))
    .map((model) => {
      const icon = model.downloaded ? 'check' : model.name === recommended ? 'star-full' : ICONS[model.fits];
      const state = model.downloaded ? l10n.t('downloaded') : model.name === recommended ? l10n.t('recommended') : '';
      const facts = [state, size(model.size_bytes), model.quantisation, model.licence];
      const detail = [model.why, model.note].filter(Boolean).join(' ');
      return {
        label: `$(${icon}) ${model.name}`,
        description: facts.filter(Boolean).join(' · '),
        ...(detail ? { detail } : {}),
        model,
      };
    });
}

async function confirmed(model: Downloadable | undefined): Promise<Wanted | undefined> {
  if (model?.fits === 'no') {
    const go = l10n.t('Download');
    const text = l10n.t('{0} does not fit this machine. Download it nevertheless?', model.name);
    if ((await window.showWarningMessage(text, { modal: true, detail: model.why }, go)) !== go) {
      return undefined;
    }
  }
  return model && { model: model.name };
}

async function askRepository(): Promise<Wanted | undefined> {
  const text = await window.showInputBox({
    title: l10n.t('Midspan: download a model'),
    prompt: l10n.t('A repository with GGUF, safetensors or MLX weights, and a quantisation if you want a certain one.'),
    placeHolder: 'owner/name:Q4_K_M',
    ignoreFocusOut: true,
    validateInput: (value) =>
      /^\s*[\w.-]+\/[\w.-]+(:[\w.-]+)?\s*$/.test(value) ? undefined : l10n.t('Write it as owner/name or owner/name:QUANTISATION.'),
  });
  const [repository, quantisation] = text?.trim().split(':') ?? [];
  return repository ? { repository, ...(quantisation ? { quantisation } : {}) } : undefined;
}
