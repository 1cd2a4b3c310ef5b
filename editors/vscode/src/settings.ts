/** The settings that the server gets: those somebody set, so that defaults hide no user's file. */

import { workspace } from 'vscode';

export const SECTION = 'midspan';

// The extension's own; the server does not know them.
const OWN = new Set(['server', 'trace']);

/** The section as the server is sent it. Values for one language alone are not sent. */
export function explicitSettings(): Record<string, unknown> {
  const section = workspace.getConfiguration(SECTION);
  const found: Record<string, unknown> = {};
  for (const key of Object.keys(section).filter((name) => section.has(name) && !OWN.has(name))) {
    const set = section.inspect(key);
    const value = set?.workspaceFolderValue ?? set?.workspaceValue ?? set?.globalValue;
    if (value !== undefined) {
      found[key] = value;
    }
  }
  return found;
}

/** One of the extension's own settings. */
export function own<T>(name: string, otherwise: T): T {
  return workspace.getConfiguration(SECTION).get(name, otherwise);
}
