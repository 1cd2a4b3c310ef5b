import assert from 'node:assert/strict';
import { test } from 'node:test';

import { shortened, size } from '../src/units';

test('a short text stays as it is', () => {
  assert.equal(shortened('Verify again', 12), 'Verify again');
});

test('a long text is cut between words, with nothing that joins them left at its end', () => {
  assert.equal(shortened('verified, 16 cases, float32 · speed not measured', 21), 'verified, 16 cases…');
  assert.equal(shortened('failed: wrong: 1000 of 1000', 17), 'failed: wrong…');
});

test('one long word is cut within', () => {
  assert.equal(shortened('x'.repeat(30), 10), `${'x'.repeat(10)}…`);
});

test('sizes are in the units that the server uses, and an unknown one is not shown', () => {
  assert.deepEqual([0, 3 * 2 ** 19, 5 * 2 ** 29].map(size), ['', '1.5 MiB', '2.5 GiB']);
});
