import assert from 'node:assert/strict';
import { test } from 'node:test';

import { candidates } from '../src/locate';
import type { Surroundings } from '../src/locate';

const around: Surroundings = {
  platform: 'linux',
  home: '/home/ada',
  env: { PATH: '/usr/bin:relative:.::/bin', VIRTUAL_ENV: '/home/ada/project/.venv' },
  configured: '',
  untrusted: [],
};

test('an activated environment comes first, then PATH, then where uv and pipx put it', () => {
  const found = candidates(around);
  assert.deepEqual(found.slice(0, 3), [
    '/home/ada/project/.venv/bin/midspan',
    '/usr/bin/midspan',
    '/bin/midspan',
  ]);
  assert.ok(found.includes('/home/ada/.local/bin/midspan'));
  assert.ok(found.includes('/home/ada/.local/share/uv/tools/midspan/bin/midspan'));
  assert.ok(found.includes('/home/ada/.local/share/pipx/venvs/midspan/bin/midspan'));
  assert.equal(new Set(found).size, found.length);
});

test('relative entries of PATH are never looked at', () => {
  assert.ok(candidates(around).every((path) => path.startsWith('/')));
});

test('nothing inside an untrusted workspace is looked at', () => {
  const env = { ...around.env, PATH: '/home/ada/project/bin:/home/ada/project2/bin' };
  const found = candidates({ ...around, env, untrusted: ['/home/ada/project'] });
  assert.ok(!found.some((path) => path.startsWith('/home/ada/project/')));
  assert.ok(found.includes('/home/ada/project2/bin/midspan'));
});

test('what is set is the only place, with ~ for home, and must be absolute', () => {
  assert.deepEqual(candidates({ ...around, configured: '/opt/midspan' }), ['/opt/midspan']);
  assert.deepEqual(candidates({ ...around, configured: '~/m/midspan' }), ['/home/ada/m/midspan']);
  assert.deepEqual(candidates({ ...around, configured: 'bin/midspan' }), []);
});

test('Windows has its own separators, names and places', () => {
  const found = candidates({
    platform: 'win32',
    home: 'C:\\Users\\ada',
    env: { Path: 'C:\\tools;D:\\bin', APPDATA: 'C:\\Users\\ada\\AppData\\Roaming' },
    configured: '',
    untrusted: [],
  });
  assert.equal(found[0], 'C:\\tools\\midspan.exe');
  assert.ok(found.includes('C:\\Users\\ada\\AppData\\Roaming\\uv\\tools\\midspan\\Scripts\\midspan.exe'));
});
