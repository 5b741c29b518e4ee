/** One conversation: its runs, the steps of one of them, and what can be done. */

import { deleteIcon, notebookIcon } from "@jupyterlab/ui-components";
import type { IPlace } from "../api";
import { badge, button, mount, node, works, type IView } from "../component";
import { sentence, type Controller } from "../controller";
import { basename, liveness } from "../model/words";
import type { IAsked, IReply, IRunInfo, IThread, IThreadRuns, RunNews } from "../types";
import { stepMore } from "./changes";
import { fill, ownKeys, sign } from "./dom";
import { forkIcon } from "./icon";

export interface IConversationEvents {
  back(): void;
  open(thread: IThread): void;
  remove(thread: IThread): void;
}

export class Conversation {
  /**
   * @param controller - Where everything is asked.
   * @param head - The conversation, as the list has it.
   * @param on - Is called when something else is to be shown.
   */
  constructor(
    private readonly controller: Controller,
    private head: IThread,
    private readonly on: IConversationEvents
  ) {
    this.place = controller.place;
    this.node = node("div", "na-conversation");
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", `conversation ${head.thread}`);
    this.top = node("div", "na-top");
    this.title = node("h3", "na-title", head.thread);
    this.title.tabIndex = -1;
    this.facts = node("div", "na-facts");
    this.alive = node("p", "na-alive");
    this.said = node("p", "na-said");
    this.said.setAttribute("role", "status");
    this.runs = node("select", "na-runs");
    this.runs.setAttribute("aria-label", "Run");
    this.runs.addEventListener("change", () => void this.pick(Number(this.runs.value)));
    ownKeys(this.runs);
    this.body = node("div", "na-body");
    this.top.append(this.bar(), this.title, this.facts, this.alive, this.runs, this.said);
    this.node.append(this.top, this.body);
    this.node.addEventListener("keydown", event => {
      if (event.key === "Escape") {
        event.stopPropagation();
        on.back();
      }
    });
    controller.news.connect(this.take, this);
    controller.touched.connect(this.touched, this);
    controller.watch(head.thread);
    this.drawHead();
    void this.look();
  }

  readonly node: HTMLElement;

  get thread(): IThread {
    return this.head;
  }

  dispose(): void {
    this.controller.news.disconnect(this.take, this);
    this.controller.touched.disconnect(this.touched, this);
    this.controller.watch(null);
    this.view?.destroy();
  }

  focus(): void {
    this.title.focus();
  }

  /** Have its newest run go on, or stop it, as the timeline's button does. */
  async act(action: "resume" | "stop"): Promise<void> {
    const journal = this.state?.journal ?? null;
    this.say(action === "resume" ? "resuming…" : "stopping…");
    const reply = await this.request({ action, thread: this.head.thread, journal });
    this.say(reply.said, !reply.ok);
  }

  /** Make a new conversation of this one's past, up to a step or as it is. */
  async fork(step: string | null): Promise<void> {
    try {
      const { controller, place } = this;
      const { thread } = await controller.api.fork(place, this.head.thread, step);
      if (controller.place.journal === place.journal) {
        this.on.open(thread); // also where the list's filter hides it
        await controller.ask(() => controller.list.reload());
      }
    } catch (error) {
      this.say(sentence(error), true);
    }
  }

  say(text: string | null, wrong = false): void {
    this.said.textContent = text ?? "";
    this.said.classList.toggle("na-bad", wrong);
  }

  private bar(): HTMLElement {
    const bar = node("div", "na-bar");
    const back = button("‹ Conversations", "Back to the list (Escape)", () => this.on.back());
    back.className = "na-back";
    const notebook = sign(notebookIcon, "Open its notebook", () => void this.notebook());
    notebook.hidden = !this.head.notebook;
    bar.append(
      back,
      notebook,
      sign(forkIcon, "Fork: a new conversation with this one's past", () => void this.fork(null)),
      sign(deleteIcon, "Delete this conversation…", () => this.on.remove(this.head))
    );
    return bar;
  }

  private async notebook(): Promise<void> {
    try {
      await this.controller.kernels.notebook(this.head.notebook!, true);
    } catch (error) {
      this.say(sentence(error), true);
    }
  }

  /** Ask what runs there are, and show the newest, or the one that was picked. */
  private async look(): Promise<void> {
    const { place } = this;
    const { api } = this.controller;
    try {
      const found = await api.thread(place, this.head.thread);
      if (this.node.isConnected || !this.view) {
        this.drawRuns(found);
        if (!this.head.run) {
          const none = "A plain LangGraph graph made this: it has states, and no runs to show.";
          this.body.replaceChildren(node("p", "na-empty", none));
        } else if (this.picked === null && !this.view) {
          this.take(this.controller, await api.run(place, this.head.thread, "newest"));
        }
      }
    } catch (error) {
      this.say(sentence(error), true);
    }
  }

  private drawRuns({ thread, runs, closed }: IThreadRuns): void {
    this.head = thread;
    const titles = runs.map(({ run, status, started }: IRunInfo): [string, string] => [
      String(run),
      `Run ${run} · ${status.replace("_", " ")} · ${new Date(started).toLocaleString()}`
    ]);
    fill(this.runs, titles);
    this.runs.hidden = runs.length < 2;
    if (this.picked === null && runs.length) {
      this.runs.value = String(runs[0].run);
    }
    this.node.querySelector(".na-closed")?.remove();
    if (closed) {
      const text = "The key is not here: names, times and statuses can be read, contents cannot.";
      const said = node("p", "na-closed", runs.length ? text : closed); // a run says more of it
      said.setAttribute("role", "status");
      this.top.append(said);
    }
    this.drawHead();
  }

  /** Show one of its runs. */
  private async pick(run: number): Promise<void> {
    const newest = run === this.head.run;
    this.picked = newest ? null : run;
    try {
      this.show(await this.controller.api.run(this.place, this.head.thread, run));
    } catch (error) {
      this.say(sentence(error), true);
    }
  }

  private take(_: Controller, news: RunNews): void {
    if (news.thread !== this.head.thread || this.picked !== null) {
      return;
    }
    if (this.state && news.run > this.state.run) {
      void this.look(); // there is one more run
    }
    this.show(news);
  }

  private show(news: RunNews): void {
    const whole = news.cut !== undefined;
    if (!this.view && !whole) {
      return; // what changed of something that is not there yet
    }
    this.state = { ...(this.state ?? {}), ...news, steps: [] };
    for (const step of news.steps) {
      this.keys.set(step.id, step.key);
    }
    if (this.view) {
      this.view.update(news);
    } else {
      this.body.replaceChildren();
      this.view = mount(this.body, news, {
        request: asked => this.request(asked),
        older: () => this.picked !== null,
        more: step => this.more(step)
      });
    }
    this.drawHead();
  }

  private async request(asked: IAsked): Promise<IReply> {
    const reply = await this.controller.request(this.head, asked, this.place);
    if (asked.action === "resolve" && reply.ok) {
      await this.refresh();
    }
    return { ...reply, state: undefined }; // the journal's own words come by the stream
  }

  private async refresh(): Promise<void> {
    const { api } = this.controller;
    this.show(await api.run(this.place, this.head.thread, this.picked ?? "newest"));
  }

  private touched(_: Controller, names: string[] | null): void {
    const { thread } = this.head;
    if (names !== null && !names.includes(thread)) {
      return;
    }
    const head = this.controller.list.find(thread);
    if (head) {
      const other = head.run !== this.head.run;
      this.head = head;
      this.drawHead();
      if (!other && names !== null) {
        return;
      }
    }
    void this.look();
  }

  private more(id: string): HTMLElement {
    let made = this.steps.get(id);
    if (!made) {
      const { api } = this.controller;
      made = stepMore(this.keys.get(id) ?? "", {
        detail: () => api.step(this.place, this.head.thread, id, this.state!.run),
        fork: () => void this.fork(id),
        failed: sentence
      });
      this.steps.set(id, made);
    }
    return made;
  }

  private drawHead(): void {
    const { head } = this;
    const state = this.picked === null ? this.state : null;
    const place = head.notebook ?? head.notebook_file;
    const parts = [head.agent ?? "plain graph", place ? basename(place) : "outside of notebooks"];
    const said = node("span", "", ` ${parts.join(" · ")}`);
    said.title = place ?? "";
    this.facts.replaceChildren(badge(state?.status ?? head.status, "na-status"), said);
    const counts = state?.counts ?? { returned: head.returned, steps: head.intended };
    const status = state && !works(state) ? state.status : head.status;
    const alive = liveness(status, head.driver, counts);
    this.alive.textContent = alive;
    this.alive.hidden = !alive;
    this.alive.classList.toggle("na-doubt", status === "orphaned");
  }

  private readonly place: IPlace;
  private readonly top: HTMLElement;
  private readonly title: HTMLElement;
  private readonly facts: HTMLElement;
  private readonly alive: HTMLElement;
  private readonly said: HTMLElement;
  private readonly runs: HTMLSelectElement;
  private readonly body: HTMLElement;
  private readonly keys = new Map<string, string>();
  private readonly steps = new Map<string, HTMLElement>();
  private view: IView | null = null;
  private state: RunNews | null = null;
  private picked: number | null = null;
}
