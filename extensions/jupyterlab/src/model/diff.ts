/** What changed between two texts, line by line, and between two states, value by value. */

import type { IGraphState, IText } from "../types";

export interface ILine {
  kind: " " | "+" | "-" | "…";
  text: string;
}

export interface IChange {
  name: string;
  kind: "added" | "removed" | "changed";
  lines: ILine[];
}

const MOST = 1_000_000; // cells of the table of common lines: some ms
const CONTEXT = 2;

/** The lines of both, marked: those of the first alone "-", of the second alone "+". */
export function diff(before: string, after: string): ILine[] {
  const one = before === "" ? [] : before.split("\n");
  const two = after === "" ? [] : after.split("\n");
  let start = 0;
  while (start < one.length && start < two.length && one[start] === two[start]) {
    start += 1;
  }
  let end = 0;
  while (
    end < one.length - start &&
    end < two.length - start &&
    one[one.length - 1 - end] === two[two.length - 1 - end]
  ) {
    end += 1;
  }
  const same = (lines: string[]): ILine[] => lines.map(text => ({ kind: " ", text }));
  return [
    ...same(one.slice(0, start)),
    ...middle(one.slice(start, one.length - end), two.slice(start, two.length - end)),
    ...same(one.slice(one.length - end))
  ];
}

function middle(one: string[], two: string[]): ILine[] {
  const gone = (text: string): ILine => ({ kind: "-", text });
  const come = (text: string): ILine => ({ kind: "+", text });
  if (one.length * two.length > MOST) {
    return [...one.map(gone), ...two.map(come)];
  }
  const width = two.length + 1;
  const common = new Uint32Array((one.length + 1) * width);
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = two.length - 1; j >= 0; j--) {
      common[i * width + j] =
        one[i] === two[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const lines: ILine[] = [];
  let i = 0;
  let j = 0;
  while (i < one.length || j < two.length) {
    if (i < one.length && j < two.length && one[i] === two[j]) {
      lines.push({ kind: " ", text: one[i] });
      i += 1;
      j += 1;
    } else if (
      j >= two.length ||
      (i < one.length && common[(i + 1) * width + j] >= common[i * width + j + 1])
    ) {
      lines.push(gone(one[i++]));
    } else {
      lines.push(come(two[j++]));
    }
  }
  return lines;
}

/** The lines that changed with a few around them; "…" stands for the rest. */
export function around(lines: ILine[]): ILine[] {
  const near = new Set<number>();
  lines.forEach(({ kind }, place) => {
    if (kind !== " ") {
      for (let at = place - CONTEXT; at <= place + CONTEXT; at++) {
        near.add(at);
      }
    }
  });
  const kept: ILine[] = [];
  lines.forEach((line, place) => {
    if (near.has(place)) {
      kept.push(line);
    } else if (kept[kept.length - 1]?.kind !== "…") {
      kept.push({ kind: "…", text: "" });
    }
  });
  return kept;
}

/** What differs between two states of a graph, by the names of their values. */
export function changes(before: IGraphState | null, after: IGraphState | null): IChange[] {
  const one = before?.channels ?? {};
  const two = after?.channels ?? {};
  const found: IChange[] = [];
  for (const name of [...new Set([...Object.keys(one), ...Object.keys(two)])].sort()) {
    const [old, now] = [said(one[name]), said(two[name])];
    if (old === now) {
      continue;
    }
    const kind = !(name in one) ? "added" : !(name in two) ? "removed" : "changed";
    found.push({ name, kind, lines: around(diff(old ?? "", now ?? "")) });
  }
  return found;
}

function said(value: IText | undefined): string | undefined {
  if (value === undefined) {
    return undefined;
  }
  return `${value.text ?? "(nothing)"}${value.cut ? "\n… (cut)" : ""}`;
}
