/** The conversations of one journal that are asked for: what is loaded of them, and how it changes. */

import type { IPlace, IQuery } from "../api";
import type { IThread, IThreads, IThreadsEvent, Status } from "../types";

export interface IFilter {
  search: string;
  statuses: Status[];
  /** A notebook's contents path; "": any. */
  notebook: string;
}

export const NO_FILTER: IFilter = { search: "", statuses: [], notebook: "" };
const FIRST = 100;
const FURTHER = 1000;

type Counts = Partial<Record<Status, number>>;

export class ListModel {
  /**
   * @param ask - Asks the server for a page of a journal.
   * @param changed - Is called when there is something else to show.
   */
  constructor(
    private readonly ask: (query: IQuery, place: IPlace) => Promise<IThreads>,
    private readonly changed: () => void
  ) {}

  /** What is loaded, the newest first. */
  rows: IThread[] = [];
  /** How many match, loaded or not. */
  total = 0;
  /** By status: of those that match, whatever their status. */
  counts: Counts = {};
  /** By status: of all. */
  overall: Counts = {};
  filter: IFilter = NO_FILTER;
  /** The journal's path, as the server has it. */
  journal = "";
  /** Where the rows are from: what is done to one is done there. */
  place: IPlace = {};
  /** Where they were asked from last: another journal's come all at once. */
  wanted: IPlace = {};
  loaded = false;

  /** Ask for the first page; what comes of an older question is dropped. */
  async reload(filter: IFilter = this.filter, place: IPlace = this.wanted): Promise<void> {
    const asked = (this.generation += 1);
    this.filter = filter;
    this.wanted = place;
    const page = await this.ask({ ...this.query, limit: FIRST }, place);
    if (asked !== this.generation) {
      return;
    }
    const taken = (this.generation += 1); // what was asked of the rows before is dropped, too
    this.further = null;
    this.waiting.clear();
    this.journal = page.journal;
    this.place = this.wanted = { journal: page.journal };
    this.rows = page.threads;
    this.known = new Map(page.threads.map(thread => [thread.thread, thread]));
    this.next = page.next;
    this.loaded = true;
    this.count(page);
    this.changed();
    if (this.filtered) {
      await this.countAll(taken);
    }
  }

  /** Load pages until the row at a place is there. */
  async reach(place: number): Promise<void> {
    while (this.next !== null && place >= this.rows.length) {
      const asked = this.generation;
      const query = { ...this.query, limit: FURTHER, after: this.next };
      this.further ??= this.ask(query, this.place).finally(() => (this.further = null));
      const page = await this.further;
      if (asked !== this.generation || page.next === this.next) {
        return;
      }
      if (this.taken === page) {
        continue; // who waited for the same page took it in
      }
      this.taken = page;
      const fresh = page.threads.filter(thread => !this.known.has(thread.thread));
      for (const thread of fresh) {
        this.known.set(thread.thread, thread);
      }
      this.rows = [...this.rows, ...fresh];
      this.next = page.next;
      this.count(page);
      this.changed();
    }
  }

  /** Take in what changed; return whether the counts have to be asked for. */
  take(event: IThreadsEvent): boolean {
    let unsure = false;
    for (const name of event.gone) {
      unsure = this.drop(name) || unsure;
    }
    for (const thread of event.threads) {
      unsure = this.put(thread) || unsure;
    }
    this.changed();
    return unsure;
  }

  /** Have no row move while somebody points at one; what came meanwhile comes with `false`. */
  hold(on: boolean): void {
    this.held = on;
    if (!on) {
      const waiting = [...this.waiting.values()];
      this.waiting.clear();
      this.take({ threads: waiting, gone: [], reload: false, version: "" });
    }
  }

  /** Ask how many there are, and for the first page anew if `rows`. */
  async recount(): Promise<void> {
    const asked = this.generation;
    const page = await this.ask({ ...this.query, limit: 1 }, this.place);
    if (asked === this.generation) {
      this.count(page);
      this.changed();
    }
    if (this.filtered) {
      await this.countAll(asked);
    }
  }

  find(name: string): IThread | undefined {
    return this.known.get(name);
  }

  private get query(): IQuery {
    const { search, statuses, notebook } = this.filter;
    return { search, status: statuses.join(","), started_in: notebook };
  }

  private get filtered(): boolean {
    return Boolean(this.filter.search || this.filter.notebook);
  }

  private count(page: IThreads): void {
    this.total = page.total;
    this.counts = page.counts;
    if (!this.filtered) {
      this.overall = page.counts;
    }
  }

  private async countAll(asked: number): Promise<void> {
    const page = await this.ask({ limit: 1 }, this.place);
    if (asked === this.generation) {
      this.overall = page.counts;
      this.changed();
    }
  }

  /** Put a conversation where it belongs; return whether counts may differ from what is known. */
  private put(thread: IThread): boolean {
    const old = this.known.get(thread.thread);
    const fits = matches(thread, this.filter);
    if (this.held) {
      this.waiting.set(thread.thread, thread);
      if (old) {
        this.known.set(thread.thread, thread);
        this.rows = this.rows.map(other => (other.thread === thread.thread ? thread : other));
      }
      return !old || old.status !== thread.status;
    }
    if (old) {
      this.drop(thread.thread);
    }
    if (fits) {
      const found = this.rows.findIndex(other => other.updated <= thread.updated);
      const place = found < 0 ? this.rows.length : found;
      if (found >= 0 || this.next === null) {
        this.rows = [...this.rows.slice(0, place), thread, ...this.rows.slice(place)];
        this.known.set(thread.thread, thread);
      }
    }
    return !old || !fits || old.status !== thread.status;
  }

  /** Take a row out; the counts are others then, whether it was loaded or not. */
  private drop(name: string): boolean {
    this.waiting.delete(name);
    if (this.known.delete(name)) {
      this.rows = this.rows.filter(other => other.thread !== name);
    }
    return true;
  }

  private known = new Map<string, IThread>();
  private held = false;
  private readonly waiting = new Map<string, IThread>();
  private next: string | null = null;
  private further: Promise<IThreads> | null = null;
  private taken: IThreads | null = null;
  private generation = 0;
}

/** Whether a conversation is asked for. */
export function matches(thread: IThread, { search, statuses, notebook }: IFilter): boolean {
  const text = search.toLowerCase();
  const names = [thread.thread, thread.agent, thread.notebook];
  return (
    (!statuses.length || statuses.includes(thread.status)) &&
    (!notebook || thread.notebook === notebook) &&
    (!text || names.some(name => name?.toLowerCase().includes(text)))
  );
}
