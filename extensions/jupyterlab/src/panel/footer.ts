/** Which journal is shown, how large it is, and what gives space back. */

import { Dialog, showDialog } from "@jupyterlab/apputils";
import { button, node } from "../component";
import { sentence, type Controller } from "../controller";
import { bytes } from "../model/words";
import { fill } from "./dom";

const ASK_MS = 20_000;

export class Footer {
  constructor(private readonly controller: Controller) {
    this.node = node("div", "na-footer");
    this.journal = node("select");
    this.journal.setAttribute("aria-label", "Journal");
    this.journal.addEventListener("change", () => {
      if (this.journal.value) {
        void controller.use(this.journal.value);
      }
    });
    this.size = node("span", "na-size");
    this.button = button(
      "Compact",
      "Give back the space of what was deleted",
      () => void this.compact()
    );
    this.said = node("p", "na-said");
    this.said.setAttribute("role", "status");
    const line = node("div", "na-line");
    line.append(this.journal, this.size, this.button);
    this.node.append(line, this.said);
  }

  readonly node: HTMLElement;

  update(): void {
    const { journals, place, problem } = this.controller;
    const known = journals.filter(one => one.usable).map(one => one.path);
    const shown =
      place.journal !== undefined && !known.includes(place.journal) ? place.journal : null;
    const named = [...(shown === null ? [] : [shown]), ...known];
    const none: [string, string][] = problem && shown === null ? [["", "Other journals…"]] : [];
    fill(this.journal, [...none, ...named.map(path => [path, path] as [string, string])]);
    this.journal.value = problem ? (none[0]?.[0] ?? place.journal ?? "") : (place.journal ?? "");
    this.journal.hidden = named.length + none.length < 2;
    this.size.hidden = this.button.hidden = problem !== null;
    if (problem) {
      return;
    }
    if (Date.now() - this.asked > ASK_MS || this.shown !== place.journal) {
      void this.measure();
    }
  }

  /** Ask how large the journal is. */
  async measure(): Promise<void> {
    this.asked = Date.now();
    this.shown = this.controller.place.journal;
    try {
      const size = await this.controller.api.size(this.controller.place);
      this.size.textContent = `Journal ${bytes(size.bytes)}`;
      const parts = Object.entries(size.files).map(([name, number]) => `${name} ${bytes(number)}`);
      this.size.title = [...parts, `free on its disk: ${bytes(size.free)}`].join("\n");
    } catch {
      this.size.textContent = ""; // the list says what is wrong
    }
  }

  /** Give back the space of what was deleted, once a person agreed. */
  async compact(): Promise<void> {
    const { api, place } = this.controller;
    this.button.disabled = true;
    try {
      const would = await api.compact(place, true);
      const saved = Math.max(0, would.bytes_before - would.bytes_after);
      const { button: answer } = await showDialog({
        title: "Compact the journal?",
        body:
          `It is written anew without what was deleted or pruned: ${bytes(would.bytes_before)} now, ` +
          `about ${bytes(saved)} less then. Runs go on meanwhile.`,
        buttons: [Dialog.cancelButton(), Dialog.okButton({ label: "Compact" })]
      });
      if (answer.accept) {
        this.said.textContent = "compacting…";
        this.said.textContent = (await api.compact(place, false)).said;
        await this.measure();
      }
    } catch (error) {
      this.said.textContent = sentence(error);
    }
    this.button.disabled = false;
  }

  private readonly journal: HTMLSelectElement;
  private readonly size: HTMLElement;
  private readonly button: HTMLButtonElement;
  private readonly said: HTMLElement;
  private asked = 0;
  private shown: string | undefined;
}
