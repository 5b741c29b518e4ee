/** What widgets' kernels send, for the one view that a run has under its cell.
 *
 * A widget (`notebook_agents/ui/static/widget.js`) offers its feed before it draws: where the record
 * beside it is shown by this extension, that view takes the feed and the widget draws nothing.
 */

import type { RunOutput } from "./renderer";
import type { RunNews } from "./types";

export interface IFeed {
  readonly state: RunNews;
  readonly views: Set<{ update(news: RunNews): void }>;
  readonly model: { widget_manager?: { kernel?: { id: string } | null } };
}

/** How long a record may take to be drawn behind its widget, in ms. */
const WAIT_MS = 1000;
const NAME = Symbol.for("notebook-agents.feeds");

export class Feeds {
  /** Let widgets, which are modules of their own, find it. */
  publish(): void {
    (globalThis as Record<symbol, unknown>)[NAME] = this;
  }

  add(output: RunOutput): void {
    this.outputs.add(output);
  }

  remove(output: RunOutput): void {
    this.outputs.delete(output);
  }

  /**
   * Take a widget's feed.
   *
   * @param feed - The feed.
   * @param draw - Called where no record of that run turns up: the widget has to draw itself; it
   * returns what ends that.
   * @returns What ends it.
   */
  offer(feed: IFeed, draw: () => () => void): () => void {
    let end: (() => void) | null = this.taken(feed);
    let timer: ReturnType<typeof setTimeout> | undefined;
    if (!end) {
      timer = setTimeout(() => (end = this.taken(feed) ?? draw()), WAIT_MS);
    }
    return () => {
      clearTimeout(timer);
      end?.();
    };
  }

  private taken(feed: IFeed): (() => void) | null {
    const { thread, run, journal } = feed.state;
    const kernel = feed.model.widget_manager?.kernel?.id;
    const ends: (() => void)[] = [];
    for (const output of this.outputs) {
      const { state } = output;
      const same = state?.thread === thread && state.run === run && state.journal === journal;
      if (same && kernel && output.kernel?.id === kernel) {
        ends.push(output.attach(feed));
      }
    }
    return ends.length ? () => ends.forEach(end => end()) : null;
  }

  private readonly outputs = new Set<RunOutput>();
}
