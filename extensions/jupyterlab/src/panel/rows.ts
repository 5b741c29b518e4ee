/** One conversation's row: made once, filled with another as the list is scrolled. */

import { LOOKS, button, node } from "../component";
import { about, age } from "../model/words";
import type { IThread } from "../types";

export const ROW = 50; // pixels, as base.css says

export type RowAction = "resume" | "stop" | "open";

export interface IRow {
  readonly element: HTMLElement;
  fill(thread: IThread | null, place: number, now: number, busy: boolean): void;
}

/** What a row's button does; waiting ones are opened, since there is something to decide. */
export function offered(thread: IThread): { action: RowAction; title: string } | null {
  switch (thread.status) {
    case "running":
    case "pending":
      return thread.driver?.alive
        ? { action: "stop", title: "Stop" }
        : { action: "resume", title: "Resume" };
    case "orphaned":
    case "failed":
      return { action: "resume", title: "Resume" };
    case "waiting":
      return { action: "open", title: "Answer" };
    case "in_doubt":
      return { action: "open", title: "Decide" };
    default:
      return null;
  }
}

export function makeRow(id: string, on: (thread: IThread, action: RowAction) => void): IRow {
  const element = node("div", "na-row");
  element.id = id;
  element.setAttribute("role", "row");
  const [glyph, name, when] = [
    node("span", "na-glyph"),
    node("span", "na-name"),
    node("span", "na-when")
  ];
  glyph.setAttribute("aria-hidden", "true");
  const [word, more] = [node("span", "na-word"), node("span", "na-more")];
  const top = node("div", "na-line");
  const bottom = node("div", "na-line na-soft");
  for (const line of [top, bottom]) {
    line.setAttribute("role", "gridcell");
  }
  let shown: IThread | null = null;
  let what: RowAction = "open";
  const act = button("", "", event => {
    event.stopPropagation();
    if (shown) {
      on(shown, what);
    }
  });
  act.tabIndex = -1; // the list's keys reach it
  element.addEventListener("click", () => shown && on(shown, "open"));
  top.append(glyph, name, when);
  bottom.append(word, more, act);
  element.append(top, bottom);
  const fill = (thread: IThread | null, place: number, now: number, busy: boolean): void => {
    element.hidden = false;
    element.style.top = `${place * ROW}px`;
    element.setAttribute("aria-rowindex", String(place + 1));
    element.classList.toggle("na-loading", thread === null);
    shown = thread;
    act.hidden = thread === null;
    if (thread === null) {
      [name, when, word, more].forEach(one => (one.textContent = ""));
      glyph.textContent = "…";
      return;
    }
    const [sign, look, tone] = LOOKS[thread.status] ?? ["·", thread.status, "live"];
    glyph.textContent = sign;
    name.textContent = thread.thread;
    when.textContent = age(thread.updated, now);
    const steps = thread.returned
      ? ` · ${thread.returned} step${thread.returned === 1 ? "" : "s"}`
      : "";
    word.textContent = look;
    word.className = `na-word na-${tone}`;
    glyph.className = `na-glyph na-${tone}`;
    more.textContent = `${steps} · ${about(thread)}`;
    element.title = `${thread.thread}\n${look}${steps} · ${about(thread)}`;
    const offer = offered(thread);
    act.hidden = offer === null;
    act.disabled = busy;
    if (offer) {
      what = offer.action;
      act.textContent = offer.title;
      act.title = `${offer.title}: ${thread.thread}`;
    }
  };
  return { element, fill };
}
