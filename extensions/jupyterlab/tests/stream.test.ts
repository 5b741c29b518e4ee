import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, pause } from "../src/stream";

test("events are found however the text is cut", () => {
  const text = 'event: threads\ndata: {"a":1}\n\n: a comment\n\nevent: ping\r\ndata: {}\r\n\r\n';
  for (let cut = 0; cut <= text.length; cut++) {
    const parser = new EventParser();
    const found = [...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))];
    assert.deepEqual(
      found.map(({ name, data }) => [name, data]),
      [
        ["threads", '{"a":1}'],
        ["ping", "{}"]
      ],
      `cut at ${cut}`
    );
  }
});

test("an event without a name is a message, and lines of data are joined", () => {
  const found = new EventParser().push("data: one\ndata:two\n\n");
  assert.deepEqual(found, [{ name: "message", data: "one\ntwo" }]);
});

test("the wait between tries grows to a quarter of a minute", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 50].map(pause), [1000, 2000, 4000, 8000, 15_000, 15_000]);
});
