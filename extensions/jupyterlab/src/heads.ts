/** Tells who shows a conversation that it changed. */

import { Signal, type ISignal } from "@lumino/signaling";

export class Heads {
  /** Names of conversations that changed. */
  get changed(): ISignal<this, string[]> {
    return this.emitter;
  }

  tell(threads: string[]): void {
    if (threads.length) {
      this.emitter.emit(threads);
    }
  }

  private readonly emitter = new Signal<this, string[]>(this);
}
