/** What the status item says. Pure: the texts' translation comes in. */

import type { Phase } from './supervisor';

/** `midspan/status`, as the server sends it. */
export interface ServerStatus {
  kind: 'Normal' | 'Warning' | 'Error' | 'Inactive';
  busy: boolean;
  message: string;
  model: string;
  reason: string;
}

export interface Shown {
  icon: string;
  text: string;
  severity: 'none' | 'warning' | 'error';
  /** Rows of the hover: a name and a value. */
  rows: [string, string][];
}

export interface Timing {
  last: number | undefined;
  p50: number | undefined;
  p95: number | undefined;
}

export type Translate = (text: string, ...values: (string | number)[]) => string;

const NAME = 'Midspan';
const ICONS = { Normal: 'sparkle', Warning: 'warning', Error: 'error', Inactive: 'circle-slash' };
const SEVERITIES = { Normal: 'none', Warning: 'warning', Error: 'error', Inactive: 'none' } as const;

/** `status` counts while the phase is running. */
export function render(phase: Phase, status: ServerStatus, timing: Timing, t: Translate): Shown {
  const row = (state: string): [string, string][] => [[t('State'), state]];
  switch (phase.name) {
    case 'starting':
      return { icon: 'loading~spin', text: NAME, severity: 'none', rows: row(t('The language server is starting.')) };
    case 'waiting':
      return {
        icon: 'sync',
        text: NAME,
        severity: 'warning',
        rows: row(t('The language server ended. It starts again in {0} s.', phase.seconds)),
      };
    case 'missing':
      return {
        icon: 'cloud-download',
        text: t('Midspan: install'),
        severity: 'warning',
        rows: row(t('The command midspan was not found. Click to install it or to say where it is.')),
      };
    case 'failed':
      return {
        icon: 'error',
        text: NAME,
        severity: 'error',
        rows: row(phase.reason || t('The language server ended several times in a row.')),
      };
    case 'stopped':
      return { icon: 'circle-slash', text: NAME, severity: 'none', rows: row(t('The language server is stopped.')) };
    case 'running':
      return running(status, timing, t);
  }
}

function running(status: ServerStatus, timing: Timing, t: Translate): Shown {
  const rows: [string, string][] = [];
  const add = (name: string, value: string): void => {
    if (value) {
      rows.push([name, value]);
    }
  };
  add(t('Model'), status.model);
  add(t('State'), status.message || (status.kind === 'Inactive' ? t('not started yet') : t('ready')));
  if (status.reason !== status.message) {
    add(t('No suggestion'), status.reason);
  }
  if (timing.last !== undefined) {
    const [last, p50, p95] = [timing.last, timing.p50 ?? 0, timing.p95 ?? 0].map(Math.round);
    add(t('Answer'), t('{0} ms (half within {1} ms, 95 % within {2} ms)', last ?? 0, p50 ?? 0, p95 ?? 0));
  }
  return {
    icon: status.busy ? 'loading~spin' : ICONS[status.kind],
    text: status.model || NAME,
    severity: SEVERITIES[status.kind],
    rows,
  };
}
