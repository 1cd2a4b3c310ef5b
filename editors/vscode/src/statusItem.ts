/** The status item: what `statusText` says, in VS Code's status bar. */

import { Disposable, l10n, MarkdownString, StatusBarAlignment, ThemeColor, window } from 'vscode';

import type { Latency } from './latency';
import { render } from './statusText';
import type { ServerStatus } from './statusText';
import type { Phase } from './supervisor';

const UNKNOWN: ServerStatus = { kind: 'Inactive', busy: true, message: '', model: '', reason: '' };

export class StatusItem implements Disposable {
  phase: Phase = { name: 'stopped' };
  status = UNKNOWN;
  private readonly item = window.createStatusBarItem('midspan.status', StatusBarAlignment.Right, 100);

  constructor(private readonly latency: Latency) {
    this.item.name = 'Midspan';
    this.update();
    this.item.show();
  }

  /** The server's phase changed; what it said before no longer counts. */
  setPhase(phase: Phase): void {
    this.phase = phase;
    if (phase.name !== 'running') {
      this.status = UNKNOWN;
    }
    this.update();
  }

  setStatus(status: ServerStatus): void {
    this.status = status;
    this.update();
  }

  update(): void {
    const timing = {
      last: this.latency.last,
      p50: this.latency.quantile(0.5),
      p95: this.latency.quantile(0.95),
    };
    const shown = render(this.phase, this.status, timing, l10n.t);
    this.item.text = `$(${shown.icon}) ${shown.text}`;
    this.item.command = this.phase.name === 'missing' ? 'midspan.installServer' : 'midspan.showMenu';
    this.item.backgroundColor =
      shown.severity === 'none' ? undefined : new ThemeColor(`statusBarItem.${shown.severity}Background`);
    const hover = new MarkdownString('**Midspan**\n\n');
    for (const [name, value] of shown.rows) {
      hover.appendText(`${name}: ${value}`).appendMarkdown('\n\n');
    }
    this.item.tooltip = hover;
    this.item.accessibilityInformation = {
      label: ['Midspan', ...shown.rows.map(([name, value]) => `${name}: ${value}`)].join('. '),
    };
  }

  dispose(): void {
    this.item.dispose();
  }
}
