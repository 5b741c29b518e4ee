/** The notebooks' kernels, as they are now: where runs go on, are answered and stopped. */

import type { ISessionContext } from "@jupyterlab/apputils";
import type { IDocumentManager } from "@jupyterlab/docmanager";
import type { INotebookTracker, NotebookPanel } from "@jupyterlab/notebook";
import type { Kernel, ServiceManager } from "@jupyterlab/services";
import { kernelActions, print, renew, works } from "./component";
import type { IAsked, IReply, IRestored, IThread, RunNews } from "./types";

const ALIVE = ["idle", "busy"];
/** How long a kernel may take to start, in ms. */
const START_MS = 60_000;

/** A sentence for the person: what cannot be done, and what to do instead. */
export class CannotError extends Error {}

export class Kernels {
  constructor(
    private readonly services: ServiceManager.IManager,
    private readonly documents: IDocumentManager,
    private readonly tracker: INotebookTracker
  ) {}

  /** The notebook that is looked at, by its contents path. */
  get current(): string | null {
    return this.tracker.currentWidget?.context.path ?? null;
  }

  /**
   * Open a notebook, or find it open.
   *
   * @throws CannotError - There is no such notebook.
   */
  async notebook(path: string, reveal = false): Promise<NotebookPanel> {
    let panel = this.tracker.find(one => one.context.path === path);
    if (!panel) {
      const there = await this.services.contents.get(path, { content: false }).catch(() => null);
      panel = there ? (this.documents.openOrReveal(path) as NotebookPanel | undefined) : undefined;
      if (!panel?.sessionContext) {
        throw new CannotError(
          `there is no notebook ${path} any more: put it back, or open another`
        );
      }
    } else if (reveal) {
      this.documents.openOrReveal(path);
    }
    await panel.context.ready;
    await panel.sessionContext.ready;
    return panel;
  }

  /** Have a conversation go on in its notebook's kernel, a fresh one if that is gone. */
  async drive(thread: IThread, asked: IAsked, on: (news: RunNews) => void): Promise<IReply> {
    const path = thread.notebook ?? this.current;
    if (!path) {
      throw new CannotError(
        `${thread.thread} was begun outside of a notebook: open one of its folder and try again ` +
          `there, or run \`notebook-agents resume\` in a terminal`
      );
    }
    const panel = await this.notebook(path);
    const kernel = await living(panel.sessionContext);
    const cells = () => panel.content.model?.cells ?? [];
    let shown: RunNews | null = null;
    const heard = (state: RunNews, record: unknown) => {
      shown = state;
      on(state);
      if (!works(state)) {
        renew(cells(), record);
      }
    };
    const printed = (said: unknown) => shown && print(cells(), shown, said);
    return kernelActions(() => kernel, heard, null, printed).request(asked);
  }

  /**
   * Bring a notebook's variables back in its kernel, the newest or those of a snapshot.
   *
   * @throws CannotError - The kernel cannot do it: its own sentence.
   */
  async restore(path: string, at: number | null): Promise<IRestored> {
    const panel = await this.notebook(path);
    const kernel = await living(panel.sessionContext);
    const said = `__import__("notebook_agents").restore(${at ?? ""}).to_json()`;
    const code =
      `__import__("notebook_agents.ui.bundles", fromlist=["publish"]).publish(` +
      `{"application/json": __import__("json").loads(${said})})`;
    const future = kernel.requestExecute({ code, store_history: false, allow_stdin: false });
    let found: IRestored | null = null;
    let problem = "the kernel gave no answer: try again when it is idle";
    future.onIOPub = ({ header, content }) => {
      if (header.msg_type === "display_data") {
        const { data } = content as { data: Record<string, unknown> };
        found = (data["application/json"] as IRestored | undefined) ?? found;
      } else if (header.msg_type === "error") {
        problem = (content as { evalue: string }).evalue;
      }
    };
    await future.done;
    if (!found) {
      throw new CannotError(problem);
    }
    return found;
  }

  /** Stop a run in the kernel that drives it; null where that is none of this server's. */
  async stop(thread: IThread, asked: IAsked): Promise<IReply | null> {
    const id = thread.driver?.kernel;
    if (!id) {
      return null;
    }
    const panel = this.tracker.find(one => one.sessionContext.session?.kernel?.id === id);
    const own = panel?.sessionContext.session?.kernel;
    if (own) {
      return kernelActions(() => own).request(asked);
    }
    const model = await this.services.kernels.findById(id);
    if (!model) {
      return null;
    }
    const kernel = this.services.kernels.connectTo({ model });
    try {
      await kernel.info; // says whether it has subshells
      return await kernelActions(() => kernel).request(asked);
    } finally {
      kernel.dispose();
    }
  }
}

/** Return a session's kernel once it answers; start one where there is none. */
async function living(session: ISessionContext): Promise<Kernel.IKernelConnection> {
  const kernel = session.session?.kernel;
  if (!kernel || kernel.status === "dead") {
    const name = session.kernelPreference.name ?? kernel?.name ?? "python3";
    await session.changeKernel({ name });
  }
  const has = () => {
    const now = session.session?.kernel;
    return now && ALIVE.includes(now.status) && now.connectionStatus === "connected" ? now : null;
  };
  return has() ?? (await until(session, has));
}

/** Wait for what `has` returns, asked whenever the session's kernel says something. */
function until<T>(session: ISessionContext, has: () => T | null): Promise<T> {
  return new Promise((resolve, reject) => {
    const ended = () => {
      clearTimeout(timer);
      session.statusChanged.disconnect(look);
      session.connectionStatusChanged.disconnect(look);
    };
    const look = () => {
      const found = has();
      if (found) {
        ended();
        resolve(found);
      }
    };
    const timer = setTimeout(() => {
      ended();
      reject(new CannotError("the notebook's kernel does not start: choose one in its toolbar"));
    }, START_MS);
    session.statusChanged.connect(look);
    session.connectionStatusChanged.connect(look);
  });
}
