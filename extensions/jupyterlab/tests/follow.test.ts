import "./component";
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { ApiError, type Api } from "../src/api";
import { Follow } from "../src/follow";
import type { IListener } from "../src/stream";

/** A run that works; its streams are counted. */
function made() {
  const seen = { asked: 0, opened: 0, closed: 0, listener: null as IListener | null };
  const api = {
    run: async () => {
      seen.asked += 1;
      return { status: "running", thread: "t", run: 1, steps: [] };
    },
    events: (_: unknown, __: unknown, listener: IListener) => {
      seen.opened += 1;
      seen.listener = listener;
      return { close: () => (seen.closed += 1) };
    }
  };
  return { api: api as unknown as Api, seen };
}

const soon = () => new Promise(resolve => setImmediate(resolve));

test("who ends it when it is told news leaves no stream open", async () => {
  const { api, seen } = made();
  const follow: Follow = new Follow(api, {}, "t", 1, {
    news: () => follow.close(),
    failed: () => assert.fail()
  });
  await soon();
  assert.equal(seen.opened - seen.closed, 0);
});

test("a run is told nothing more of once it is not followed", async () => {
  const { api, seen } = made();
  let told = 0;
  const follow = new Follow(api, {}, "t", 1, { news: () => (told += 1), failed: assert.fail });
  await soon();
  follow.close();
  seen.listener!.event("run", { state: { status: "running", steps: [] }, delta: null });
  assert.deepEqual([told, seen.opened, seen.closed], [1, 1, 1]);
});

test("a stream that is refused leaves its place, and the run is looked at now and then", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const { api, seen } = made();
    const follow = new Follow(api, {}, "t", 1, { news: () => undefined, failed: assert.fail });
    await soon();
    const refused = new ApiError(409, "refused", "too many pages watch");
    assert.equal(seen.listener!.broken!(refused), false);
    assert.deepEqual([seen.opened, seen.closed, seen.asked], [1, 1, 1]);
    mock.timers.tick(2000);
    await soon();
    assert.deepEqual([seen.opened, seen.asked], [2, 2]);
    follow.close();
    assert.equal(seen.closed, 2);
  } finally {
    mock.timers.reset();
  }
});
