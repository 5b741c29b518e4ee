/* One row of the tree: made once, and filled with another step as the tree is scrolled. */

import { LOOKS, count, duration, node, tries, works } from "./looks.js";

/** An empty row; a click calls `on.open(id)` or, on its sign for what is below it, `on.fold(id)`. */
export function emptyItem(on) {
  const item = node("div", "nat-item");
  const row = node("div", "nat-row");
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-selected", "false");
  const part = (className) => node("span", className, " ");
  const state = node("span", "nat-state");
  const parts = {
    state, glyph: part("nat-glyph"), word: part(""), name: node("span", "nat-name"), twist: part("nat-twist"),
    label: part("nat-label"), hint: part("nat-hint"), again: part("nat-again"), tokens: part("nat-number"),
    time: part("nat-number nat-time"), mark: part("nat-mark"),
  };
  parts.glyph.setAttribute("aria-hidden", "true");
  parts.twist.setAttribute("aria-hidden", "true");
  state.append(parts.glyph, parts.word);
  parts.name.append(parts.twist, parts.label);
  row.append(state, parts.name, parts.hint, parts.again, parts.tokens, parts.time, parts.mark);
  parts.twist.addEventListener("click", (event) => {
    event.stopPropagation();
    on.fold(item.step.id);
  });
  row.addEventListener("click", () => on.open(item.step.id));
  item.append(row);
  return Object.assign(item, { row, parts, active: false });
}

/** Fill a row with a step; `how`: {name, line, state, folded, open, time, why}. */
export function fillItem(item, step, { name, line, state, folded, open, time, why }) {
  const { row, parts } = item;
  const [glyph, word, tone] = LOOKS[state] || ["·", state, "live"];
  parts.state.className = `nat-state nat-${tone}`;
  parts.name.style.paddingLeft = `${(line.depth - 1) * 18}px`;
  const texts = {
    glyph, word, time, label: step.name,
    twist: line.inner ? (folded ? "▹" : "▿") : "",
    hint: step.undecided ? "decide below" : open ? "" : step.args || "",
    again: tries(step).said.join(", "),
    tokens: step.tokens ? `${step.tokens.toLocaleString()} tokens` : "",
    mark: step.replayed ? "replayed" : "",
  };
  for (const [part, text] of Object.entries(texts)) setText(parts[part], text);
  const said = {
    id: `${name}-${step.id}`, title: why, "aria-label": spoken(step, state),
    "aria-level": line.depth, "aria-posinset": line.position, "aria-setsize": line.size,
  };
  for (const [attribute, value] of Object.entries(said)) row.setAttribute(attribute, value);
  if (line.inner) row.setAttribute("aria-expanded", String(!folded));
  else row.removeAttribute("aria-expanded");
}

/** Have an element of one text say another; what it says already costs nothing. */
export function setText(element, text) {
  const { firstChild } = element;
  if (firstChild.data !== text) firstChild.data = text;
}

export function setActive(item, active) {
  if (item.active === active) return;
  item.active = active;
  item.row.classList.toggle("nat-active", active);
  item.row.setAttribute("aria-selected", String(active));
}

/** How long a step took; `state`: the run that works, if it does, for what is not over yet. */
export function timeOf(step, state) {
  if (step.state === "running" && state && works(state)) {
    const began = new Date(step.attempts[step.attempts.length - 1].started);
    return duration((Date.now() - began) / 1000);
  }
  return step.seconds === null ? "" : duration(step.seconds);
}

export function whyOf(step) {
  return step.attempts.map((attempt) => attempt.why || attempt.error || "").filter(Boolean).join("\n").slice(0, 600);
}

function spoken(step, state) {
  const said = [step.name, (LOOKS[state] || ["", state])[1]];
  if (step.replayed) said.push("replayed");
  said.push(...tries(step).said);
  if (step.seconds !== null) said.push(duration(step.seconds));
  if (step.tokens) said.push(count(step.tokens, "token"));
  if (step.undecided) said.push("has to be decided");
  return said.join(", ");
}

/** The last place whose top is not below `value`. */
export function lowerBound(tops, value) {
  let low = 0;
  let high = tops.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}
