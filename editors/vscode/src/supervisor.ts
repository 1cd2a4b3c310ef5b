/**
 * Keeps one language server running: starts, restarts and ends it.
 *
 * Rule: one server at a time, whatever is asked for meanwhile; restarts that are asked for while
 * one is under way become one. Knows neither VS Code nor how a server is found or spoken to.
 */

import { Backoff } from './backoff';

export type Phase =
  | { name: 'stopped' }
  | { name: 'starting' }
  | { name: 'running' }
  | { name: 'waiting'; seconds: number }
  | { name: 'missing' }
  | { name: 'failed'; reason: string };

/** A server that was started. */
export interface Connection {
  /** Resolves once the server answers; rejects where it does not. */
  start(): Promise<void>;
  /** Ends it, whatever its state; never rejects. */
  stop(): Promise<void>;
}

export interface Host<Server> {
  /** Where the server is, undefined where there is none. */
  locate(): Promise<Server | undefined>;
  /** Makes a connection; `closed` is called when it ends without `stop`. */
  connect(server: Server, closed: () => void): Connection;
  report(phase: Phase): void;
}

export class Supervisor<Server> {
  private readonly backoff = new Backoff();
  private connection: Connection | undefined;
  private timer: NodeJS.Timeout | undefined;
  private turning: Promise<void> | undefined;
  private again = false;
  private wanted = true;

  constructor(private readonly host: Host<Server>) {}

  /** Starts the server anew because somebody asked for it. */
  restart(): Promise<void> {
    this.backoff.reset();
    this.wanted = true;
    return this.turn();
  }

  /** Ends the server; nothing starts it again but `restart`. */
  stop(): Promise<void> {
    this.wanted = false;
    return this.turn();
  }

  private turn(): Promise<void> {
    this.again = true;
    this.turning ??= this.turns().finally(() => {
      this.turning = undefined;
    });
    return this.turning;
  }

  private async turns(): Promise<void> {
    while (this.again) {
      this.again = false;
      clearTimeout(this.timer);
      const before = this.connection;
      this.connection = undefined;
      await before?.stop();
      if (this.wanted) {
        await this.begin();
      } else {
        this.host.report({ name: 'stopped' });
      }
    }
  }

  private async begin(): Promise<void> {
    this.host.report({ name: 'starting' });
    const server = await this.host.locate();
    if (server === undefined) {
      this.host.report({ name: 'missing' });
      return;
    }
    const connection = this.host.connect(server, () => this.ended(connection, ''));
    this.connection = connection;
    this.backoff.started(Date.now());
    try {
      await connection.start();
    } catch (error) {
      this.ended(connection, error instanceof Error ? error.message : String(error));
      return;
    }
    if (this.connection === connection) {
      this.host.report({ name: 'running' });
    }
  }

  /** `connection` ended by itself. Told twice of the same one, or of an old one, does nothing. */
  private ended(connection: Connection, reason: string): void {
    if (this.connection !== connection) {
      return;
    }
    this.connection = undefined;
    void connection.stop();
    const seconds = this.backoff.next(Date.now());
    if (seconds === undefined) {
      this.host.report({ name: 'failed', reason });
      return;
    }
    this.host.report({ name: 'waiting', seconds });
    this.timer = setTimeout(() => void this.turn(), seconds * 1000);
  }
}
