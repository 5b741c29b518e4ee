/** The timeline's component, `notebook_agents/ui/static/*.js`, as it is: here it only gets types. */

import type { Kernel } from "@jupyterlab/services";
import * as kernels from "../../../notebook_agents/ui/static/kernel.js";
import * as looks from "../../../notebook_agents/ui/static/looks.js";
import * as timeline from "../../../notebook_agents/ui/static/timeline.js";
import type { IAsked, IReply, RunNews } from "./types";

export interface IView {
  update(news: RunNews): void;
  destroy(): void;
}

export interface IActions {
  request(asked: IAsked): Promise<IReply>;
  /** Calls tell("lost") when the kernel is gone, tell("ready") when there is one again. */
  watch?(tell: (what: "lost" | "ready") => void): () => void;
  /** Whether the thread has a newer run than the shown one: then it cannot go on. */
  older?(): boolean;
  /** What an opened step shows besides what the component does. */
  more?(step: string): HTMLElement | null;
}

/** A cell's outputs, of @jupyterlab/notebook's model. */
type Cells = Iterable<unknown>;
type Look = [glyph: string, word: string, tone: string];

export const MEDIA_TYPE: string = kernels.MEDIA_TYPE;

export const mount: (el: HTMLElement, state: RunNews, actions: IActions) => IView = timeline.mount;

/** Have a kernel do what a button asks; what it displays and prints meanwhile is told. */
export const execute: (
  kernel: Kernel.IKernelConnection,
  asked: IAsked,
  onState?: (state: RunNews, record: unknown) => void,
  onText?: (content: unknown) => void
) => Promise<IReply> = kernels.execute;

export const kernelActions: (
  current: () => Kernel.IKernelConnection | null | undefined,
  onState?: (state: RunNews, record: unknown) => void,
  otherwise?: ((asked: IAsked) => Promise<IReply>) | null,
  onText?: (content: unknown) => void
) => IActions = kernels.kernelActions;

/** Put a run's new record in the place of its old ones in a notebook. */
export const renew: (cells: Cells, record: unknown) => void = kernels.renew;

/** Put what a run prints under the cell that shows it. */
export const print: (cells: Cells, state: RunNews, said: unknown) => void = kernels.print;

export const LOOKS: Record<string, Look> = looks.LOOKS;
export const badge: (look: string, className: string) => HTMLElement = looks.badge;
export const button: (
  text: string,
  title: string,
  onClick: (event: MouseEvent) => void
) => HTMLButtonElement = looks.button;
export const count: (number: number, word: string) => string = looks.count;
export const node: <T extends keyof HTMLElementTagNameMap>(
  tag: T,
  className?: string,
  text?: string | null
) => HTMLElementTagNameMap[T] = looks.node;
export const works: (state: RunNews) => boolean = looks.works;
