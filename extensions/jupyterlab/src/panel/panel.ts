/** The side panel. */

import { Dialog, showDialog } from "@jupyterlab/apputils";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import { finished } from "../api";
import { node } from "../component";
import { sentence, type Controller } from "../controller";
import { sum } from "../model/words";
import type { IThread, Status } from "../types";
import { Conversation } from "./conversation";
import { Filters } from "./filters";
import { Footer } from "./footer";
import { agentsIcon } from "./icon";
import { ListView } from "./list";
import { problemView } from "./problem";
import { Variables } from "./variables";

const CALLING: Status[] = ["waiting", "in_doubt", "orphaned"];

export class AgentsPanel extends Widget {
  constructor(private readonly controller: Controller) {
    super();
    this.id = "notebook-agents-panel";
    this.addClass("na-panel");
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", "Agents");
    this.title.icon = agentsIcon;
    this.title.caption = "Agents";
    const { kernels, list } = controller;
    this.filters = new Filters(
      list,
      () => kernels.current,
      filter => {
        this.view.top();
        void controller.ask(() => list.reload(filter));
      }
    );
    this.view = new ListView(
      list,
      (thread, action) => {
        if (action === "open") {
          this.open(thread);
        } else if (action === "delete") {
          void this.remove(thread);
        } else {
          void this.act(thread, action);
        }
      },
      () => this.filters.focus(),
      error => this.say(sentence(error), true)
    );
    this.said = node("p", "na-said");
    this.said.setAttribute("role", "status");
    this.footer = new Footer(controller);
    this.variables = new Variables(controller);
    this.home = node("div", "na-home");
    this.home.append(this.filters.node, this.said, this.view.node, this.variables.node);
    this.place = node("div", "na-place");
    this.node.append(this.home, this.place, this.footer.node);
    controller.changed.connect(this.update, this);
    controller.moved.connect(this.moved, this);
  }

  get conversation(): Conversation | null {
    return this.opened;
  }

  override dispose(): void {
    if (!this.isDisposed) {
      this.controller.changed.disconnect(this.update, this);
      this.controller.moved.disconnect(this.moved, this);
      this.opened?.dispose();
      this.view.dispose();
      this.controller.dispose();
      super.dispose();
    }
  }

  /** Show a conversation. */
  open(thread: IThread): void {
    this.opened?.dispose();
    this.opened = new Conversation(this.controller, thread, {
      back: () => this.back(),
      open: fork => {
        this.open(fork);
        this.opened?.say(`Forked from ${thread.thread}. Resume goes on with it.`);
      },
      remove: one => void this.remove(one)
    });
    this.draw();
    this.opened.focus();
  }

  /** Show the list again. */
  back(): void {
    this.opened?.dispose();
    this.opened = null;
    this.draw();
    this.view.focus();
  }

  search(): void {
    this.opened?.dispose();
    this.opened = null;
    this.draw();
    this.filters.focus();
  }

  compact(): Promise<void> {
    return this.footer.compact();
  }

  /** Resume or stop a conversation. */
  async act(thread: IThread, action: "resume" | "stop"): Promise<void> {
    if (this.opened?.thread.thread === thread.thread) {
      return this.opened.act(action);
    }
    const { api, place } = this.controller;
    this.view.busy.add(thread.thread);
    this.say(`${action === "resume" ? "resuming" : "stopping"} ${thread.thread}…`);
    this.view.update();
    try {
      const { journal } = await api.run(place, thread.thread, "newest");
      const asked = { action, thread: thread.thread, journal };
      const reply = await this.controller.request(thread, asked, place);
      this.say(reply.said ? `${thread.thread}: ${reply.said}` : "", !reply.ok);
    } catch (error) {
      this.say(sentence(error), true);
    }
    this.view.busy.delete(thread.thread);
    this.view.update();
  }

  /** Delete a conversation, once a person agreed. */
  async remove(thread: IThread): Promise<void> {
    const { api, place, list } = this.controller; // another journal may be shown when it is answered
    const open = finished(thread)
      ? ""
      : " Its run could still go on: deleted, it cannot be resumed or answered any more.";
    const { button } = await showDialog({
      title: "Delete this conversation?",
      body: `“${thread.thread}”: its runs, steps, results and state are deleted for good.${open}`,
      buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: "Delete" })],
      defaultButton: 0
    });
    if (!button.accept) {
      return;
    }
    try {
      const { said } = await api.delete(place, thread.thread, !finished(thread));
      const here = this.controller.place.journal === place.journal;
      if (here && this.opened?.thread.thread === thread.thread) {
        this.back();
      }
      this.say(said);
      await list.reload();
      await this.footer.measure();
    } catch (error) {
      const text = sentence(error);
      if (this.opened) {
        this.opened.say(text, true);
      } else {
        this.say(text, true);
      }
    }
  }

  protected override onUpdateRequest(msg: Message): void {
    super.onUpdateRequest(msg);
    this.draw();
  }

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this.draw();
  }

  protected override onActivateRequest(msg: Message): void {
    super.onActivateRequest(msg);
    if (this.opened) {
      this.opened.focus();
    } else {
      this.view.focus();
    }
  }

  /** Another journal is shown: what was open is of the one before. */
  private moved(): void {
    this.opened?.dispose();
    this.opened = null;
    this.say("");
    this.view.top();
    this.draw();
  }

  private say(text: string, wrong = false): void {
    this.said.textContent = text;
    this.said.classList.toggle("na-bad", wrong);
  }

  private draw(): void {
    const { problem, list } = this.controller;
    const calling = sum(list.overall, CALLING);
    const told = calling && !problem ? String(calling > 99 ? "99+" : calling) : "";
    const { nacalling, ...dataset } = this.title.dataset;
    if ((nacalling ?? "") !== told) {
      this.title.dataset = told ? { ...dataset, nacalling: told } : dataset;
      this.title.caption = told ? `Agents: ${calling} need you` : "Agents";
    }
    if (!this.isVisible) {
      return;
    }
    // Offline, what was there stays readable, under a line that says so.
    const instead = problem && !(problem.kind === "offline" && list.loaded) ? problem : null;
    const other = instead ?? (this.opened ? this.opened : null);
    const inside = instead
      ? problemView(instead, () => void this.controller.start())
      : this.opened?.node;
    this.home.hidden = other !== null;
    this.place.hidden = other === null;
    if (!inside) {
      this.place.replaceChildren();
    } else if (instead ? this.shown !== instead : this.place.firstChild !== inside) {
      this.place.replaceChildren(inside);
    }
    this.shown = instead;
    this.node.classList.toggle("na-offline", problem?.kind === "offline");
    this.footer.node.hidden = instead === null && this.opened !== null;
    this.footer.update();
    if (other === null) {
      this.filters.update();
      this.view.update();
      this.variables.update();
    }
  }

  private readonly filters: Filters;
  private readonly view: ListView;
  private readonly footer: Footer;
  private readonly variables: Variables;
  private readonly home: HTMLElement;
  private readonly place: HTMLElement;
  private readonly said: HTMLElement;
  private opened: Conversation | null = null;
  private shown: unknown = null;
}
