import "./component";
import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError, type Api, type IPlace } from "../src/api";
import { Controller } from "../src/controller";
import { Heads } from "../src/heads";
import type { Kernels } from "../src/kernels";
import type { IListener } from "../src/stream";

/** Two journals, each with a conversation of the same name; what is asked of the second waits. */
function made() {
  const kernels = { current: "a/x.ipynb" };
  const seen = { moved: 0, open: [] as IPlace[], listener: null as IListener | null };
  let answer: (error?: Error) => void = () => undefined;
  const api = {
    about: async () => ({ api: 1, version: "1" }),
    journals: async () => ({
      journals: ["a", "b"].map(one => ({
        path: `${one}/.na`,
        default: false,
        notebooks: [`${one}/${one === "a" ? "x" : "y"}.ipynb`],
        usable: true,
        error: null
      }))
    }),
    threads: async ({ journal }: IPlace) => {
      if (journal === "b/.na") {
        await new Promise<void>((resolve, reject) => {
          answer = error => (error ? reject(error) : resolve());
        });
      }
      const status = journal === "b/.na" ? "succeeded" : "orphaned";
      const threads = [{ thread: "chat", status, updated: "2026" }];
      return { threads, total: 1, counts: {}, next: null, journal, version: "1" };
    },
    events: (place: IPlace, _: unknown, listener: IListener) => {
      seen.open.push(place);
      seen.listener = listener;
      return { close: () => seen.open.splice(seen.open.indexOf(place), 1) };
    }
  };
  const controller = new Controller(
    api as unknown as Api,
    kernels as unknown as Kernels,
    new Heads()
  );
  controller.moved.connect(() => {
    seen.moved += 1;
    assert.deepEqual(controller.place, { journal: controller.list.journal });
  });
  return { controller, kernels, seen, answer: (error?: Error) => answer(error) };
}

const soon = () => new Promise(resolve => setImmediate(resolve));
const A = { journal: "a/.na" };
const B = { journal: "b/.na" };

test("what is done to a row is done in its journal while another one is asked for", async () => {
  const { controller, kernels, seen, answer } = made();
  await controller.start();
  assert.deepEqual([controller.place, seen.moved, seen.open], [A, 1, [A]]);
  kernels.current = "b/y.ipynb";
  const following = controller.follow(kernels.current);
  await soon();
  assert.equal(controller.list.rows[0].status, "orphaned");
  assert.deepEqual([controller.place, seen.moved], [A, 1]);
  answer();
  await following;
  assert.equal(controller.list.rows[0].status, "succeeded");
  assert.deepEqual([controller.place, seen.moved, seen.open], [B, 2, [B]]);
  controller.dispose();
});

test("a journal that cannot be reached leaves the one before, until it can be", async () => {
  const { controller, kernels, seen, answer } = made();
  await controller.start();
  kernels.current = "b/y.ipynb";
  const following = controller.follow(kernels.current);
  await soon();
  answer(new ApiError(0, "offline", "Jupyter Server does not answer."));
  await following;
  assert.equal(controller.problem?.kind, "offline");
  assert.deepEqual([controller.place, seen.moved], [A, 1]);
  seen.listener!.opened!(true); // the server is back
  await soon();
  answer();
  await soon();
  assert.equal(controller.list.rows[0].status, "succeeded");
  assert.deepEqual([controller.place, seen.moved, seen.open], [B, 2, [B]]);
  assert.equal(controller.problem, null);
  controller.dispose();
});

test("who looks at the first notebook again stays in its journal", async () => {
  const { controller, kernels, seen, answer } = made();
  await controller.start();
  kernels.current = "b/y.ipynb";
  const away = controller.follow(kernels.current);
  await soon();
  kernels.current = "a/x.ipynb";
  await controller.follow(kernels.current);
  answer();
  await away;
  assert.deepEqual([controller.place, seen.moved, seen.open], [A, 1, [A]]);
  controller.dispose();
});
