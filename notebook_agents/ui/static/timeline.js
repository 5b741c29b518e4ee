/* The timeline of a run: one component for every front end, without a build or a framework.
 *
 * mount(el, state, actions) draws a run's state (ui/state.py, version 1) into an element and
 * returns {update, destroy}. `update` takes a whole state or a delta: both have `steps`, a whole
 * state has `cut` too. `actions` reaches the kernel:
 *
 *   request(asked)   a promise of the reply {ok, said, state?, detail?} to {action, thread, …}
 *   watch(tell)      optional: calls tell("lost") when the kernel is gone and tell("ready") when
 *                    there is one again; returns a function that ends this
 *   older()          optional: whether the thread has a newer run than the shown one, which is the
 *                    one that would go on
 *   more(step)       optional: an element with what else is shown of a step in its opened row
 *
 * Everything that users, models and tools said is set as text, never as markup.
 */

import { LOOKS, badge, button, count, duration, money, node, sameRun, tries, works } from "./looks.js";
import { emptyItem, fillItem, lowerBound, setActive, setText, timeOf, whyOf } from "./rows.js";
import { facts, question, review } from "./forms.js";
import { Tree } from "./tree.js";

const ROW = 28; // pixels of a row, as timeline.css says
const AROUND = 12; // rows that are drawn above and below what is seen
const FILTER_FROM = 50;
const UNDECIDED = "Nobody knows whether the step in doubt happened: find out at the other side, and say it below.";

/** What a user opened, folded and typed, by run: a display that is drawn anew has it again. */
const kept = new Map();
let mounted = 0;

export function mount(el, state, actions) {
  const view = new Timeline(el, actions);
  view.update(state);
  return { update: (news) => view.update(news), destroy: () => view.destroy() };
}

class Timeline {
  constructor(el, actions) {
    this.actions = actions;
    this.name = `nat-${++mounted}`;
    this.tree = new Tree();
    this.state = null;
    this.lost = false;
    this.ready = true;
    this.busy = false;
    this.drawn = new Map();
    this.details = new Map();
    this.heights = new Map();
    this.lines = [];
    this.doubts = new Set();
    this.clicks = {
      open: (id) => {
        this.setActive(id);
        this.open(id, !this.memory.open.has(id));
      },
      fold: (id) => this.fold(id, !this.memory.folded.has(id)),
    };
    this.root = node("div", "nat-timeline");
    this.header = node("div", "nat-header");
    this.buttons = node("div", "nat-buttons");
    this.said = node("p", "nat-said nat-wrap");
    this.said.setAttribute("role", "status");
    this.announced = node("div", "nat-hidden");
    this.announced.setAttribute("aria-live", "polite");
    this.forms = node("div", "nat-forms");
    this.filter = this.makeFilter();
    this.scroller = this.makeTree();
    this.rest = node("p", "nat-soft");
    this.root.append(
      this.header, this.buttons, this.said, this.announced, this.forms, this.filter, this.scroller, this.rest,
    );
    el.append(this.root);
    this.timer = setInterval(() => this.tick(), 1000);
    this.unwatch = actions.watch ? actions.watch((what) => this.kernel(what)) : null;
  }

  destroy() {
    clearInterval(this.timer);
    if (this.unwatch) this.unwatch();
    if (this.memory) this.memory.views.delete(this);
    if (this.observer) this.observer.disconnect();
    this.root.remove();
  }

  makeFilter() {
    const label = node("label", "nat-filter", "Filter steps ");
    this.words = node("input");
    this.words.type = "search";
    this.words.placeholder = "name, state, argument, error";
    this.words.setAttribute("data-lm-suppress-shortcuts", "true");
    this.words.addEventListener("input", () => {
      this.memory.filter = this.words.value;
      this.layout();
    });
    label.append(this.words);
    return label;
  }

  makeTree() {
    const scroller = node("div", "nat-scroller");
    this.canvas = node("div", "nat-canvas");
    this.canvas.setAttribute("role", "tree");
    this.canvas.tabIndex = 0;
    // JupyterLab's own keys move between cells.
    this.canvas.setAttribute("data-lm-suppress-shortcuts", "true");
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    scroller.append(this.canvas);
    scroller.addEventListener("scroll", () => this.scrolled());
    if (typeof ResizeObserver !== "undefined") {
      this.observer = new ResizeObserver(() => {
        this.restoreScroll();
        this.paint();
      });
      this.observer.observe(scroller);
    }
    return scroller;
  }

  // -- news ------------------------------------------------------------------------------------------

  update(news) {
    if (!news || news.v !== 1) {
      if (news && news.v) this.said.textContent = "this timeline was made by a newer notebook-agents: install that one";
      return;
    }
    const before = this.state;
    const other = !before || !sameRun(before, news);
    const whole = other || (news.cut === 0 && news.steps.length >= this.tree.steps.size);
    this.state = { ...(other ? {} : before), ...news, steps: null };
    if (other) this.remember(news);
    const others = this.tree.take(news.steps, whole);
    if (whole) this.doubts = new Set();
    if (whole) this.wide = { again: 0, tokens: false, replayed: false };
    for (const step of news.steps) this.note(step);
    this.undecided = this.doubts.size > 0;
    if (works(this.state) ? !before || !works(before) || this.resumed(before) : true) this.lost = false;
    for (const step of news.steps) this.renewDetails(step.id);
    this.drawHeader(before);
    this.drawForms();
    this.layout({ follow: works(this.state), others });
  }

  /** Take note of what a step needs beside its row. */
  note(step) {
    this.wide.again = Math.max(this.wide.again, tries(step).said.length);
    this.wide.tokens = this.wide.tokens || Boolean(step.tokens);
    this.wide.replayed = this.wide.replayed || step.replayed;
    if (!step.undecided) this.doubts.delete(step.id);
    else this.doubts.add(step.id);
    if (!step.undecided || this.memory.asked.has(step.id)) return;
    this.memory.asked.add(step.id);
    this.memory.open.add(step.id);
  }

  resumed(before) {
    return before.processes !== this.state.processes;
  }

  remember(state) {
    const key = `${state.thread}\n${state.run}`;
    const fresh = { open: new Set(), folded: new Set(), filter: "", active: null, scroll: 0, asked: new Set(), said: "", wrong: false, views: new Set() };
    if (this.memory) this.memory.views.delete(this);
    this.memory = kept.get(key) || fresh;
    this.memory.views.add(this);
    kept.set(key, this.memory);
    this.words.value = this.memory.filter;
    this.showSaid();
    this.restore = this.memory.scroll;
    this.details.clear();
    this.forms.replaceChildren();
    this.formKeys = "";
  }

  /** The kernel went away, or there is one again. */
  kernel(what) {
    if (what === "lost") {
      this.ready = false;
      if (this.state && works(this.state)) this.lost = true;
    } else {
      this.ready = true;
    }
    this.busy = false;
    if (!this.state) return;
    this.drawHeader(this.state);
    this.drawForms();
    this.layout();
  }

  tick() {
    if (!this.state || !works(this.state) || this.lost) return;
    for (const [id, row] of this.drawn) {
      const step = this.tree.steps.get(id);
      if (step && step.state === "running") setText(row.parts.time, this.time(step));
    }
  }

  // -- above the tree --------------------------------------------------------------------------------

  drawHeader(before) {
    const state = this.state;
    const look = this.lost ? "lost" : state.status;
    const title = node("div", "nat-title");
    title.append(
      node("strong", "", state.agent), node("span", "nat-soft", ` · thread ${state.thread} · run ${state.run} `),
      badge(look, "nat-status"),
    );
    const lines = [title];
    for (const text of this.facts()) lines.push(node("p", "", text));
    // What can be done right here needs no call to be typed.
    const here = this.lost || state.interrupts.length || this.undecided;
    if (state.error && !here) lines.push(node("pre", "nat-error", state.error));
    if (this.undecided && !this.lost) lines.push(node("p", "nat-next", UNDECIDED));
    const next = here ? null : state.next;
    if (next) {
      const line = node("p", "nat-next");
      line.append(node("span", "", `Next: ${next.what}: `), node("code", "", next.call));
      lines.push(line);
    }
    this.header.replaceChildren(...lines);
    this.drawButtons();
    if (!before || before.status !== state.status || this.lost) {
      this.announced.textContent = `${state.agent}, thread ${state.thread}: ${(LOOKS[look] || ["", look])[1]}`;
    }
  }

  facts() {
    const state = this.state;
    if (this.lost) return this.lostFacts();
    const told = [state.told];
    if (state.usage) told.push(`${count(state.usage.tokens, "token")}`);
    if (state.usage && state.usage.cost !== null) told.push(money(state.usage.cost));
    if (state.ended && state.started) {
      const seconds = (new Date(state.ended) - new Date(state.started)) / 1000;
      if (!works(state)) told.push(duration(seconds));
    }
    return [told.join(" · ")];
  }

  lostFacts() {
    const returned = [...this.tree.steps.values()].filter((step) => step.state === "returned").length;
    const open = this.doubtful();
    const kept = returned === 1 ? "it is kept and not run again" : "they are kept and not run again";
    const told = [returned ? `${count(returned, "step")} returned: ${kept}.` : "No step has returned."];
    if (open.length) {
      const names = open.slice(0, 4).map((step) => step.name).join(", ") + (open.length > 4 ? ", …" : "");
      told.push(`${count(open.length, "step")} may or may not have happened: ${names}.`);
    }
    told.push(this.ready ? "Resume goes on from there." : "Waiting for a kernel to resume in.");
    return told;
  }

  /** Of what ran when the kernel went, the innermost steps. */
  doubtful() {
    const open = [...this.tree.steps.values()].filter((step) => step.state === "running" || step.state === "uncertain");
    const around = new Set(open.map((step) => step.parent));
    return open.filter((step) => !around.has(step.id));
  }

  drawButtons() {
    const state = this.state;
    const made = [];
    if (works(state) && !this.lost) {
      made.push(button("Stop", "Begin no further step; what returned is kept", () => this.ask({ action: "stop" })));
    }
    const open = ["failed", "orphaned", "in_doubt"].includes(state.status)
      || (state.status === "pending" && !state.driver) || (state.status === "waiting" && !state.interrupts.length);
    const older = this.actions.older ? this.actions.older() : false;
    if (!older && (this.lost || (open && !this.undecided))) {
      made.push(button("Resume", "Go on behind what returned", () => this.ask({ action: "resume" }, "resuming")));
    }
    for (const one of made) one.disabled = !this.ready || (this.busy && one.textContent !== "Stop");
    this.replaceKeepingFocus(this.buttons, made);
  }

  /** Put new buttons in the place of old ones; one that had the focus keeps it. */
  replaceKeepingFocus(box, made) {
    const before = [...box.children].map((one) => `${one.textContent}${one.disabled}`).join();
    if (before === made.map((one) => `${one.textContent}${one.disabled}`).join()) return;
    const focused = box.contains(document.activeElement) ? document.activeElement.textContent : null;
    box.replaceChildren(...made);
    const again = focused && (made.find((one) => one.textContent === focused) || made[0]);
    if (again) again.focus();
  }

  say(text, wrong) {
    this.memory.said = text || "";
    this.memory.wrong = Boolean(wrong);
    for (const view of this.memory.views) view.showSaid();
  }

  showSaid() {
    this.said.textContent = this.memory.said;
    this.said.classList.toggle("nat-bad", this.memory.wrong);
  }

  /** Have the kernel do something; the reply, or why there is none, is said. */
  async ask(asked, meanwhile) {
    const { thread, run, journal } = this.state;
    if (asked.action !== "detail") {
      this.busy = true;
      this.say(`${meanwhile || "asking"}…`);
      this.drawButtons();
    }
    let reply;
    try {
      reply = await this.actions.request({ ...asked, thread, journal, ...(asked.action === "stop" ? {} : { run }) });
    } catch (error) {
      reply = { ok: false, said: `the kernel did not do it: ${error && error.message ? error.message : error}` };
    }
    if (asked.action !== "detail") {
      this.busy = false;
      this.say(reply.said, !reply.ok);
    }
    if (reply.state) this.update(reply.state);
    else this.drawButtons();
    return reply;
  }

  // -- what a run asks -------------------------------------------------------------------------------

  drawForms() {
    const asked = this.lost ? [] : this.state.interrupts || [];
    const keys = asked.map((one) => one.id).join();
    if (keys === this.formKeys) return;
    this.formKeys = keys;
    this.forms.replaceChildren(...asked.map((one) => (one.kind === "review" ? review(one, this.answers(one)) : question(one, this.answers(one)))));
  }

  answers(asked) {
    return async (form, value) => {
      form.disabled = true;
      const reply = await this.ask({ action: "answer", answers: { [asked.id]: value } }, "answered, going on");
      form.disabled = false;
      if (reply.ok) return;
      this.said.scrollIntoView({ block: "nearest" });
    };
  }

  // -- the tree --------------------------------------------------------------------------------------

  /** Compute the rows, anew unless they are of the same steps, and draw those that are seen. */
  layout({ follow = false, others = true } = {}) {
    const words = this.memory.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const many = this.tree.steps.size > FILTER_FROM;
    this.filter.hidden = !many && !words.length;
    const atEnd = this.scroller.scrollTop + this.scroller.clientHeight >= this.scroller.scrollHeight - ROW;
    if (others || words.length) {
      this.lines = this.tree.rows(this.memory.folded, words);
      this.tops = null;
    }
    for (const [name, width] of Object.entries({ again: `${6 * this.wide.again}em`, tokens: "8em", replayed: "5em" })) {
      this.canvas.style.setProperty(`--nat-${name}`, this.wide[name] ? width : "0");
    }
    this.canvas.setAttribute("aria-label", `steps of ${this.state.agent}, thread ${this.state.thread}`);
    this.canvas.hidden = !this.lines.length;
    const cut = this.state.cut && this.tree.steps.size < this.state.counts.steps
      ? `${count(this.state.counts.steps - this.tree.steps.size, "more step")} are in the journal and not in this saved display.` : "";
    const none = words.length && !this.lines.length ? "No step matches the filter." : "";
    this.rest.textContent = [none, cut].filter(Boolean).join(" ");
    this.paint();
    if (follow && atEnd && this.memory.active === null) {
      this.scroller.scrollTop = this.scroller.scrollHeight;
      this.paint();
    }
  }

  /** Scroll a display that was drawn anew to where the one before it was. */
  restoreScroll() {
    if (!this.restore || !this.scroller.clientHeight) return;
    this.scroller.scrollTop = this.restore;
    this.restore = 0;
  }

  scrolled() {
    if (!this.restore) this.memory.scroll = this.scroller.scrollTop;
    if (this.painting) return;
    this.painting = requestAnimationFrame(() => {
      this.painting = null;
      this.paint();
    });
  }

  height(id) {
    return ROW + (this.memory.open.has(id) ? this.heights.get(id) || 120 : 0);
  }

  /** Compute where each row is, if that may have changed. */
  measure() {
    const open = [...this.memory.open].join();
    if (this.tops && open === this.measured) return;
    this.measured = open;
    this.tops = new Array(this.lines.length);
    let total = 0;
    this.lines.forEach((line, place) => {
      this.tops[place] = total;
      total += this.height(line.id);
    });
    this.canvas.style.height = `${total}px`;
  }

  /** Draw the rows that are seen, and no others: 10,000 stay as smooth as ten. */
  paint() {
    if (!this.state) return;
    this.measure();
    const { lines, tops } = this;
    const top = this.scroller.scrollTop;
    const bottom = top + (this.scroller.clientHeight || 480);
    let first = 0;
    let last = lines.length - 1;
    if (lines.length > 4 * AROUND) {
      first = Math.max(0, lowerBound(tops, top) - AROUND);
      last = Math.min(last, lowerBound(tops, bottom) + AROUND);
    }
    const seen = new Set();
    for (let place = first; place <= last; place++) seen.add(lines[place].id);
    const spare = []; // elements of rows that went out of sight: for those that come into it
    for (const [id, item] of this.drawn) {
      if (seen.has(id) || item.contains(document.activeElement)) continue;
      this.drawn.delete(id);
      spare.push(item);
    }
    let moved = false;
    for (let place = first; place <= last; place++) moved = this.drawRow(lines[place], tops[place], spare) || moved;
    for (const item of spare) item.remove();
    this.setActive(this.memory.active);
    if (moved && !this.again) {
      this.again = true; // what was opened has a height now
      this.tops = null;
      this.paint();
      this.again = false;
    }
  }

  /** Draw one row; return whether its height turned out to be another. */
  drawRow(line, top, spare) {
    const step = this.tree.steps.get(line.id);
    const open = this.memory.open.has(line.id);
    const folded = this.memory.folded.has(line.id);
    const mark = [line.depth, line.position, line.size, line.inner, folded, open, this.lost].join();
    let item = this.drawn.get(line.id);
    if (!item) {
      item = spare.pop() || this.canvas.appendChild(emptyItem(this.clicks));
      this.drawn.set(line.id, item);
    }
    if (item.step !== step || item.mark !== mark) {
      const state = this.lost && step.state === "running" ? "uncertain" : step.state;
      Object.assign(item, { step, mark });
      fillItem(item, step, {
        name: this.name, line, state, folded, open, time: this.time(step), why: this.lost ? "" : whyOf(step),
      });
      const details = open ? this.detailsOf(step) : null;
      if (item.lastChild !== item.row && item.lastChild !== details) item.lastChild.remove();
      if (details && item.lastChild !== details) item.append(details);
    }
    if (item.top !== top) item.style.top = `${(item.top = top)}px`;
    if (!open) return false;
    const height = item.lastChild.offsetHeight;
    if (!height || height === this.heights.get(line.id)) return false;
    this.heights.set(line.id, height);
    return true;
  }

  time(step) {
    return timeOf(step, this.lost ? null : this.state);
  }

  // -- an opened row ---------------------------------------------------------------------------------

  detailsOf(step) {
    let made = this.details.get(step.id);
    if (!made) {
      made = node("div", "nat-details");
      made.setAttribute("role", "group");
      made.setAttribute("aria-label", `details of ${step.name}`);
      made.addEventListener("keydown", (event) => event.stopPropagation());
      this.details.set(step.id, made);
      this.fillDetails(made, step);
      if (this.observer) this.observer.observe(made); // what is in it can be unfolded
      if (step.result === null && step.state === "returned") this.askDetail(step);
    }
    return made;
  }

  renewDetails(id) {
    const made = this.details.get(id);
    const step = this.tree.steps.get(id);
    if (!made) return;
    if (!made.contains(document.activeElement)) this.fillDetails(made, step);
    if (step.result === null && step.state === "returned") this.askDetail(step);
  }

  fillDetails(box, step) {
    const said = (happened, result) => this.ask({ action: "resolve", step: step.id, happened, result }, "noting it");
    const more = this.actions.more ? [this.actions.more(step.id)] : [];
    box.replaceChildren(...facts(step, said), ...more);
  }

  async askDetail(step) {
    const reply = await this.ask({ action: "detail", step: step.id });
    if (!reply.ok || !reply.detail) return;
    const now = this.tree.steps.get(step.id);
    if (!now) return;
    this.tree.steps.set(step.id, { ...now, args: reply.detail.args ?? now.args, result: reply.detail.result });
    const made = this.details.get(step.id);
    if (made) this.fillDetails(made, this.tree.steps.get(step.id));
    this.paint();
  }

  // -- keys ------------------------------------------------------------------------------------------

  open(id, open) {
    if (open) this.memory.open.add(id);
    else this.memory.open.delete(id);
    this.paint();
  }

  fold(id, folded) {
    if (folded) this.memory.folded.add(id);
    else this.memory.folded.delete(id);
    this.layout();
  }

  setActive(id) {
    this.memory.active = id;
    for (const [other, item] of this.drawn) setActive(item, other === id);
    if (id !== null && this.drawn.has(id)) this.canvas.setAttribute("aria-activedescendant", `${this.name}-${id}`);
    else this.canvas.removeAttribute("aria-activedescendant");
  }

  goTo(place) {
    if (!this.lines.length) return;
    const to = Math.max(0, Math.min(place, this.lines.length - 1));
    this.measure();
    const top = this.tops[to];
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.scroller.scrollTop = top + ROW - clientHeight;
    this.memory.active = this.lines[to].id;
    this.paint();
  }

  key(event) {
    if (event.target !== this.canvas || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = this.lines.findIndex((line) => line.id === this.memory.active);
    const line = this.lines[place];
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1);
    const moves = { ArrowDown: place + 1, ArrowUp: Math.max(place - 1, 0), Home: 0, End: this.lines.length - 1, PageDown: place + page, PageUp: place - page };
    if (event.key in moves) this.goTo(moves[event.key]);
    else if (!line) return;
    else if (event.key === "Enter" || event.key === " ") this.open(line.id, !this.memory.open.has(line.id));
    else if (event.key === "ArrowRight") {
      if (line.inner && this.memory.folded.has(line.id)) this.fold(line.id, false);
      else if (line.inner) this.goTo(place + 1);
    } else if (event.key === "ArrowLeft") {
      if (line.inner && !this.memory.folded.has(line.id)) this.fold(line.id, true);
      else this.goTo(this.lines.findIndex((other) => other.id === this.tree.steps.get(line.id).parent));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
