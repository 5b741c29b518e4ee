/** What is kept of the notebook's variables: what a fresh kernel gets back, and what not. */

import { Dialog, showDialog } from "@jupyterlab/apputils";
import { button, node } from "../component";
import { sentence, type Controller } from "../controller";
import { age, basename } from "../model/words";
import type { IRestored, ISnapshot } from "../types";

const ASK_MS = 5000;
const MOST = 20;

export class Variables {
  constructor(private readonly controller: Controller) {
    this.node = node("details", "na-variables");
    this.title = node("summary");
    this.list = node("div", "na-snapshots");
    this.report = node("div", "na-report");
    this.report.setAttribute("role", "status");
    this.node.append(this.title, this.report, this.list);
    this.node.hidden = true;
    this.node.addEventListener("toggle", () => this.node.open && void this.look());
    // A snapshot is no event of a conversation.
    setInterval(() => this.home?.checkVisibility() && this.update(), ASK_MS);
  }

  readonly node: HTMLDetailsElement;

  /** Where it stands; it is hidden itself where nothing is kept. */
  private get home(): HTMLElement | null {
    return this.node.parentElement;
  }

  update(): void {
    const notebook = this.controller.kernels.current;
    if (notebook !== this.notebook) {
      this.notebook = notebook;
      this.node.hidden = true;
      this.report.replaceChildren();
      this.asked = 0;
    }
    if (notebook !== null && Date.now() - this.asked >= ASK_MS - 100) {
      void this.look();
    }
  }

  /** Ask what there is of the notebook that is looked at. */
  private async look(): Promise<void> {
    const { notebook } = this;
    this.asked = Date.now();
    if (notebook === null) {
      return;
    }
    try {
      const { snapshots } = await this.controller.api.variables({ notebook }, notebook);
      if (notebook === this.notebook) {
        this.draw(snapshots);
      }
    } catch {
      this.node.hidden = true; // no journal yet, or one that the list says more of
    }
  }

  private draw(snapshots: ISnapshot[]): void {
    const [newest] = snapshots;
    this.node.hidden = newest === undefined;
    if (!newest) {
      return;
    }
    const kept = `Variables kept as of cell [${newest.cell}], ${age(newest.taken, Date.now())}`;
    this.title.textContent = kept;
    this.list.replaceChildren(
      ...snapshots.slice(0, MOST).map((one, place) => this.row(one, !place))
    );
  }

  private row(snapshot: ISnapshot, newest: boolean): HTMLElement {
    const { number, cell, line, changed, more } = snapshot;
    const row = node("div", "na-snapshot");
    const names = [...changed.slice(0, 6), ...(changed.length > 6 || more ? ["…"] : [])].join(", ");
    const text = node("span", "na-more", `[${cell}] ${line}`);
    text.title = `${line}\nchanged: ${names || "nothing"}`;
    const title = newest ? "Bring these variables back" : "Go back to here: an undo";
    row.append(
      text,
      button(newest ? "Restore" : "Go back", title, () => void this.restore(snapshot, newest))
    );
    row.dataset.number = String(number);
    return row;
  }

  /** Bring a snapshot back in the notebook's kernel, once a person agreed to an undo. */
  private async restore({ number, cell }: ISnapshot, newest: boolean): Promise<void> {
    const { notebook } = this;
    if (!newest) {
      const { button: answer } = await showDialog({
        title: `Go back to cell [${cell}]?`,
        body:
          "Variables that came later are removed, and conversations that went on since are forked " +
          "at that moment. What there is now is kept first, as one more snapshot.",
        buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: "Go back" })],
        defaultButton: 0
      });
      if (!answer.accept) {
        return;
      }
    }
    this.report.textContent = "restoring…";
    try {
      await this.look(); // what is newest now is what comes back
      const { kernels } = this.controller;
      this.tell(await kernels.restore(notebook!, newest ? null : number));
      await this.look();
    } catch (error) {
      this.report.textContent = sentence(error);
    }
  }

  /** What came back, and each name that did not, with why. */
  private tell({ what, restored, refused, failed, notes }: IRestored): void {
    const names = restored.length ? `: ${restored.join(", ")}` : "";
    const parts: HTMLElement[] = [
      node("p", "na-good", `${restored.length} of ${what} came back${names}`)
    ];
    for (const [title, all] of [
      ["was not kept", refused],
      ["did not come back", failed]
    ] as const) {
      for (const [name, why] of Object.entries(all)) {
        const line = node("p", "na-bad");
        line.append(node("code", "", name), ` ${title}: ${why}`);
        parts.push(line);
      }
    }
    parts.push(...notes.map(text => node("p", "na-soft", text)));
    parts.push(node("p", "na-soft", `in ${basename(this.notebook ?? "")}'s kernel`));
    this.report.replaceChildren(...parts);
  }

  private readonly title: HTMLElement;
  private readonly list: HTMLElement;
  private readonly report: HTMLElement;
  private notebook: string | null = null;
  private asked = 0;
}
