/* The timeline as the view of an anywidget. */

import { kernelActions, print, renew } from "./kernel.js";
import { sameRun, works } from "./looks.js";
import { mount } from "./timeline.js";

/** What one model's kernel has sent so far: a view that is made later begins with all of it. */
class Feed {
  constructor(model) {
    this.model = model;
    this.steps = new Map();
    this.views = new Set();
    this.waiting = new Map();
    this.number = 0;
    this.take(model.get("state"));
    model.on("change:state", () => this.take(model.get("state")));
    model.on("msg:custom", (message) => this.hear(message));
    if (works(this.head)) model.send({ kind: "hello" });
  }

  hear(message) {
    if (message.kind === "delta") this.take(message.delta);
    else if (message.kind === "state") this.take(message.state);
    else if (message.kind === "reply" && this.waiting.has(message.number)) {
      this.waiting.get(message.number)(message.reply);
      this.waiting.delete(message.number);
    }
  }

  take(news) {
    const other = !this.head || !sameRun(this.head, news);
    if (other || (news.cut === 0 && news.steps.length >= this.steps.size)) this.steps.clear();
    this.head = { ...(other ? {} : this.head), ...news, steps: null };
    for (const step of news.steps) this.steps.set(step.id, step);
    for (const view of this.views) view.update(news);
  }

  get state() {
    return { ...this.head, steps: [...this.steps.values()] };
  }

  /** Ask over the comm, which a kernel answers only between two cells. */
  ask(asked) {
    return new Promise((resolve) => {
      this.waiting.set(++this.number, resolve);
      this.model.send({ kind: "request", number: this.number, request: asked });
    });
  }
}

const feeds = new WeakMap();
let newest = null; // of this module: each model has a module of its own

function initialize({ model }) {
  newest = new Feed(model);
  feeds.set(model, newest);
}

function render({ model, el }) {
  const feed = feeds.get(model) || newest || new Feed(model);
  const current = () => (model.widget_manager && model.widget_manager.kernel) || null;
  const cells = () => model.widget_manager?.context?.model?.cells || [];
  const heard = (state, record) => {
    feed.take(state);
    if (!works(state)) renew(cells(), record);
  };
  const printed = (said) => print(cells(), feed.head, said);
  const actions = kernelActions(current, heard, (asked) => feed.ask(asked), printed);
  const draw = () => {
    el.classList.remove("na-yields");
    const view = mount(el, feed.state, actions);
    feed.views.add(view);
    return () => {
      feed.views.delete(view);
      view.destroy();
    };
  };
  // JupyterLab's extension shows the run in its record's place, and outlives this kernel.
  const lab = globalThis[Symbol.for("notebook-agents.feeds")];
  if (!lab) return draw();
  el.classList.add("na-yields");
  return lab.offer(feed, draw);
}

export default { initialize, render };
