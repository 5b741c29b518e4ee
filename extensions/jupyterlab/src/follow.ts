/** Following one run by the server: what it is now, and what changes while it works. */

import { works } from "./component";
import { ApiError, type Api, type IPlace } from "./api";
import type { Stream } from "./stream";
import type { IRunEvent, RunNews } from "./types";

/** Streams at a time; a browser opens six connections to a server, and JupyterLab needs some. */
const STREAMS = 2;
const POLL_MS = 2000;

export class Follow {
  /**
   * @param api - The server part.
   * @param place - Its journal.
   * @param thread - The conversation.
   * @param run - The run's number.
   * @param on - Is told news, and what went wrong: then nobody follows.
   */
  constructor(
    private readonly api: Api,
    private readonly place: IPlace,
    private readonly thread: string,
    private readonly run: number,
    private readonly on: { news(news: RunNews): void; failed(error: unknown): void }
  ) {
    void this.look();
  }

  /** Look how it stands, and follow it while it works. */
  async look(): Promise<void> {
    try {
      const state = await this.api.run(this.place, this.thread, this.run);
      if (!this.closed) {
        this.take(state);
      }
    } catch (error) {
      if (!this.closed) {
        this.on.failed(error);
      }
    }
  }

  close(): void {
    this.closed = true;
    this.leave();
  }

  private take(news: RunNews): void {
    this.on.news(news);
    if (this.closed) {
      return; // whoever was told does not follow any more
    }
    if (!works(news)) {
      this.leave();
    } else if (!this.stream && Follow.streams < STREAMS) {
      Follow.streams += 1;
      this.stream = this.api.events(
        this.place,
        { thread: this.thread, run: this.run },
        {
          event: (name, data) => this.hear(name, data),
          broken: error => this.broken(error)
        }
      );
    } else if (!this.stream) {
      this.lookLater();
    }
  }

  /** A stream that is refused, as one too many is, is none: look now and then. */
  private broken(error: unknown): boolean {
    if (!(error instanceof ApiError && error.status >= 400)) {
      return true;
    }
    this.leave();
    this.lookLater();
    return false;
  }

  private lookLater(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.look(), POLL_MS);
  }

  private hear(name: string, data: unknown): void {
    if (this.closed) {
      return;
    }
    const { state, delta } = data as IRunEvent;
    const news = name === "run" ? (state ?? delta) : null;
    if (news) {
      this.take(news);
    }
  }

  private leave(): void {
    clearTimeout(this.timer);
    if (this.stream) {
      Follow.streams -= 1;
      this.stream.close();
      this.stream = null;
    }
  }

  private static streams = 0;
  private stream: Stream | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private closed = false;
}
