/** How things are said in the panel. */

import type { IDriver, IThread, Status } from "../types";

/** What is asked for together, in the order in which it is offered. */
export const GROUPS: { name: string; title: string; statuses: Status[] }[] = [
  { name: "all", title: "All", statuses: [] },
  { name: "you", title: "Needs you", statuses: ["waiting", "in_doubt", "orphaned"] },
  { name: "running", title: "Running", statuses: ["running", "pending"] },
  { name: "failed", title: "Failed", statuses: ["failed"] },
  { name: "done", title: "Done", statuses: ["succeeded", "cancelled"] }
];

/** How many of some statuses there are; of all, where none is named. */
export function sum(counts: Partial<Record<Status, number>>, statuses: Status[]): number {
  const all = Object.entries(counts) as [Status, number][];
  return all.reduce(
    (total, [status, number]) =>
      total + (!statuses.length || statuses.includes(status) ? number : 0),
    0
  );
}

const UNITS: [number, string][] = [
  [86_400, "d"],
  [3600, "h"],
  [60, "min"]
];

/** How long ago a moment was, in one unit: "now", "5 min", "3 h", "12 d". */
export function age(moment: string, now: number): string {
  const seconds = Math.max(0, (now - Date.parse(moment)) / 1000);
  for (const [size, unit] of UNITS) {
    if (seconds >= size) {
      return `${Math.floor(seconds / size)} ${unit}`;
    }
  }
  return "now";
}

/** A size as people say it: "640 B", "12 kB", "3.4 MB". */
export function bytes(number: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = number;
  let place = 0;
  while (size >= 999.5 && place < units.length - 1) {
    size /= 1000;
    place += 1;
  }
  const digits = place > 0 && size < 9.95 ? 1 : 0;
  return `${size.toFixed(digits)} ${units[place]}`;
}

/** A path's last part. */
export function basename(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** What a conversation's row says besides its name. */
export function about(thread: IThread): string {
  const place = thread.notebook ?? thread.notebook_file;
  const parts = [thread.agent ?? "plain graph", place ? basename(place) : ""];
  return parts.filter(Boolean).join(" · ");
}

function steps(number: number): string {
  return `${number} step${number === 1 ? "" : "s"}`;
}

/** What is known of the process that drives a run, or drove it; "" where nothing is to be said. */
export function liveness(
  status: Status,
  driver: IDriver | null,
  counts: Record<string, number>
): string {
  const known = counts.steps ?? 0;
  const safe = `${counts.returned ?? 0} of ${steps(known)} safe`;
  const what = driver?.kernel ? "kernel" : "process";
  if (status === "running" && driver) {
    const where = driver.kernel ? "" : ` on ${driver.host}`;
    return `${what} alive · process ${driver.pid}${where}`;
  }
  if (status === "orphaned") {
    return `kernel gone, ${safe}`;
  }
  return "";
}
