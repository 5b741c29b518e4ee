/** Search, status and notebook: which conversations are listed. */

import { node } from "../component";
import type { IFilter, ListModel } from "../model/list";
import { GROUPS, basename, sum } from "../model/words";
import { fill, ownKeys } from "./dom";

const TYPED_MS = 150;
const NOTEBOOKS = 50;

export class Filters {
  /**
   * @param list - What is filtered.
   * @param current - The notebook that is looked at, or null.
   * @param changed - Is called with another filter.
   */
  constructor(
    private readonly list: ListModel,
    private readonly current: () => string | null,
    private readonly changed: (filter: IFilter) => void
  ) {
    this.node = node("div", "na-filters");
    this.search = node("input");
    this.search.type = "search";
    this.search.placeholder = "Search conversations";
    this.search.setAttribute("aria-label", "Search conversations");
    ownKeys(this.search);
    this.search.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.apply(), TYPED_MS);
    });
    this.notebook = node("select");
    this.notebook.setAttribute("aria-label", "Notebook");
    this.notebook.addEventListener("change", () => this.apply());
    const chips = node("div", "na-chips");
    chips.setAttribute("role", "radiogroup");
    chips.setAttribute("aria-label", "Status");
    this.chips = GROUPS.map(({ name, title }) => this.chip(name, title));
    chips.append(...this.chips);
    this.node.append(this.search, chips, this.notebook);
    this.update();
  }

  readonly node: HTMLElement;

  focus(): void {
    this.search.focus();
    this.search.select();
  }

  /** Show how many there are of each. */
  update(): void {
    const { counts, rows } = this.list;
    GROUPS.forEach(({ name, title, statuses }, place) => {
      const number = sum(counts, statuses);
      const chip = this.chips[place];
      const text = number ? `${title} ${number.toLocaleString()}` : title;
      if (chip.textContent !== text) {
        chip.textContent = text;
      }
      chip.setAttribute("aria-checked", String(name === this.group));
      chip.tabIndex = name === this.group ? 0 : -1;
      chip.classList.toggle("na-calls", name === "you" && number > 0);
      // An empty group is no choice; the chosen one stays, so that it can be left.
      chip.hidden = !number && name !== "all" && name !== this.group;
    });
    const here = this.current();
    const seen = new Set<string>(this.notebook.value ? [this.notebook.value] : []);
    for (const { notebook } of rows.slice(0, 1000)) {
      if (notebook && seen.size < NOTEBOOKS) {
        seen.add(notebook);
      }
    }
    const others = [...seen].filter(path => path !== here).sort();
    const titles = others.map(path => [path, basename(path)] as [string, string]);
    const mine: [string, string][] = here ? [[here, `This notebook (${basename(here)})`]] : [];
    fill(this.notebook, [["", "All notebooks"], ...mine, ...titles]);
  }

  private chip(name: string, title: string): HTMLButtonElement {
    const made = node("button", "na-chip", title);
    made.type = "button";
    made.setAttribute("role", "radio");
    made.addEventListener("click", () => this.pick(name));
    made.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) {
        return;
      }
      const offered = this.chips.filter(chip => !chip.hidden);
      const to = offered[(offered.indexOf(made) + step + offered.length) % offered.length];
      this.pick(GROUPS[this.chips.indexOf(to)].name);
      to.focus();
      event.preventDefault();
      event.stopPropagation();
    });
    return made;
  }

  private pick(name: string): void {
    this.group = name;
    this.apply();
  }

  private apply(): void {
    clearTimeout(this.timer);
    this.update();
    this.changed({
      search: this.search.value.trim(),
      statuses: GROUPS.find(({ name }) => name === this.group)!.statuses,
      notebook: this.notebook.value
    });
  }

  private readonly search: HTMLInputElement;
  private readonly notebook: HTMLSelectElement;
  private readonly chips: HTMLButtonElement[];
  private group = "all";
  private timer: ReturnType<typeof setTimeout> | undefined;
}
