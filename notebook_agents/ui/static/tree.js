/* What is shown: the steps, and which of them in which order. */

import { LOOKS } from "./looks.js";

export class Tree {
  constructor() {
    this.steps = new Map();
    this.children = new Map();
  }

  /** Take steps in; return whether there are others than before. */
  take(steps, whole) {
    const before = this.steps.size;
    if (whole) {
      this.steps.clear();
      this.children.clear();
    }
    for (const step of steps) {
      const known = this.steps.get(step.id);
      this.steps.set(step.id, known && step.result === null ? { ...step, result: known.result } : step);
      if (known) continue;
      const siblings = this.children.get(step.parent) || [];
      siblings.push(step.id);
      this.children.set(step.parent, siblings);
    }
    return whole || this.steps.size !== before;
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
