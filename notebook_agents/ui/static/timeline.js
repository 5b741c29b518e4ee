/* The timeline of a run: one component for every front end, without a build or a framework.
 *
 * mount(el, state, actions) draws a run's state (ui/state.py, version 1) into an element and
 * returns {update, destroy}. `update` takes a whole state or a delta: both have `steps`, a whole
 * state has `cut` too. `actions` reaches the kernel:
 *
 *   request(asked)   a promise of the reply {ok, said, state?, detail?} to {action, thread, …}
 *   watch(tell)      optional: calls tell("lost") when the kernel is gone and tell("ready") when
 *                    there is one again; returns a function that ends this
 *
 * Everything that users, models and tools said is set as text, never as markup.
 */

const MEDIA_TYPE = "application/vnd.notebook-agents.timeline.v1+json";
const REPLY = "application/vnd.notebook-agents.reply.v1+json";
const ROW = 28; // pixels of a row, as timeline.css says
const AROUND = 12; // rows that are drawn above and below what is seen
const FILTER_FROM = 50;
const TRIES = 3;
const UNDECIDED = "Nobody knows whether the step in doubt happened: find out at the other side, and say it below.";
const STOP_MS = 3000; // after this a kernel that does not answer is interrupted

const LOOKS = {
  running: ["▸", "running", "live"],
  returned: ["✓", "returned", "good"],
  failed: ["✗", "failed", "bad"],
  suspended: ["‖", "waiting", "doubt"],
  uncertain: ["?", "in doubt", "doubt"],
  late: ["~", "late", "doubt"],
  pending: ["○", "pending", "live"],
  succeeded: ["✓", "succeeded", "good"],
  cancelled: ["–", "cancelled", "doubt"],
  waiting: ["‖", "waiting for you", "doubt"],
  in_doubt: ["?", "in doubt", "doubt"],
  orphaned: ["!", "stopped", "doubt"],
  lost: ["!", "its kernel is gone", "doubt"],
};

/** What a user opened, folded and typed, by run: a display that is drawn anew has it again. */
const kept = new Map();
let mounted = 0;

// -- small helpers ---------------------------------------------------------------------------------

function node(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

function button(text, title, onClick) {
  const made = node("button", "nat-button", text);
  made.type = "button";
  if (title) made.title = title;
  made.addEventListener("click", onClick);
  return made;
}

function count(number, word) {
  return `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
}

function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(Math.max(seconds, 0) * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function money(dollars) {
  if (dollars >= 0.01 || dollars === 0) return `$${dollars.toFixed(2)}`;
  return `$${Number(dollars.toPrecision(2))}`;
}

function clock(moment) {
  const at = new Date(moment);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleTimeString();
}

function badge(look, className) {
  const [glyph, word, tone] = LOOKS[look] || ["·", look, "live"];
  const made = node("span", `${className} nat-${tone}`);
  const sign = node("span", "nat-glyph", glyph);
  sign.setAttribute("aria-hidden", "true");
  made.append(sign, node("span", "", word));
  return made;
}

function works(state) {
  return state.status === "running" || state.status === "pending";
}

// -- what is shown: the steps, and which of them in which order --------------------------------------

class Tree {
  constructor() {
    this.steps = new Map();
    this.children = new Map();
  }

  take(steps, whole) {
    if (whole) {
      this.steps.clear();
      this.children.clear();
    }
    for (const step of steps) {
      const before = this.steps.get(step.id);
      this.steps.set(step.id, before && step.result === null ? { ...step, result: before.result } : step);
      if (before) continue;
      const siblings = this.children.get(step.parent) || [];
      siblings.push(step.id);
      this.children.set(step.parent, siblings);
    }
  }

  below(id) {
    return this.children.get(id) || [];
  }

  roots() {
    const found = [];
    for (const [parent, ids] of this.children) {
      if (parent === null || !this.steps.has(parent)) found.push(ids);
    }
    if (found.length === 1) return found[0];
    const order = new Map([...this.steps.keys()].map((id, place) => [id, place]));
    return found.flat().sort((one, two) => order.get(one) - order.get(two));
  }

  /** The rows: {id, depth, position, size} of each step that is not folded or filtered away. */
  rows(folded, words) {
    const wanted = words.length ? this.matching(words) : null;
    const rows = [];
    const level = (ids) => (wanted ? ids.filter((id) => wanted.has(id)) : ids);
    const stack = [{ ids: level(this.roots()), next: 0, depth: 1 }];
    while (stack.length) {
      const top = stack[stack.length - 1];
      if (top.next >= top.ids.length) {
        stack.pop();
        continue;
      }
      const id = top.ids[top.next++];
      const inner = level(this.below(id));
      rows.push({ id, depth: top.depth, position: top.next, size: top.ids.length, inner: inner.length });
      if (inner.length && (wanted || !folded.has(id))) stack.push({ ids: inner, next: 0, depth: top.depth + 1 });
    }
    return rows;
  }

  matching(words) {
    const found = new Set();
    for (const step of this.steps.values()) {
      const look = LOOKS[step.state] ? LOOKS[step.state][1] : step.state;
      const text = [step.name, look, step.replayed ? "replayed" : "", step.args || "", step.id];
      for (const attempt of step.attempts) text.push(attempt.error || "");
      const all = text.join(" ").toLowerCase();
      if (!words.every((word) => all.includes(word))) continue;
      for (let one = step; one && !found.has(one.id); one = this.steps.get(one.parent)) found.add(one.id);
    }
    return found;
  }
}

// -- the component -----------------------------------------------------------------------------------

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
    const other = !before || before.thread !== news.thread || before.run !== news.run;
    const whole = other || (news.cut === 0 && news.steps.length >= this.tree.steps.size);
    this.state = { ...(other ? {} : before), ...news, steps: null };
    if (other) this.remember(news);
    this.tree.take(news.steps, whole);
    this.undecided = false;
    this.wide = { again: false, tokens: false, replayed: false };
    for (const step of this.tree.steps.values()) {
      this.undecided = this.undecided || step.undecided;
      this.wide.again = this.wide.again || step.attempts.length > 1;
      this.wide.tokens = this.wide.tokens || Boolean(step.tokens);
      this.wide.replayed = this.wide.replayed || step.replayed;
      if (step.undecided && !this.memory.asked.has(step.id)) {
        this.memory.asked.add(step.id);
        this.memory.open.add(step.id);
      }
    }
    if (works(this.state) ? !before || !works(before) || this.resumed(before) : true) this.lost = false;
    for (const step of news.steps) this.renewDetails(step.id);
    this.drawHeader(before);
    this.drawForms();
    this.layout(works(this.state));
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
      if (step && step.state === "running") row.querySelector(".nat-time").textContent = this.time(step);
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
    if (this.lost || (open && !this.undecided)) {
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
    const state = this.state;
    if (asked.action !== "detail") {
      this.busy = true;
      this.say(`${meanwhile || "asking"}…`);
      this.drawButtons();
    }
    let reply;
    try {
      reply = await this.actions.request({ ...asked, thread: state.thread, journal: state.journal });
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
    this.forms.replaceChildren(...asked.map((one) => (one.kind === "review" ? this.review(one) : this.question(one))));
  }

  form(title) {
    const made = node("fieldset", "nat-form");
    made.append(node("legend", "", title));
    made.setAttribute("data-lm-suppress-shortcuts", "true");
    return made;
  }

  question(asked) {
    const form = this.form(`${asked.node} asks`);
    const text = asked.text !== null ? asked.text
      : typeof asked.value === "string" ? asked.value : JSON.stringify(asked.value, null, 2);
    form.append(node("pre", "nat-asked", text));
    const field = this.area("Your answer", "");
    const json = node("input");
    json.type = "checkbox";
    const label = node("label", "nat-check");
    label.append(json, node("span", "", " the answer is JSON (true, 3, {\"a\": 1}), not text"));
    const send = button("Answer", "Go on with this answer", () => {
      const answer = json.checked ? this.parsed(field) : { value: field.input.value };
      if (answer) this.answer(form, asked.id, answer.value);
    });
    form.append(field.label, label, send);
    return form;
  }

  area(title, value) {
    const label = node("label", "nat-field", title);
    const input = node("textarea");
    input.value = value;
    input.rows = Math.min(12, value.split("\n").length + 1);
    input.spellcheck = false;
    const wrong = node("span", "nat-wrong");
    wrong.setAttribute("role", "alert");
    label.append(input, wrong);
    return { label, input, wrong };
  }

  parsed(field) {
    try {
      field.wrong.textContent = "";
      field.input.removeAttribute("aria-invalid");
      return { value: JSON.parse(field.input.value) };
    } catch (error) {
      field.wrong.textContent = `this is no JSON: ${error.message}`;
      field.input.setAttribute("aria-invalid", "true");
      field.input.focus();
      return null;
    }
  }

  review(asked) {
    const single = asked.value.type === "tool_approval";
    const requests = single ? [asked.value] : asked.value.action_requests;
    const form = this.form(`${asked.node} asks before ${requests.length === 1 ? "it calls a tool" : "it calls tools"}`);
    const send = button("Send", "Send these decisions", () => {
      const decisions = parts.map((part) => part.decision());
      if (decisions.every(Boolean)) this.answer(form, asked.id, single ? decisions[0] : { decisions });
    });
    const parts = requests.map((one, place) => {
      const configs = asked.value.review_configs || [];
      const config = configs.find((other) => other.action_name === one.name) || configs[place] || {};
      const chosen = (choice) => {
        send.disabled = !parts.every((part) => part.choice());
        send.hidden = parts.length === 1 && choice === "approve";
        if (choice === "approve" && parts.length === 1) send.click();
      };
      return this.decision(one, config.allowed_decisions || ["approve", "edit", "reject"], chosen);
    });
    send.disabled = true;
    send.hidden = parts.length === 1; // Approve sends by itself
    form.append(...parts.map((part) => part.element), send);
    return form;
  }

  /** One tool call to decide on. */
  decision(asked, allowed, chosen) {
    const element = node("div", "nat-decision");
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", `call of ${asked.name}`);
    element.append(node("code", "nat-tool", asked.name));
    if (asked.description) element.append(node("p", "nat-soft nat-wrap", asked.description));
    const args = this.area("Arguments, as JSON", JSON.stringify(asked.args ?? {}, null, 2));
    args.input.readOnly = true;
    const reason = this.area("Reason (the model reads it)", "");
    reason.label.hidden = true;
    const bar = node("div", "nat-buttons");
    let choice = null;
    const choose = (what) => {
      choice = what;
      args.input.readOnly = what !== "edit";
      reason.label.hidden = what !== "reject" && what !== "respond";
      for (const one of bar.children) one.setAttribute("aria-pressed", String(one.dataset.what === what));
      if (what === "edit") args.input.focus();
      else if (!reason.label.hidden) reason.input.focus();
      chosen(what);
    };
    const names = { approve: "Approve", edit: "Edit", reject: "Reject", respond: "Respond" };
    for (const what of allowed.filter((one) => names[one])) {
      const one = button(names[what], "", () => choose(what));
      one.dataset.what = what;
      one.setAttribute("aria-pressed", "false");
      bar.append(one);
    }
    element.append(args.label, bar, reason.label);
    const decision = () => {
      if (choice === "approve") return { type: "approve" };
      if (choice === "edit") {
        const edited = this.parsed(args);
        return edited && { type: "edit", edited_action: { name: asked.name, args: edited.value } };
      }
      const message = reason.input.value;
      return choice === "respond" || message ? { type: choice, message } : { type: choice };
    };
    return { element, choice: () => choice, decision };
  }

  async answer(form, id, value) {
    form.disabled = true;
    const reply = await this.ask({ action: "answer", answers: { [id]: value } }, "answered, going on");
    form.disabled = false;
    if (reply.ok) return;
    this.said.scrollIntoView({ block: "nearest" });
  }

  // -- the tree --------------------------------------------------------------------------------------

  /** Compute the rows anew and draw those that are seen. */
  layout(follow) {
    const words = this.memory.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const many = this.tree.steps.size > FILTER_FROM;
    this.filter.hidden = !many && !words.length;
    const atEnd = this.scroller.scrollTop + this.scroller.clientHeight >= this.scroller.scrollHeight - ROW;
    this.lines = this.tree.rows(this.memory.folded, words);
    for (const [name, width] of Object.entries({ again: "6em", tokens: "8em", replayed: "5em" })) {
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

  /** Draw the rows that are seen, and no others: 10,000 stay as smooth as ten. */
  paint() {
    if (!this.state) return;
    const tops = new Array(this.lines.length);
    let total = 0;
    this.lines.forEach((line, place) => {
      tops[place] = total;
      total += this.height(line.id);
    });
    this.canvas.style.height = `${total}px`;
    const top = this.scroller.scrollTop;
    const bottom = top + (this.scroller.clientHeight || 480);
    let first = 0;
    let last = this.lines.length - 1;
    if (this.lines.length > 4 * AROUND) {
      first = Math.max(0, lowerBound(tops, top) - AROUND);
      last = Math.min(last, lowerBound(tops, bottom) + AROUND);
    }
    const seen = new Set();
    let moved = false;
    for (let place = first; place <= last; place++) {
      const line = this.lines[place];
      seen.add(line.id);
      moved = this.drawRow(line, tops[place]) || moved;
    }
    for (const [id, row] of this.drawn) {
      if (seen.has(id) || row.contains(document.activeElement)) continue;
      row.remove();
      this.drawn.delete(id);
    }
    this.setActive(this.memory.active);
    if (moved && !this.again) {
      this.again = true; // what was opened has a height now
      this.paint();
      this.again = false;
    }
  }

  /** Draw one row; return whether its height turned out to be another. */
  drawRow(line, top) {
    const step = this.tree.steps.get(line.id);
    const open = this.memory.open.has(line.id);
    const mark = [line.depth, line.position, line.size, line.inner, this.memory.folded.has(line.id), open, this.lost].join();
    let row = this.drawn.get(line.id);
    if (!row || row.step !== step || row.mark !== mark) {
      const fresh = row || node("div", "nat-item");
      fresh.step = step;
      fresh.mark = mark;
      this.fillRow(fresh, line, step, open);
      if (!row) this.canvas.append(fresh);
      this.drawn.set(line.id, (row = fresh));
    }
    row.style.top = `${top}px`;
    if (!open) return false;
    const height = row.lastChild.offsetHeight;
    if (!height || height === this.heights.get(line.id)) return false;
    this.heights.set(line.id, height);
    return true;
  }

  fillRow(item, line, step, open) {
    const folded = this.memory.folded.has(line.id);
    const state = this.lost && step.state === "running" ? "uncertain" : step.state;
    const row = node("div", "nat-row");
    row.id = `${this.name}-${step.id}`;
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", line.depth);
    row.setAttribute("aria-posinset", line.position);
    row.setAttribute("aria-setsize", line.size);
    row.setAttribute("aria-selected", "false");
    if (line.inner) row.setAttribute("aria-expanded", String(!folded));
    const name = node("span", "nat-name");
    name.style.paddingLeft = `${(line.depth - 1) * 18}px`;
    const twist = node("span", "nat-twist", line.inner ? (folded ? "▹" : "▿") : "");
    twist.setAttribute("aria-hidden", "true");
    twist.addEventListener("click", (event) => {
      event.stopPropagation();
      this.fold(line.id, !folded);
    });
    name.append(twist, node("span", "nat-label", step.name));
    const again = step.attempts.length > 1 ? `${step.attempts.length} attempts` : "";
    const hint = step.undecided ? "decide below" : open ? "" : step.args || "";
    row.append(
      badge(state, "nat-state"), name, node("span", "nat-hint", hint), node("span", "nat-again", again),
      node("span", "nat-number", step.tokens ? `${step.tokens.toLocaleString()} tokens` : ""),
      node("span", "nat-number nat-time", this.time(step)), node("span", "nat-mark", step.replayed ? "replayed" : ""),
    );
    row.title = this.lost ? "" : this.why(step);
    row.setAttribute("aria-label", this.spoken(step, state));
    row.addEventListener("click", () => {
      this.setActive(line.id);
      this.open(line.id, !this.memory.open.has(line.id));
    });
    const parts = [row];
    if (open) parts.push(this.detailsOf(step));
    item.replaceChildren(...parts);
  }

  time(step) {
    if (step.state === "running" && works(this.state) && !this.lost) {
      const began = new Date(step.attempts[step.attempts.length - 1].started);
      return duration((Date.now() - began) / 1000);
    }
    return step.seconds === null ? "" : duration(step.seconds);
  }

  why(step) {
    return step.attempts.map((attempt) => attempt.why || attempt.error || "").filter(Boolean).join("\n").slice(0, 600);
  }

  spoken(step, state) {
    const said = [step.name, (LOOKS[state] || ["", state])[1]];
    if (step.replayed) said.push("replayed");
    if (step.attempts.length > 1) said.push(`${step.attempts.length} attempts`);
    if (step.seconds !== null) said.push(duration(step.seconds));
    if (step.tokens) said.push(count(step.tokens, "token"));
    if (step.undecided) said.push("has to be decided");
    return said.join(", ");
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
    const parts = [];
    const fact = (title, text, className) => {
      const line = node("div", "nat-fact");
      line.append(node("span", "nat-soft", title), node("pre", className || "", text));
      parts.push(line);
    };
    if (step.args !== null && step.args !== undefined) fact("arguments", step.args);
    if (step.result !== null && step.result !== undefined) fact("result", step.result);
    for (const attempt of step.attempts) {
      if (attempt.error) fact(step.attempts.length > 1 ? `error ${attempt.number}` : "error", attempt.error, "nat-error");
    }
    if (step.attempts.length > 1) fact("attempts", step.attempts.map((one) => this.attempt(one)).join("\n"));
    for (const one of step.decisions) fact("said", `${one.said.replaceAll("_", " ")} (attempt ${one.attempt}), ${one.user} on ${one.host}, ${clock(one.at)}`);
    const cost = step.cost === null || step.cost === undefined ? "" : ` · ${money(step.cost)}`;
    fact("step", `${step.id} · started ${clock(step.started)}${cost}`);
    if (step.undecided) parts.push(this.resolving(step));
    box.replaceChildren(...parts);
  }

  attempt(one) {
    const took = one.seconds === null ? "" : `, ${duration(one.seconds)}`;
    const look = LOOKS[one.outcome] || ["", one.outcome];
    return `${one.number}: ${one.why || look[1]} (${clock(one.started)}${took})`;
  }

  async askDetail(step) {
    const reply = await this.ask({ action: "detail", step: step.id, run: this.state.run });
    if (!reply.ok || !reply.detail) return;
    const now = this.tree.steps.get(step.id);
    if (!now) return;
    this.tree.steps.set(step.id, { ...now, args: reply.detail.args ?? now.args, result: reply.detail.result });
    const made = this.details.get(step.id);
    if (made) this.fillDetails(made, this.tree.steps.get(step.id));
    this.paint();
  }

  /** Ask whether a step in doubt happened. */
  resolving(step) {
    const form = this.form("Did it happen? Look at the other side, then say it");
    form.append(node("p", "nat-soft", `Every attempt went out with the key ${step.key}`));
    const result = this.area("What it returned, as JSON", "null");
    const say = async (happened, value) => {
      form.disabled = true;
      await this.ask({ action: "resolve", step: step.id, happened, result: value }, "noting it");
      form.disabled = false;
    };
    const bar = node("div", "nat-buttons");
    bar.append(
      button("It happened", "Its result is what you say; it is not run again", () => {
        const value = this.parsed(result);
        if (value) say(true, value.value);
      }),
      button("It did not", "It is run again when the run goes on", () => say(false, null)),
    );
    form.append(result.label, bar);
    return form;
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
    for (const [other, item] of this.drawn) {
      const row = item.firstChild;
      row.classList.toggle("nat-active", other === id);
      row.setAttribute("aria-selected", String(other === id));
    }
    if (id !== null && this.drawn.has(id)) this.canvas.setAttribute("aria-activedescendant", `${this.name}-${id}`);
    else this.canvas.removeAttribute("aria-activedescendant");
  }

  goTo(place) {
    if (!this.lines.length) return;
    const to = Math.max(0, Math.min(place, this.lines.length - 1));
    let top = 0;
    for (let before = 0; before < to; before++) top += this.height(this.lines[before].id);
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

/** The last place whose top is not below `value`. */
function lowerBound(tops, value) {
  let low = 0;
  let high = tops.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

// -- reaching a Jupyter kernel -----------------------------------------------------------------------

/** Execute a request in a kernel, of @jupyterlab/services; return the reply. */
export async function execute(kernel, asked, onState) {
  const said = JSON.stringify(JSON.stringify(asked));
  const code = `__import__("notebook_agents.ui.actions", fromlist=["request"]).request(${said})`;
  let reply = null;
  let problem = "the kernel gave no answer: try again when it is idle";
  for (let tries = 0; tries < TRIES; tries++) {
    const future = kernel.requestExecute({ code, silent: false, store_history: false, stop_on_error: false, allow_stdin: false });
    future.onIOPub = ({ header, content }) => {
      if (header.msg_type === "error") problem = `${content.ename}: ${content.evalue}`;
      const data = content.data || {};
      if (data[REPLY]) reply = data[REPLY];
      if (data[MEDIA_TYPE] && onState) onState(data[MEDIA_TYPE], data);
    };
    const { content } = await future.done;
    // What was sent before a cell ended with an error, as one that is stopped does, is dropped.
    if (content.status !== "aborted") break;
  }
  return reply || { ok: false, said: problem };
}

/** Execute a request beside what the kernel is busy with. */
async function executeBeside(kernel, asked) {
  const created = await kernel.requestCreateSubshell({}).done;
  const beside = kernel.clone();
  beside.subshellId = created.content.subshell_id;
  try {
    return await execute(beside, asked);
  } finally {
    beside.dispose(); // and its subshell with it
  }
}

async function stop(kernel, asked) {
  const interrupted = async () => {
    await kernel.interrupt();
    return { ok: true, said: "the kernel was interrupted: what returned is kept" };
  };
  if (!kernel.supportsSubshells) return interrupted();
  const late = new Promise((resolve) => setTimeout(() => resolve(null), STOP_MS));
  return (await Promise.race([executeBeside(kernel, asked).catch(() => null), late])) || interrupted();
}

/** Put a run's new record in the place of its old ones in a notebook: a fresh kernel, which did not
 *  run that cell, cannot. `cells` are of @jupyterlab/notebook's model. */
function renew(cells, record) {
  const { thread, run, journal } = record[MEDIA_TYPE];
  for (const { outputs } of cells) {
    for (let place = 0; outputs && place < outputs.length; place++) {
      const old = outputs.get(place).data[MEDIA_TYPE];
      if (!old || old.thread !== thread || old.run !== run || old.journal !== journal) continue;
      outputs.set(place, { output_type: "display_data", data: record, metadata: {} });
    }
  }
}

/** What `mount` needs, for the kernel that `current` returns at each moment. */
export function kernelActions(current, onState, otherwise) {
  return {
    request(asked) {
      const kernel = current();
      if (!kernel) return otherwise ? otherwise(asked) : Promise.reject(new Error("there is no kernel"));
      if (asked.action === "stop") return stop(kernel, asked);
      const busy = kernel.status === "busy" && kernel.supportsSubshells;
      if (asked.action === "detail" && busy) return executeBeside(kernel, asked);
      return execute(kernel, asked, onState);
    },
    watch(tell) {
      const kernel = current();
      if (!kernel || !kernel.statusChanged) return () => {};
      let gone = false;
      const changed = (_, status) => {
        if (["restarting", "autorestarting", "dead", "terminating"].includes(status)) {
          gone = true;
          tell("lost");
        } else if (status === "idle" && gone) {
          gone = false;
          tell("ready");
        }
      };
      kernel.statusChanged.connect(changed);
      return () => kernel.statusChanged.disconnect(changed);
    },
  };
}

// -- anywidget ---------------------------------------------------------------------------------------

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
    const other = !this.head || this.head.thread !== news.thread || this.head.run !== news.run;
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
  const heard = (state, record) => {
    feed.take(state);
    const cells = model.widget_manager?.context?.model?.cells;
    if (cells && !works(state)) renew(cells, record);
  };
  const actions = kernelActions(current, heard, (asked) => feed.ask(asked));
  const view = mount(el, feed.state, actions);
  feed.views.add(view);
  return () => {
    feed.views.delete(view);
    view.destroy();
  };
}

export default { initialize, render };
