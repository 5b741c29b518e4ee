/** Asking the server part. */

import { URLExt } from "@jupyterlab/coreutils";
import { ServerConnection } from "@jupyterlab/services";
import { Stream, type IListener } from "./stream";
import type {
  IAbout,
  ICompaction,
  IDone,
  IJournal,
  IRunState,
  ISize,
  ISnapshot,
  IStepDetail,
  IThread,
  IThreadRuns,
  IThreads
} from "./types";

/** Which journal is meant: by a notebook's path, or by its own; neither: the root's. */
export interface IPlace {
  notebook?: string;
  journal?: string;
}

/** What is asked of a list. */
export interface IQuery {
  search?: string;
  status?: string;
  started_in?: string;
  limit?: number;
  after?: string;
}

/** The server said no: `code` says why, the message says what to do. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string
  ) {
    super(message);
  }
}

type Parameters = Record<string, string | number | undefined>;

export class Api {
  constructor(readonly settings = ServerConnection.makeSettings()) {}

  about(): Promise<IAbout> {
    return this.get("about");
  }

  journals(): Promise<{ journals: IJournal[] }> {
    return this.get("journals");
  }

  threads(place: IPlace, query: IQuery): Promise<IThreads> {
    return this.get("threads", { ...place, ...query });
  }

  thread(place: IPlace, thread: string): Promise<IThreadRuns> {
    return this.get(path(thread), { ...place });
  }

  run(place: IPlace, thread: string, run: number | "newest"): Promise<IRunState> {
    return this.get(`${path(thread)}/runs/${run}`, { ...place });
  }

  step(place: IPlace, thread: string, step: string, run: number): Promise<IStepDetail> {
    return this.get(`${path(thread)}/steps/${encodeURIComponent(step)}`, { ...place, run });
  }

  resolve(
    place: IPlace,
    thread: string,
    said: { step: string; happened: boolean; result?: unknown }
  ): Promise<IDone> {
    return this.post(`${path(thread)}/resolve`, place, said);
  }

  stop(place: IPlace, thread: string): Promise<IDone> {
    return this.post(`${path(thread)}/stop`, place, {});
  }

  cancel(place: IPlace, thread: string): Promise<IDone> {
    return this.post(`${path(thread)}/cancel`, place, {});
  }

  fork(place: IPlace, thread: string, at: string | null): Promise<IDone> {
    return this.post(`${path(thread)}/fork`, place, { at });
  }

  delete(place: IPlace, thread: string, unfinished: boolean): Promise<{ said: string }> {
    const more = { ...place, unfinished: String(unfinished) };
    return this.ask(path(thread), more, { method: "DELETE" });
  }

  /** What is kept of a notebook's variables, the newest first. */
  variables(place: IPlace, of: string): Promise<{ snapshots: ISnapshot[] }> {
    return this.get("variables", { ...place, of });
  }

  size(place: IPlace): Promise<ISize> {
    return this.get("journal/size", { ...place });
  }

  compact(place: IPlace, dryRun: boolean): Promise<ICompaction> {
    return this.post("journal/compact", place, { dry_run: dryRun });
  }

  /** Hear what changes in a journal, and of one conversation's run. */
  events(place: IPlace, watched: { thread?: string; run?: number }, listener: IListener): Stream {
    const url = this.url("events", { ...place, ...watched });
    const open = (signal: AbortSignal) =>
      this.send(url, { signal, headers: { Accept: "text/event-stream" } });
    return new Stream(open, listener);
  }

  private get<T>(what: string, parameters: Parameters = {}): Promise<T> {
    return this.ask(what, parameters, {});
  }

  private post<T>(what: string, place: IPlace, body: unknown): Promise<T> {
    const headers = { "Content-Type": "application/json" };
    return this.ask(what, { ...place }, { method: "POST", headers, body: JSON.stringify(body) });
  }

  private async ask<T>(what: string, parameters: Parameters, init: RequestInit): Promise<T> {
    const response = await this.send(this.url(what, parameters), init);
    return (await response.json()) as T;
  }

  /**
   * @throws ApiError - It said no; with status 0: it does not answer.
   */
  private async send(url: string, init: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      if (init.signal?.aborted) {
        throw error;
      }
      throw new ApiError(0, "offline", "Jupyter Server does not answer.");
    }
    if (response.ok) {
      return response;
    }
    throw refusal(response.status, await response.text());
  }

  private url(what: string, parameters: Parameters): string {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== undefined && value !== "") {
        said.set(name, String(value));
      }
    }
    const base = URLExt.join(this.settings.baseUrl, "notebook-agents/api/");
    return `${base}${what}${said.size ? `?${said}` : ""}`;
  }
}

function path(thread: string): string {
  return `threads/${encodeURIComponent(thread)}`;
}

/** The error that a refused request is. */
function refusal(status: number, text: string): ApiError {
  try {
    const { code, message } = JSON.parse(text) as { code?: string; message?: string };
    return new ApiError(status, code ?? "", message ?? "");
  } catch {
    return new ApiError(status, "", "");
  }
}

/** Whether a run of a conversation is over for good. */
export function finished(thread: Pick<IThread, "status">): boolean {
  return thread.status === "succeeded" || thread.status === "cancelled";
}
