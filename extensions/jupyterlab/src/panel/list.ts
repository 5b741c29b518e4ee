/** The conversations, of which only those that are seen are in the page. */

import { node } from "../component";
import type { ListModel } from "../model/list";
import type { IThread } from "../types";
import { ROW, makeRow, offered, type IRow, type RowAction } from "./rows";

const AROUND = 6;
let made = 0;

export class ListView {
  /**
   * @param list - What is shown.
   * @param on - Is called with what a person wants done.
   * @param search - Is called where a person wants to search.
   * @param failed - Is told why no more is loaded.
   */
  constructor(
    private readonly list: ListModel,
    private readonly on: (thread: IThread, action: RowAction | "delete") => void,
    private readonly search: () => void,
    private readonly failed: (error: unknown) => void
  ) {
    this.node = node("div", "na-scroller");
    this.canvas = node("div", "na-canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "grid");
    this.canvas.setAttribute("aria-label", "conversations");
    this.canvas.setAttribute("data-lm-suppress-shortcuts", "true");
    this.canvas.addEventListener("keydown", event => this.key(event));
    this.empty = node("p", "na-empty");
    this.node.append(this.canvas, this.empty);
    this.node.addEventListener("scroll", () => this.soon());
    this.node.addEventListener("pointerenter", () => this.list.hold(true));
    this.node.addEventListener("pointerleave", () => this.list.hold(false));
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.node);
    this.timer = setInterval(() => this.paint(), 30_000); // how long ago it was
  }

  readonly node: HTMLElement;
  /** Conversations for which something is under way. */
  readonly busy = new Set<string>();

  dispose(): void {
    this.observer.disconnect();
    clearInterval(this.timer);
  }

  focus(): void {
    this.canvas.focus();
  }

  top(): void {
    this.node.scrollTop = 0;
  }

  update(): void {
    this.soon();
  }

  /** Draw the rows that are seen. */
  paint(): void {
    this.painting = 0;
    const { rows } = this.list;
    const total = Math.max(rows.length, this.list.total);
    this.canvas.style.height = `${total * ROW}px`;
    this.canvas.setAttribute("aria-rowcount", String(total));
    this.empty.hidden = total > 0 || !this.list.loaded;
    const { search, statuses, notebook } = this.list.filter;
    this.empty.textContent = search
      ? `No conversation has “${search}” in its name, agent or notebook.`
      : statuses.length || notebook
        ? "No conversation is like this."
        : "No conversation yet: an agent's first run is listed here.";
    const top = this.node.scrollTop;
    const first = Math.max(0, Math.floor(top / ROW) - AROUND);
    const last = Math.min(total - 1, Math.ceil((top + this.node.clientHeight) / ROW) + AROUND);
    const now = Date.now();
    for (const [place, row] of this.drawn) {
      if (place < first || place > last) {
        this.drawn.delete(place);
        this.spare.push(row);
      }
    }
    for (let place = first; place <= last; place++) {
      const thread = rows[place] ?? null;
      const row = this.drawn.get(place) ?? this.fresh();
      this.drawn.set(place, row);
      row.fill(thread, place, now, thread !== null && this.busy.has(thread.thread));
      this.mark(row.element, thread !== null && thread.thread === this.active);
    }
    this.spare.splice(AROUND).forEach(row => row.element.remove());
    this.spare.forEach(row => (row.element.hidden = true));
    if (last >= rows.length && rows.length < total) {
      void this.list.reach(last).catch(this.failed);
    }
  }

  private soon(): void {
    this.painting ||= requestAnimationFrame(() => this.paint());
  }

  private fresh(): IRow {
    const spare = this.spare.pop();
    if (spare) {
      return spare;
    }
    const row = makeRow(`na-row-${++made}`, (thread, action) => {
      this.active = thread.thread;
      this.on(thread, action);
    });
    this.canvas.append(row.element);
    return row;
  }

  private mark(element: HTMLElement, active: boolean): void {
    element.classList.toggle("na-active", active);
    element.setAttribute("aria-selected", String(active));
    if (active) {
      this.canvas.setAttribute("aria-activedescendant", element.id);
    }
  }

  private async goTo(place: number): Promise<void> {
    await this.list.reach(place).catch(this.failed);
    const to = Math.max(0, Math.min(place, this.list.rows.length - 1));
    const thread = this.list.rows[to];
    if (!thread) {
      return;
    }
    const { scrollTop, clientHeight } = this.node;
    if (to * ROW < scrollTop) {
      this.node.scrollTop = to * ROW;
    } else if ((to + 1) * ROW > scrollTop + clientHeight) {
      this.node.scrollTop = (to + 1) * ROW - clientHeight;
    }
    this.active = thread.thread;
    this.paint();
  }

  private key(event: KeyboardEvent): void {
    if (event.target !== this.canvas || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const { rows } = this.list;
    const place = rows.findIndex(thread => thread.thread === this.active);
    const page = Math.max(1, Math.floor(this.node.clientHeight / ROW) - 1);
    const moves: Record<string, number> = {
      ArrowDown: place + 1,
      ArrowUp: place - 1,
      Home: 0,
      End: Math.max(rows.length, this.list.total) - 1,
      PageDown: place + page,
      PageUp: place - page
    };
    const thread = rows[place];
    const offer = thread && offered(thread);
    if (event.key === "/") {
      this.search();
    } else if (event.key in moves) {
      void this.goTo(moves[event.key]);
    } else if (!thread) {
      return;
    } else if (event.key === "Enter" || event.key === " ") {
      this.on(thread, "open");
    } else if (event.key === "Delete") {
      this.on(thread, "delete");
    } else if (event.key === "r" && offer?.action === "resume") {
      this.on(thread, "resume");
    } else if (event.key === "s" && offer?.action === "stop") {
      this.on(thread, "stop");
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private readonly canvas: HTMLElement;
  private readonly empty: HTMLElement;
  private readonly observer: ResizeObserver;
  private readonly timer: ReturnType<typeof setInterval>;
  private readonly drawn = new Map<number, IRow>();
  private readonly spare: IRow[] = [];
  private active: string | null = null;
  private painting = 0;
}
