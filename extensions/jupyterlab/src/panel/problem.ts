/** What is shown where there is nothing to show: why, and what to do. */

import { button, node } from "../component";
import type { IProblem } from "../model/problems";
import { copied } from "./dom";

export function problemView(problem: IProblem, again: () => void): HTMLElement {
  const box = node("div", `na-problem na-problem-${problem.kind}`);
  box.setAttribute("role", "status");
  box.append(node("h3", "", problem.title), node("p", "", problem.text));
  box.append(...problem.commands.map(({ text }) => copied(text)));
  if (problem.again) {
    box.append(button("Try again", "Ask the server again", again));
  }
  return box;
}
