/**
 * Where the command `midspan` may be. Pure: the environment comes in, paths come out, best first.
 *
 * Order: what the user set, an activated virtual environment, PATH, then where `uv tool` and `pipx`
 * put programs. Relative entries are left out, and in a workspace that is not trusted everything
 * inside it: a repository must not choose which program is run.
 */

import { posix, win32 } from 'node:path';

export interface Surroundings {
  platform: NodeJS.Platform;
  home: string;
  env: Readonly<Record<string, string | undefined>>;
  /** The setting `midspan.server.path`, "" where it is not set. */
  configured: string;
  /** The workspace's folders where it is not trusted, else none. */
  untrusted: readonly string[];
}

export function candidates(around: Surroundings): string[] {
  const { env, platform } = around;
  const path = platform === 'win32' ? win32 : posix;
  if (around.configured) {
    const expanded = around.configured.replace(/^~(?=[\\/])/, around.home);
    return path.isAbsolute(expanded) ? [expanded] : [];
  }
  const [name, scripts] = platform === 'win32' ? ['midspan.exe', 'Scripts'] : ['midspan', 'bin'];
  const inHome = (...parts: string[]): string => path.join(around.home, ...parts);
  const data = env['XDG_DATA_HOME'] ?? inHome('.local', 'share');
  const roaming = env['APPDATA'] ?? inHome('AppData', 'Roaming');
  const folders = [
    env['VIRTUAL_ENV'] && path.join(env['VIRTUAL_ENV'], scripts),
    ...(env['PATH'] ?? env['Path'] ?? '').split(path.delimiter),
    env['UV_TOOL_BIN_DIR'],
    env['XDG_BIN_HOME'],
    env['PIPX_BIN_DIR'],
    inHome('.local', 'bin'),
    path.join(env['UV_TOOL_DIR'] ?? path.join(platform === 'win32' ? path.join(roaming, 'uv') : path.join(data, 'uv'), 'tools'), 'midspan', scripts),
    env['PIPX_HOME'] && path.join(env['PIPX_HOME'], 'venvs', 'midspan', scripts),
    path.join(data, 'pipx', 'venvs', 'midspan', scripts),
    inHome('.local', 'pipx', 'venvs', 'midspan', scripts),
    platform === 'darwin' ? '/opt/homebrew/bin' : undefined,
  ];
  const found = folders
    .filter((folder): folder is string => !!folder && path.isAbsolute(folder))
    .filter((folder) => !around.untrusted.some((root) => contains(path, root, folder)))
    .map((folder) => path.join(folder, name));
  return [...new Set(found)];
}

function contains(path: typeof posix, root: string, folder: string): boolean {
  const way = path.relative(root, folder);
  return way === '' || (way.split(path.sep)[0] !== '..' && !path.isAbsolute(way));
}
