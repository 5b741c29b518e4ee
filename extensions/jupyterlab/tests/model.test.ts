import assert from "node:assert/strict";
import { test } from "node:test";
import { around, changes, diff } from "../src/model/diff";
import { mismatch, problem } from "../src/model/problems";
import { age, bytes, liveness, sum } from "../src/model/words";
import type { IGraphState } from "../src/types";

const said = (before: string, after: string) =>
  diff(before, after).map(({ kind, text }) => kind + text);

test("a diff has the lines of both, in order", () => {
  assert.deepEqual(said("a\nb\nc", "a\nx\nc"), [" a", "-b", "+x", " c"]);
  assert.deepEqual(said("", "a"), ["+a"]);
  assert.deepEqual(said("a", ""), ["-a"]);
  assert.deepEqual(said("a\nb", "a\nb"), [" a", " b"]);
  assert.deepEqual(said("a\nb", "b\nc"), ["-a", " b", "+c"]);
});

test("a diff gives both texts back, whatever they are", () => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const text = () =>
    Array.from({ length: Math.floor(random() * 12) }, () => "abc"[Math.floor(random() * 3)]);
  for (let round = 0; round < 300; round++) {
    const [one, two] = [text().join("\n"), text().join("\n")];
    const lines = diff(one, two);
    const side = (without: string) =>
      lines
        .filter(line => line.kind !== without)
        .map(line => line.text)
        .join("\n");
    assert.equal(side("+"), one);
    assert.equal(side("-"), two);
  }
});

test("texts that are too long to compare are shown one behind the other", () => {
  const long = (sign: string) => Array.from({ length: 2000 }, (_, n) => sign + n).join("\n");
  const lines = diff(long("a"), long("b"));
  assert.equal(lines.length, 4000);
});

test("of a long text only what changed is kept, with what is around it", () => {
  const lines = Array.from({ length: 100 }, (_, n) => String(n));
  const after = [...lines];
  after[50] = "other";
  assert.deepEqual(
    around(diff(lines.join("\n"), after.join("\n"))).map(({ kind, text }) => kind + text),
    ["…", " 48", " 49", "-50", "+other", " 51", " 52", "…"]
  );
});

test("values of a state that are new, gone and others are told apart", () => {
  const state = (channels: Record<string, string>): IGraphState => ({
    checkpoint: "c",
    superstep: 1,
    cut: 0,
    channels: Object.fromEntries(
      Object.entries(channels).map(([name, text]) => [
        name,
        { text, size: text.length, cut: false, kind: "json" as const }
      ])
    )
  });
  const found = changes(state({ a: "1", b: "2", c: "3" }), state({ a: "1", b: "4", d: "5" }));
  assert.deepEqual(
    found.map(({ name, kind }) => [name, kind]),
    [
      ["b", "changed"],
      ["c", "removed"],
      ["d", "added"]
    ]
  );
  assert.deepEqual(changes(null, null), []);
});

test("every refusal says what happened and what to do", () => {
  const kinds = [
    [0, "offline"],
    [404, ""],
    [404, "no_journal"],
    [500, "journal_damaged"],
    [409, "journal_newer"],
    [409, "key_missing"],
    [403, ""],
    [500, "failed"]
  ] as [number, string][];
  for (const [status, code] of kinds) {
    const { title, text, commands, again } = problem({ status, code, message: "It said so." });
    assert.ok(title && text, code);
    assert.ok(commands.length || again, code);
  }
  assert.match(mismatch("9.9").text, /9\.9/);
});

test("numbers are said as people say them", () => {
  const now = Date.UTC(2026, 0, 2);
  const ages = [0, 59, 60, 3600, 86_400].map(seconds =>
    age(new Date(now - seconds * 1000).toISOString(), now)
  );
  assert.deepEqual(ages, ["now", "now", "1 min", "1 h", "1 d"]);
  assert.deepEqual([0, 999, 1000, 12_345, 3_400_000].map(bytes), [
    "0 B",
    "999 B",
    "1.0 kB",
    "12 kB",
    "3.4 MB"
  ]);
  assert.equal(sum({ failed: 2, running: 3 }, ["failed"]), 2);
  assert.equal(sum({ failed: 2, running: 3 }, []), 5);
});

test("what is safe is said where the kernel is gone", () => {
  const driver = { pid: 7, host: "here", alive: false, since: "", kernel: "k" };
  const counts = { steps: 9, returned: 7 };
  assert.equal(liveness("orphaned", driver, counts), "kernel gone, 7 of 9 steps safe");
  assert.equal(liveness("succeeded", driver, counts), "");
  assert.match(liveness("running", { ...driver, alive: true }, counts), /^kernel alive/);
});
