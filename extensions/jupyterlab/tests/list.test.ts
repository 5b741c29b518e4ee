import assert from "node:assert/strict";
import { test } from "node:test";
import type { IQuery } from "../src/api";
import { ListModel, NO_FILTER, matches } from "../src/model/list";
import type { IThread, IThreads, Status } from "../src/types";

function thread(number: number, more: Partial<IThread> = {}): IThread {
  const updated = new Date(Date.UTC(2026, 0, 1) + number * 1000).toISOString();
  return {
    thread: `t${number}`,
    agent: "agent",
    status: "succeeded",
    notebook: null,
    notebook_file: null,
    is_notebook: false,
    run: 1,
    returned: 1,
    intended: 1,
    records: 5,
    created: updated,
    updated,
    driver: null,
    ...more
  };
}

/** A journal of conversations, asked in pages as the server is: the newest first. */
class Journal {
  asked: IQuery[] = [];
  constructor(public threads: IThread[]) {}

  readonly page = async (query: IQuery): Promise<IThreads> => {
    this.asked.push(query);
    const statuses = query.status ? (query.status.split(",") as Status[]) : [];
    const filter = { search: query.search ?? "", notebook: query.started_in ?? "", statuses };
    const newest = [...this.threads].sort((one, two) => two.updated.localeCompare(one.updated));
    const found = newest.filter(one => matches(one, filter));
    const counts: Partial<Record<Status, number>> = {};
    for (const { status } of newest.filter(one => matches(one, { ...filter, statuses: [] }))) {
      counts[status] = (counts[status] ?? 0) + 1;
    }
    const start = query.after ? found.findIndex(one => one.updated < query.after!) : 0;
    const threads = start < 0 ? [] : found.slice(start, start + (query.limit ?? 100));
    const last = threads[threads.length - 1];
    const more = last && found[found.length - 1] !== last;
    const next = more ? last.updated : null;
    return { threads, total: found.length, counts, next, journal: "j", version: "1" };
  };
}

function made(number: number): { journal: Journal; list: ListModel } {
  const journal = new Journal(Array.from({ length: number }, (_, place) => thread(place)));
  return { journal, list: new ListModel(journal.page, () => undefined) };
}

const names = (list: ListModel) => list.rows.map(one => one.thread);

test("the first page is small, and scrolling loads the rest once, in order", async () => {
  const { journal, list } = made(2500);
  await list.reload();
  assert.equal(list.rows.length, 100);
  assert.equal(list.total, 2500);
  await Promise.all([list.reach(2400), list.reach(150), list.reach(2400)]);
  assert.deepEqual(
    names(list),
    Array.from({ length: 2500 }, (_, place) => `t${2499 - place}`)
  );
  assert.deepEqual(
    journal.asked.map(query => query.limit),
    [100, 1000, 1000, 1000]
  );
});

test("what changed goes to the top, once", async () => {
  const { journal, list } = made(300);
  await list.reload();
  const changed = thread(5, { updated: thread(1000).updated, status: "running" });
  journal.threads = journal.threads.map(one => (one.thread === "t5" ? changed : one));
  assert.equal(list.take({ threads: [changed], gone: [], reload: false, version: "2" }), true);
  assert.equal(list.rows[0], changed);
  await list.reach(299);
  assert.equal(list.rows.length, 300);
  assert.equal(new Set(names(list)).size, 300);
  await list.recount();
  assert.equal(list.counts.running, 1);
});

test("nothing that does not match comes in, and what no longer matches goes", async () => {
  const { list } = made(10);
  await list.reload({ ...NO_FILTER, statuses: ["succeeded"] });
  const event = { gone: [], reload: false, version: "2" };
  list.take({ ...event, threads: [thread(50, { status: "failed" })] });
  assert.equal(list.rows.length, 10);
  list.take({ ...event, threads: [thread(3, { status: "running" })] });
  assert.ok(!names(list).includes("t3"));
});

test("rows do not move while somebody points at one", async () => {
  const { list } = made(4);
  await list.reload();
  list.hold(true);
  const event = { gone: [], reload: false, version: "2" };
  const running = thread(1, { updated: thread(90).updated, status: "running" });
  list.take({ ...event, threads: [running, thread(91)] });
  assert.deepEqual(names(list), ["t3", "t2", "t1", "t0"]);
  assert.equal(list.rows[2].status, "running");
  list.hold(false);
  assert.deepEqual(names(list), ["t91", "t1", "t3", "t2", "t0"]);
});

test("what waits while somebody points at a row is not put into a list that was asked for since", async () => {
  const { journal, list } = made(2);
  await list.reload();
  list.hold(true);
  list.take({ threads: [thread(90), thread(1)], gone: [], reload: false, version: "2" });
  journal.threads = [thread(1, { status: "failed" })];
  await list.reload(NO_FILTER, { journal: "other" });
  list.hold(false);
  assert.deepEqual(names(list), ["t1"]);
  assert.equal(list.rows[0].status, "failed");
});

test("further rows of the list before do not come into the next one", async () => {
  const [one, other] = [made(300).journal, new Journal([thread(1000)])];
  const list = new ListModel(
    (query, place) => (place.journal === "other" ? other : one).page(query),
    () => undefined
  );
  await list.reload();
  const reload = list.reload(NO_FILTER, { journal: "other" });
  await Promise.all([reload, list.reach(299)]);
  assert.deepEqual(names(list), ["t1000"]);
});

test("an answer to an older question is dropped", async () => {
  const { journal, list } = made(20);
  let release: () => void = () => undefined;
  const slow = new ListModel(
    async query => {
      const page = await journal.page(query);
      if (query.search === "t1") {
        await new Promise<void>(resolve => (release = resolve));
      }
      return page;
    },
    () => undefined
  );
  const older = slow.reload({ ...NO_FILTER, search: "t1" });
  await new Promise(resolve => setImmediate(resolve));
  await slow.reload({ ...NO_FILTER, search: "t7" });
  release();
  await older;
  assert.deepEqual(names(slow), ["t7"]);
  await list.reload();
});

test("a deleted one is gone, and the counts of all are kept beside those that match", async () => {
  const { journal, list } = made(30);
  journal.threads[2] = thread(2, { status: "waiting" });
  await list.reload({ ...NO_FILTER, search: "t1" });
  assert.equal(list.overall.waiting, 1);
  assert.equal(list.counts.waiting, undefined);
  list.take({ threads: [], gone: ["t12"], reload: false, version: "2" });
  assert.ok(!names(list).includes("t12"));
});
