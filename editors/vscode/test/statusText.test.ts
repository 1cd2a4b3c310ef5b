import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Latency } from '../src/latency';
import { render } from '../src/statusText';
import type { ServerStatus } from '../src/statusText';

const t = (text: string, ...values: (string | number)[]) =>
  text.replace(/\{(\d)\}/g, (_, at: string) => String(values[Number(at)]));
const none = { last: undefined, p50: undefined, p95: undefined };
const normal: ServerStatus = { kind: 'Normal', busy: false, message: '', model: 'starter', reason: '' };

test('a running server shows its model, and the reason of its silence once', () => {
  const shown = render({ name: 'running' }, { ...normal, reason: 'the model had nothing to add' }, none, t);
  assert.equal(shown.text, 'starter');
  assert.equal(shown.severity, 'none');
  assert.deepEqual(shown.rows, [
    ['Model', 'starter'],
    ['State', 'ready'],
    ['No suggestion', 'the model had nothing to add'],
  ]);
  const failed = { ...normal, kind: 'Error', message: 'no', reason: 'no' } as const;
  assert.deepEqual(render({ name: 'running' }, failed, none, t).rows.slice(1), [['State', 'no']]);
});

test('work under way turns the icon, and answers are timed', () => {
  const timing = { last: 12.4, p50: 20, p95: 80 };
  const shown = render({ name: 'running' }, { ...normal, busy: true, message: 'Loading x' }, timing, t);
  assert.match(shown.icon, /spin/);
  assert.deepEqual(shown.rows.at(-1), ['Answer', '12 ms (half within 20 ms, 95 % within 80 ms)']);
});

test('each phase says what is going on', () => {
  const texts = [
    { name: 'starting' },
    { name: 'waiting', seconds: 4 },
    { name: 'missing' },
    { name: 'failed', reason: 'it ended at once' },
    { name: 'stopped' },
  ] as const;
  const rows = texts.map((phase) => render(phase, normal, none, t).rows[0]?.[1]);
  assert.equal(new Set(rows).size, texts.length);
  assert.match(rows[1] ?? '', /4 s/);
  assert.equal(rows[3], 'it ended at once');
});

test('quantiles are those of the last answers', () => {
  const latency = new Latency();
  assert.equal(latency.quantile(0.5), undefined);
  for (let ms = 1; ms <= 100; ms++) {
    latency.add(ms);
  }
  assert.equal(latency.last, 100);
  assert.equal(latency.quantile(0.5), 75);
  assert.equal(latency.quantile(0.95), 98);
});
