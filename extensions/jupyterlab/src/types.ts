/** What the server part says, as its openapi.json has it. */

export const API = 1;

export type Status =
  | "pending"
  | "running"
  | "succeeded"
  | "failed"
  | "cancelled"
  | "waiting"
  | "in_doubt"
  | "orphaned";

export interface IError {
  code: string;
  message: string;
  reason?: string | null;
}

export interface IAbout {
  version: string;
  api: number;
}

export interface IJournal {
  path: string;
  default: boolean;
  notebooks: string[];
  usable: boolean;
  error: IError | null;
}

export interface IDriver {
  pid: number;
  host: string;
  alive: boolean;
  since: string;
  kernel: string | null;
}

/** A conversation's head. */
export interface IThread {
  thread: string;
  agent: string | null;
  status: Status;
  notebook: string | null;
  notebook_file: string | null;
  is_notebook: boolean;
  run: number;
  returned: number;
  intended: number;
  records: number;
  created: string;
  updated: string;
  driver: IDriver | null;
}

export interface IThreads {
  threads: IThread[];
  total: number;
  counts: Partial<Record<Status, number>>;
  next: string | null;
  journal: string;
  version: string;
}

export interface IRunInfo {
  run: number;
  status: Status;
  agent: string;
  started: string;
  ended: string | null;
  sessions: number;
}

export interface IThreadRuns {
  thread: IThread;
  runs: IRunInfo[];
  cut: number;
  closed: string | null;
  closed_code: string | null;
}

export interface IStep {
  id: string;
  parent: string | null;
  name: string;
  state: string;
  key: string;
  undecided: boolean;
  [more: string]: unknown;
}

/** A run's state, or what changed of it: `notebook_agents/ui/state.py`, version 1. */
export interface IRunState {
  v: number;
  thread: string;
  run: number;
  agent: string;
  status: Status;
  journal: string | null;
  counts: Record<string, number>;
  processes: number;
  driver: { pid: number; host: string } | null;
  interrupts: unknown[];
  steps: IStep[];
  cut?: number;
  closed?: string | null;
  [more: string]: unknown;
}

export type RunNews = IRunState;

/** What a button asks for. */
export interface IAsked {
  action: "stop" | "resume" | "answer" | "resolve" | "detail";
  thread: string;
  journal: string | null;
  step?: string;
  run?: number;
  happened?: boolean;
  result?: unknown;
  answers?: Record<string, unknown>;
}

export interface IReply {
  ok: boolean;
  said: string | null;
  state?: RunNews;
  detail?: { step: string; args: string | null; result: string | null };
}

export interface IText {
  text: string | null;
  size: number | null;
  cut: boolean;
  kind: "json" | "text" | "pickle" | "none";
}

export interface IGraphState {
  checkpoint: string;
  superstep: number | null;
  channels: Record<string, IText>;
  cut: number;
}

export interface IStepDetail {
  step: IStep;
  run: number;
  namespace: string;
  args: IText;
  result: IText;
  error: string | null;
  before: IGraphState | null;
  after: IGraphState | null;
  state_error: string | null;
}

export interface IDone {
  thread: IThread;
  said: string;
}

export interface ISize {
  bytes: number;
  files: Record<string, number>;
  threads: number;
  records: number;
  free: number;
}

export interface ICompaction {
  dry_run: boolean;
  records_before: number;
  records_after: number;
  bytes_before: number;
  bytes_after: number;
  said: string;
}

export interface IThreadsEvent {
  threads: IThread[];
  gone: string[];
  reload: boolean;
  version: string;
}

export interface IRunEvent {
  thread: string;
  run: number;
  state: IRunState | null;
  delta: IRunState | null;
}

/** A moment to which a notebook's variables can be brought back. */
export interface ISnapshot {
  number: number;
  taken: string;
  kernel: number;
  cell: number;
  line: string;
  changed: string[];
  more: number;
}

/** A `RestoreReport`, as its `to_json` has it. */
export interface IRestored {
  what: string;
  complete: boolean;
  restored: string[];
  refused: Record<string, string>;
  failed: Record<string, string>;
  notes: string[];
}
