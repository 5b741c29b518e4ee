/** What a step's opened row shows in the panel besides what the component does. */

import { button, node } from "../component";
import { changes } from "../model/diff";
import type { IStepDetail } from "../types";

/** The graph's state before and after a step, as what differs. */
export function stateView({ before, after, state_error }: IStepDetail): HTMLElement {
  const box = node("div", "na-state");
  const say = (text: string) => box.append(node("p", "nat-soft", text));
  if (state_error) {
    say(state_error);
  } else if (!before && !after) {
    say("There is no state beside this step.");
  } else if (!after) {
    say("Its superstep is not over: there is no state behind it yet.");
  } else {
    const found = changes(before, after);
    if (!found.length) {
      say("It changed nothing in the graph's state.");
    }
    for (const { name, kind, lines } of found) {
      const title = node("div", "na-channel");
      title.append(node("code", "", name), node("span", "nat-soft", ` ${kind}`));
      const text = node("pre", "na-diff");
      for (const line of lines) {
        const kinds = { "+": "na-plus", "-": "na-minus", " ": "", "…": "nat-soft" };
        text.append(node("span", kinds[line.kind], `${line.kind} ${line.text}\n`));
      }
      box.append(title, text);
    }
    const cut = before?.cut || after.cut;
    if (cut) {
      say(`${cut} more values are not compared here.`);
    }
  }
  return box;
}

export interface IMore {
  detail(): Promise<IStepDetail>;
  fork(): void;
  failed(error: unknown): string;
}

/** What may be done with a step, and what it changed, asked for when it is wanted. */
export function stepMore(key: string, on: IMore): HTMLElement {
  const box = node("div", "na-step");
  const line = node("div", "nat-fact");
  line.append(node("span", "nat-soft", "key"), node("pre", "", key));
  const changed = node("details", "na-changes");
  const body = node("div", "", "…");
  changed.append(node("summary", "", "What it changed in the state"), body);
  changed.addEventListener("toggle", async () => {
    if (!changed.open) {
      return;
    }
    try {
      body.replaceChildren(stateView(await on.detail()));
    } catch (error) {
      body.textContent = on.failed(error);
    }
  });
  const bar = node("div", "nat-buttons");
  bar.append(
    button("Fork from here", "A new conversation that shares what came before this step", () =>
      on.fork()
    )
  );
  box.append(line, changed, bar);
  return box;
}
