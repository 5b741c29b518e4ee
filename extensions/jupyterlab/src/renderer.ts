/** A run's record under its cell, with its buttons: also after its kernel died, or a reload. */

import type { ISessionContext } from "@jupyterlab/apputils";
import type { INotebookTracker, NotebookPanel } from "@jupyterlab/notebook";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import type { Kernel } from "@jupyterlab/services";
import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";
import type { Api } from "./api";
import { MEDIA_TYPE, kernelActions, mount, print, renew, works, type IView } from "./component";
import type { Feeds, IFeed } from "./feeds";
import { Follow } from "./follow";
import type { Heads } from "./heads";
import type { IAsked, IReply, RunNews } from "./types";

/** In front of widgets (-10): where both can be shown, this outlives the kernel. */
export const RANK = -20;
const GONE = ["restarting", "autorestarting", "dead", "terminating"];
/** How long a widget has to bring its feed before the server is asked, in ms. */
const FEED_MS = 500;

export interface IContext {
  api: Api;
  tracker: INotebookTracker | null;
  feeds: Feeds;
  heads: Heads;
}

/** The renderer of the timeline's media type. */
export function rendererFactory(context: IContext): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [MEDIA_TYPE],
    defaultRank: RANK,
    createRenderer: () => new RunOutput(context)
  };
}

export class RunOutput extends Widget implements IRenderMime.IRenderer {
  constructor(private readonly context: IContext) {
    super();
    this.addClass("na-run");
    context.feeds.add(this);
    context.heads.changed.connect(this.headsChanged, this);
  }

  /** What it shows. */
  state: RunNews | null = null;

  /** The kernel of its notebook, as it is now. */
  get kernel(): Kernel.IKernelConnection | null {
    return this.session?.session?.kernel ?? null;
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const news = model.data[MEDIA_TYPE] as unknown as RunNews;
    const before = this.state;
    this.trusted = model.trusted;
    if (before && (before.thread !== news.thread || before.run !== news.run)) {
      this.unfollow();
    }
    this.take(news);
    if (works(news) || !before) {
      this.followSoon();
    }
  }

  /** Show news of its run, wherever they come from. */
  take(news: RunNews): void {
    this.state = { ...(this.state ?? {}), ...news, steps: [] };
    if (this.view) {
      this.view.update(news);
    } else {
      const actions = kernelActions(
        () => this.kernel,
        (state, record) => this.heard(state, record),
        async () => ({
          ok: false,
          said: "there is no kernel here: open the notebook and start one"
        }),
        said => this.state && print(this.cells, this.state, said)
      );
      this.view = mount(this.node, news, {
        request: asked => this.request(actions.request, asked),
        watch: tell => {
          this.tell = tell;
          return () => (this.tell = null);
        }
      });
    }
  }

  /** Take what a widget's kernel sends; the widget itself draws nothing then. */
  attach(feed: IFeed): () => void {
    this.unfollow();
    this.fed += 1;
    this.starved = false;
    this.take(feed.state);
    const view = { update: (news: RunNews) => this.take(news) };
    feed.views.add(view);
    return () => {
      feed.views.delete(view);
      this.fed -= 1;
    };
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.context.feeds.remove(this);
    this.context.heads.changed.disconnect(this.headsChanged, this);
    this.session?.statusChanged.disconnect(this.statusChanged, this);
    this.unfollow();
    this.view?.destroy();
    super.dispose();
  }

  protected override onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    if (this.panel) {
      return; // it is attached again as its cell is scrolled into sight
    }
    const { tracker } = this.context;
    this.panel = tracker?.find(panel => panel.node.contains(this.node)) ?? null;
    this.session = this.panel?.sessionContext ?? null;
    this.session?.statusChanged.connect(this.statusChanged, this);
  }

  private get cells() {
    return this.panel?.content.model?.cells ?? [];
  }

  private async request(ask: (asked: IAsked) => Promise<IReply>, asked: IAsked): Promise<IReply> {
    if (!this.trusted && asked.action !== "detail") {
      const said = "this notebook is not trusted: File → Trust Notebook, then its buttons work";
      return { ok: false, said };
    }
    await this.session?.ready;
    return ask(asked);
  }

  /** The kernel says how a run stands that a button began. */
  private heard(state: RunNews, record: unknown): void {
    this.take(state);
    if (!works(state)) {
      renew(this.cells, record);
    }
  }

  private statusChanged(_: ISessionContext, status: string): void {
    if (GONE.includes(status)) {
      this.gone = true;
      this.starved = true; // its feed ended with its kernel
      this.tell?.("lost");
      this.follow();
    } else if (status === "idle") {
      if (this.gone) {
        this.gone = false;
        this.tell?.("ready");
      }
      this.orphaned();
    }
  }

  private headsChanged(_: Heads, threads: string[]): void {
    if (this.state && threads.includes(this.state.thread) && !this.told) {
      this.follow();
    }
  }

  /** Whether the kernel that drives the run tells what it does. */
  private get told(): boolean {
    return this.fed > 0 && !this.starved && this.state !== null && works(this.state);
  }

  private followSoon(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.told) {
        this.follow();
      }
    }, FEED_MS);
  }

  private follow(): void {
    const { state, panel } = this;
    if (this.isDisposed || !state || !panel || ["succeeded", "cancelled"].includes(state.status)) {
      return;
    }
    if (this.following) {
      void this.following.look();
      return;
    }
    const place = { notebook: panel.context.path };
    this.following = new Follow(this.context.api, place, state.thread, state.run, {
      news: news => {
        if (!state.journal || state.journal === news.journal) {
          this.unserved = false;
          this.take({ ...news, journal: state.journal }); // the record's: kernels say it so
        } else {
          this.unfollow();
        }
      },
      failed: () => {
        this.unserved = true;
        this.unfollow();
        this.orphaned();
      }
    });
  }

  /** Without a server to ask: who said "running" and whose kernel is idle, does not run. */
  private orphaned(): void {
    const { state, unserved, told } = this;
    if (unserved && !told && state && works(state) && this.kernel?.status === "idle") {
      this.tell?.("lost");
      this.tell?.("ready");
    }
  }

  private unfollow(): void {
    clearTimeout(this.timer);
    this.following?.close();
    this.following = null;
  }

  private trusted = false;
  private view: IView | null = null;
  private panel: NotebookPanel | null = null;
  private session: ISessionContext | null = null;
  private tell: ((what: "lost" | "ready") => void) | null = null;
  private following: Follow | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private fed = 0;
  private starved = false;
  private gone = false;
  private unserved = false;
}
