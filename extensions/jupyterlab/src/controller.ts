/** What the panel shows, and what its buttons do: the list, the watched run, or why there is none. */

import { Signal } from "@lumino/signaling";
import { ApiError, type Api, type IPlace } from "./api";
import type { Heads } from "./heads";
import { CannotError, type Kernels } from "./kernels";
import { ListModel } from "./model/list";
import { mismatch, problem, type IProblem } from "./model/problems";
import { pause, type Stream } from "./stream";
import {
  API,
  type IAsked,
  type IError,
  type IJournal,
  type IReply,
  type IRunEvent,
  type IThread,
  type IThreadsEvent,
  type RunNews
} from "./types";

const RECOUNT_MS = 400;
const LOOK_MS = 3000; // whether there is a journal now

export class Controller {
  constructor(
    readonly api: Api,
    readonly kernels: Kernels,
    private readonly heads: Heads
  ) {
    this.list = new ListModel(
      (query, place) => this.api.threads(place, query),
      () => this.taken()
    );
  }

  /** There is something else to show. */
  readonly changed = new Signal<this, void>(this);
  /** The watched run has news. */
  readonly news = new Signal<this, RunNews>(this);
  /** Another journal is shown. */
  readonly moved = new Signal<this, void>(this);
  /** Conversations changed or are gone; null: any of them may have. */
  readonly touched = new Signal<this, string[] | null>(this);
  readonly list: ListModel;
  problem: IProblem | null = null;
  journals: IJournal[] = [];

  /** The journal that is shown: that of the list's rows. */
  get place(): IPlace {
    return this.list.place;
  }

  /** Begin, or begin again after a problem. */
  async start(): Promise<void> {
    clearTimeout(this.timer);
    const asked = (this.generation += 1);
    try {
      const about = await this.api.about();
      if (about.api !== API) {
        this.fail(mismatch(about.version));
        return;
      }
      this.journals = (await this.api.journals()).journals;
      if (asked !== this.generation) {
        return;
      }
      const { place, none } = this.choose();
      if (none) {
        this.stream?.close();
        this.fail(problem({ status: 404, ...none }));
        return;
      }
      const before = this.shown;
      await this.list.reload(this.list.filter, place);
      if (asked !== this.generation) {
        return;
      }
      this.problem = null;
      this.failures = 0;
      if (before === this.shown) {
        this.listen();
      }
      this.changed.emit();
    } catch (error) {
      this.refused(error);
    }
  }

  /** Show another journal. */
  async use(journal: string): Promise<void> {
    this.chosen = journal;
    await this.start();
  }

  /** Go to the journal of the notebook that is looked at, unless a person chose one. */
  async follow(notebook: string): Promise<void> {
    const known = this.journals.find(one => one.notebooks.includes(notebook));
    const { wanted } = this.list;
    if (this.chosen === null && (!known || this.problem || known.path !== wanted.journal)) {
      await this.start();
    }
  }

  /** Watch a conversation's newest run, or none. */
  watch(thread: string | null): void {
    if (thread !== this.watched) {
      this.watched = thread;
      if (!this.problem) {
        this.listen();
      }
    }
  }

  /** Ask for a page; what is refused is shown in the list's place. */
  async ask<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      this.refused(error);
      return null;
    }
  }

  /** Do what a timeline's button asks, in the journal that it was shown of. */
  async request(thread: IThread, asked: IAsked, place: IPlace): Promise<IReply> {
    const name = thread.thread;
    try {
      if (asked.action === "detail") {
        const { args, result } = await this.api.step(place, name, asked.step!, asked.run!);
        return {
          ok: true,
          said: null,
          detail: { step: asked.step!, args: args.text, result: result.text }
        };
      }
      if (asked.action === "resolve") {
        const { step, happened, result } = asked;
        const said = { step: step!, happened: happened!, ...(happened ? { result } : {}) };
        return { ok: true, said: (await this.api.resolve(place, name, said)).said };
      }
      if (asked.action === "stop") {
        const reply = await this.kernels.stop(this.list.find(name) ?? thread, asked);
        return reply ?? { ok: true, said: (await this.api.stop(place, name)).said };
      }
      return await this.kernels.drive(thread, asked, news => this.heard(news));
    } catch (error) {
      return { ok: false, said: sentence(error) };
    } finally {
      this.heads.tell([name]);
    }
  }

  dispose(): void {
    clearTimeout(this.timer);
    clearTimeout(this.counting);
    this.stream?.close();
  }

  /** A kernel says how a run stands that was begun here. */
  private heard(news: RunNews): void {
    if (news.thread === this.watched) {
      this.news.emit(news);
    }
  }

  /** Find the journal to show: the chosen one, else that of the notebook that is looked at. */
  private choose(): { place: IPlace; none: IError | null } {
    const here = this.kernels.current;
    const { journals, chosen } = this;
    const usable = journals.filter(one => one.usable);
    const mine = journals.find(one => here !== null && one.notebooks.includes(here));
    const first = usable.find(one => one.default) ?? usable[0];
    if (usable.some(one => one.path === chosen)) {
      return { place: { journal: chosen! }, none: null };
    } else if (mine) {
      return { place: { journal: mine.path }, none: mine.usable ? null : mine.error };
    } else if (here !== null) {
      return { place: { notebook: here }, none: null };
    }
    return { place: first ? { journal: first.path } : {}, none: null };
  }

  /** The list has something else to show: where it is of another journal, all the rest is, too. */
  private taken(): void {
    if (this.list.loaded && this.shown !== this.list.journal) {
      this.shown = this.list.journal;
      this.watched = null;
      this.problem = null;
      this.moved.emit();
      this.listen();
    }
    this.changed.emit();
  }

  private listen(): void {
    this.stream?.close();
    const watched = this.watched === null ? {} : { thread: this.watched };
    this.stream = this.api.events(this.place, watched, {
      event: (name, data) => this.hear(name, data),
      opened: again => {
        if (again || this.problem) {
          void this.again();
        }
      },
      broken: error => {
        if (!(error instanceof ApiError)) {
          return; // it was cut off: the next try tells why
        }
        this.refused(error);
        return error.status === 0;
      }
    });
  }

  /** Catch up with what was missed while the stream was broken. */
  private async again(): Promise<void> {
    this.problem = null;
    await this.ask(() => this.list.reload());
    this.touched.emit(null);
  }

  private hear(name: string, data: unknown): void {
    if (name === "threads") {
      this.changedHeads(data as IThreadsEvent);
    } else if (name === "run") {
      const { thread, state, delta } = data as IRunEvent;
      const news = state ?? delta;
      if (news && thread === this.watched) {
        this.news.emit(news);
      }
    } else if (name === "failed") {
      const { code, message } = data as { code: string; message: string };
      this.refused(new ApiError(500, code, message));
    }
  }

  private changedHeads(event: IThreadsEvent): void {
    if (event.reload) {
      void this.again();
      return;
    }
    const names = [...event.threads.map(one => one.thread), ...event.gone];
    if (this.list.take(event) && this.counting === undefined) {
      this.counting = setTimeout(() => {
        this.counting = undefined;
        void this.ask(() => this.list.recount());
      }, RECOUNT_MS);
    }
    this.heads.tell(names);
    this.touched.emit(names);
  }

  private refused(error: unknown): void {
    this.fail(problem(refusal(error)));
  }

  private fail(what: IProblem): void {
    this.problem = what;
    this.changed.emit();
    clearTimeout(this.timer);
    if (what.kind === "no-journal") {
      this.stream?.close();
      this.timer = setTimeout(() => void this.start(), LOOK_MS);
    } else if ((what.kind === "offline" && !this.list.loaded) || what.kind === "busy") {
      this.timer = setTimeout(() => void this.start(), pause((this.failures += 1)));
    }
  }

  private stream: Stream | null = null;
  private watched: string | null = null;
  private shown: string | null = null;
  private chosen: string | null = null;
  private generation = 0;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private counting: ReturnType<typeof setTimeout> | undefined;
}

/** One sentence of what went wrong. */
export function sentence(error: unknown): string {
  if (error instanceof CannotError) {
    return error.message;
  }
  const { title, text } = problem(refusal(error));
  return text || title;
}

function refusal(error: unknown): { status: number; code: string; message: string } {
  if (error instanceof ApiError) {
    return error;
  }
  return {
    status: 500,
    code: "failed",
    message: error instanceof Error ? error.message : String(error)
  };
}
