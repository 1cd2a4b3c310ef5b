import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { Backoff } from '../src/backoff';
import { Supervisor } from '../src/supervisor';
import type { Connection, Host, Phase } from '../src/supervisor';

/** Stands for VS Code and the server's processes. */
class Fake implements Host<string> {
  phases: Phase[] = [];
  started = 0;
  stopped = 0;
  place: string | undefined = '/bin/midspan';
  refuse = false;
  end: () => void = () => undefined;
  gate: Promise<void> = Promise.resolve();

  locate = () => Promise.resolve(this.place);
  report = (phase: Phase) => void this.phases.push(phase);
  connect = (_: string, closed: () => void): Connection => {
    this.started++;
    this.end = closed;
    return {
      start: async () => {
        await this.gate;
        if (this.refuse) {
          throw new Error('it ended at once');
        }
      },
      stop: () => {
        this.stopped++;
        return Promise.resolve();
      },
    };
  };

  get last() {
    return this.phases.at(-1);
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test('it starts a server and says that it runs', async () => {
  const fake = new Fake();
  await new Supervisor(fake).restart();
  assert.deepEqual(fake.phases, [{ name: 'starting' }, { name: 'running' }]);
});

test('restarts asked for while one is under way become one', async () => {
  const fake = new Fake();
  let open: () => void = () => undefined;
  fake.gate = new Promise((resolve) => (open = resolve));
  const supervisor = new Supervisor(fake);
  const all = Array.from({ length: 20 }, () => supervisor.restart());
  await settled();
  open();
  await Promise.all(all);
  assert.ok(fake.started <= 2, `${fake.started} were started`);
  assert.equal(fake.stopped, fake.started - 1);
  assert.deepEqual(fake.last, { name: 'running' });
});

test('a server that is not there is told, and looked for on the next restart', async () => {
  const fake = new Fake();
  fake.place = undefined;
  const supervisor = new Supervisor(fake);
  await supervisor.restart();
  assert.deepEqual(fake.last, { name: 'missing' });
  fake.place = '/bin/midspan';
  await supervisor.restart();
  assert.deepEqual(fake.last, { name: 'running' });
});

test('a server that ends is started again, later each time, until it ended too often', async () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  try {
    const fake = new Fake();
    const supervisor = new Supervisor(fake);
    await supervisor.restart();
    fake.refuse = true;
    const waits: number[] = [];
    fake.end();
    while (fake.last?.name === 'waiting') {
      waits.push(fake.last.seconds);
      mock.timers.tick(fake.last.seconds * 1000);
      for (let turn = 0; turn < 5; turn++) {
        await settled();
      }
    }
    assert.deepEqual(fake.last, { name: 'failed', reason: 'it ended at once' });
    assert.ok(waits.length >= 5);
    assert.deepEqual(waits, [...waits].sort((a, b) => a - b));
    fake.refuse = false;
    await supervisor.restart();
    assert.deepEqual(fake.last, { name: 'running' });
  } finally {
    mock.timers.reset();
  }
});

test('stopping while it waits to start again leaves it stopped', async () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  try {
    const fake = new Fake();
    const supervisor = new Supervisor(fake);
    await supervisor.restart();
    fake.end();
    await supervisor.stop();
    mock.timers.tick(100_000);
    await settled();
    assert.deepEqual(fake.last, { name: 'stopped' });
    assert.equal(fake.started, 1);
  } finally {
    mock.timers.reset();
  }
});

test('a server that ran for a minute starts the pauses anew', () => {
  const backoff = new Backoff();
  backoff.started(0);
  const first = backoff.next(1000);
  const second = backoff.next(2000) ?? 0;
  assert.ok(first !== undefined && second > first);
  backoff.started(3000);
  assert.equal(backoff.next(70_000), first);
});
