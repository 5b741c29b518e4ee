import { component } from "./component";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { IActions, IView } from "../src/component";
import type { IAsked, RunNews } from "../src/types";

/** As much of an element as the timeline needs where nothing is laid out. */
class Element {
  children: Element[] = [];
  dataset = {};
  classList = { toggle: () => undefined, add: () => undefined, remove: () => undefined };
  style = { setProperty: () => undefined };
  scrollTop = 0;
  clientHeight = 0;
  scrollHeight = 0;
  offsetHeight = 0;
  text = { data: "" };
  click: () => unknown = () => undefined;

  append(...others: Element[]): void {
    this.children.push(...others);
  }
  appendChild(other: Element): Element {
    this.children.push(other);
    return other;
  }
  replaceChildren(...others: Element[]): void {
    this.children = others;
  }
  addEventListener(what: string, heard: () => unknown): void {
    if (what === "click") {
      this.click = heard;
    }
  }
  setAttribute(): void {}
  removeAttribute(): void {}
  remove(): void {
    this.children = [];
    this.textContent = "";
  }
  contains(): boolean {
    return false;
  }
  get textContent(): string {
    return this.text.data;
  }
  set textContent(said: string) {
    this.text.data = said;
  }
  get firstChild(): Element | { data: string } {
    return this.children[0] ?? this.text;
  }
  get lastChild(): Element | undefined {
    return this.children[this.children.length - 1];
  }
  /** What has this text: a button, a step's name. */
  find(text: string): Element | undefined {
    const inside = this.children.map(one => one.find?.(text)).find(Boolean);
    return this.textContent === text && !this.children.length ? this : inside;
  }
}

Object.assign(globalThis, { document: { createElement: () => new Element() } });

function state(steps: string[], more: Partial<RunNews> = {}): RunNews {
  return {
    v: 1,
    thread: "chat",
    run: 1,
    agent: "agent",
    status: "failed",
    started: "2026-01-01T10:00:00.000001Z",
    told: "",
    journal: "/journal",
    counts: { steps: steps.length },
    processes: 1,
    driver: null,
    interrupts: [],
    cut: 0,
    steps: steps.map(id => ({
      id,
      parent: null,
      name: id,
      state: "returned",
      key: id,
      undecided: false,
      attempts: [],
      replayed: false,
      result: "",
      args: ""
    })),
    ...more
  };
}

type Mount = (el: Element, state: RunNews, actions: IActions) => IView;

function shown(news: RunNews, actions: Partial<IActions> = {}) {
  const { mount } = component<{ mount: Mount }>("timeline.js");
  const asked: IAsked[] = [];
  const request = async (one: IAsked) => {
    asked.push(one);
    return { ok: true, said: null };
  };
  const el = new Element();
  const view = mount(el, news, { request, ...actions });
  return { asked, el, view };
}

test("a button says which run it is of", async () => {
  const { asked, el, view } = shown(state(["one"], { run: 3 }));
  await el.find("Resume")!.click();
  assert.deepEqual(asked, [{ action: "resume", thread: "chat", run: 3, journal: "/journal" }]);
  view.destroy();
});

test("an older run has no Resume", () => {
  let older = true;
  const { el, view } = shown(state(["one"]), { older: () => older });
  assert.equal(el.find("Resume"), undefined);
  older = false;
  view.update(state(["one"], { run: 2 }));
  assert.ok(el.find("Resume"));
  view.destroy();
});

interface IFeed {
  state: RunNews;
}

/** The feed of a widget whose kernel sends these states. */
function fed(first: RunNews, ...others: RunNews[]): IFeed {
  type Heard = (message: unknown) => void;
  const widget = component<{
    default: { initialize(on: unknown): void; render(on: unknown): void };
  }>("widget.js");
  let hear: Heard = () => undefined;
  let feed: IFeed | null = null;
  const model = {
    get: () => first,
    on: (what: string, heard: Heard) => (hear = what === "msg:custom" ? heard : hear),
    send: () => undefined
  };
  const offer = (one: IFeed) => (feed = one);
  Object.assign(globalThis, { [Symbol.for("notebook-agents.feeds")]: { offer } });
  widget.default.initialize({ model });
  widget.default.render({ model, el: new Element() });
  for (const one of others) {
    hear({ kind: "state", state: one });
  }
  return feed!;
}

const ids = (news: RunNews) => news.steps.map(step => step.id);

test("a run of a thread that was made anew has none of the steps before", () => {
  const anew = state(["four"], { started: "2026-01-01T11:00:00.000001Z" });
  assert.deepEqual(ids(fed(state(["one", "two"]), anew).state), ["four"]);
  const { el, view } = shown(state(["one", "two"]));
  assert.ok(el.find("one"));
  view.update(anew);
  assert.ok(el.find("four"));
  assert.equal(el.find("one"), undefined);
  view.destroy();
});

test("a record that comes late takes no steps away", () => {
  const late = state(["one"], { status: "running" });
  assert.deepEqual(ids(fed(state(["one", "two"]), late).state), ["one", "two"]);
});
