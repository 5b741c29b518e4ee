/** Server-sent events over fetch: EventSource cannot carry Jupyter's token. */

/** The server says at least every 15 s that it is there. */
const SILENCE_MS = 40_000;

export interface IEvent {
  name: string;
  data: string;
}

/** Takes text as it arrives, in any pieces, and returns the events that it completes. */
export class EventParser {
  private rest = "";

  push(text: string): IEvent[] {
    const lines = (this.rest + text).split(/\r?\n/);
    this.rest = lines.pop() ?? "";
    const events: IEvent[] = [];
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) {
          events.push({ name: this.name, data: this.data.join("\n") });
        }
        this.name = "message";
        this.data = [];
      } else if (line.startsWith("event:")) {
        this.name = line.slice(6).trim();
      } else if (line.startsWith("data:")) {
        this.data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    return events;
  }

  private name = "message";
  private data: string[] = [];
}

/** How long to wait before the next try, in ms: 1, 2, 4 … 15 s. */
export function pause(failures: number): number {
  return Math.min(1000 * 2 ** Math.max(0, failures - 1), 15_000);
}

export interface IListener {
  /** An event with its data, parsed. */
  event(name: string, data: unknown): void;
  /** It is open; `again`: it was before, so something may have been missed. */
  opened?(again: boolean): void;
  /** It broke and is tried again, unless false is returned. */
  broken?(error: unknown): boolean | void;
}

/** A stream that is opened again when it breaks, and closed while nobody looks at the page. */
export class Stream {
  /**
   * @param open - Opens it: the response's body is read.
   * @param listener - Is told what arrives.
   */
  constructor(open: (signal: AbortSignal) => Promise<Response>, listener: IListener) {
    this.open = open;
    this.listener = listener;
    document.addEventListener("visibilitychange", this.visible);
    window.addEventListener("offline", this.cut);
    window.addEventListener("online", this.back);
    void this.run();
  }

  close(): void {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.visible);
    window.removeEventListener("offline", this.cut);
    window.removeEventListener("online", this.back);
    clearTimeout(this.silence);
    this.abort?.abort();
    this.wake?.();
  }

  /** A connection that says nothing any more, not even that it is there, is none. */
  private readonly cut = (): void => this.abort?.abort();
  private readonly back = (): void => this.wake?.();

  private heard(): void {
    clearTimeout(this.silence);
    this.silence = setTimeout(this.cut, SILENCE_MS);
  }

  private readonly visible = (): void => {
    if (document.hidden) {
      this.abort?.abort();
    } else {
      this.wake?.();
    }
  };

  private async run(): Promise<void> {
    let failures = 0;
    let opened = false;
    while (!this.closed) {
      if (document.hidden) {
        await this.sleep(null);
        continue;
      }
      this.abort = new AbortController();
      try {
        const response = await this.open(this.abort.signal);
        this.listener.opened?.(opened);
        opened = true;
        failures = 0;
        await this.read(response);
      } catch (error) {
        if (!this.closed && !document.hidden && this.listener.broken?.(error) === false) {
          this.close();
        }
      }
      if (!this.closed && !document.hidden) {
        await this.sleep(pause(++failures));
      }
    }
  }

  private async read(response: Response): Promise<void> {
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    const parser = new EventParser();
    for (;;) {
      this.heard();
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      for (const { name, data } of parser.push(decoder.decode(value, { stream: true }))) {
        if (!this.closed && name !== "ping") {
          this.listener.event(name, JSON.parse(data));
        }
      }
    }
  }

  private sleep(ms: number | null): Promise<void> {
    return new Promise(resolve => {
      const timer = ms === null ? undefined : setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private readonly open: (signal: AbortSignal) => Promise<Response>;
  private readonly listener: IListener;
  private closed = false;
  private silence: ReturnType<typeof setTimeout> | undefined;
  private abort: AbortController | null = null;
  private wake: (() => void) | null = null;
}
