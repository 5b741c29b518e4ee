-- The statements that the journal runs, by name. `queue.*` are SQLite's, `archive.*` DuckDB's.

-- name: queue.last_seq
-- The queue is never emptied of its newest record, so this is the newest sequence number of all;
-- how many data keys were deleted, see journal/keys.py; and the generation, see journal/compacted.py.
SELECT coalesce(max(seq), 0), (SELECT value FROM meta WHERE key = 'keys_deleted'),
       (SELECT value FROM meta WHERE key = 'generation') FROM records;

-- name: queue.bounds
-- First and last sequence number still here. Each by itself: SQLite looks one of them up, and reads
-- every record for both.
SELECT coalesce((SELECT min(seq) FROM records), 0), coalesce((SELECT max(seq) FROM records), 0);

-- name: queue.last
SELECT coalesce(max(seq), 0) FROM records;

-- name: queue.meta
SELECT key, value FROM meta;

-- name: queue.generation
SELECT value FROM meta WHERE key = 'generation';

-- name: queue.set_meta
INSERT INTO meta (key, value) VALUES ($key, $value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: queue.append
INSERT INTO records (seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior,
                     digest, refs, size, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: queue.add_key
INSERT INTO keys (scope, wrapped) VALUES ($scope, $wrapped) ON CONFLICT (scope) DO NOTHING;

-- name: queue.add_new_key
-- Unless a rotation has named another master key meanwhile.
INSERT INTO keys (scope, wrapped) SELECT $scope, $wrapped
WHERE coalesce((SELECT value FROM meta WHERE key = 'master'), $master) = $master
ON CONFLICT (scope) DO NOTHING;

-- name: queue.rewrap_key
-- Unless the key was deleted, or wrapped anew, meanwhile.
UPDATE keys SET wrapped = $after WHERE scope = $scope AND wrapped = $before;

-- name: queue.forget_master
DELETE FROM meta WHERE key = 'master';

-- name: queue.key
SELECT wrapped FROM keys WHERE scope = $scope;

-- name: queue.keys
SELECT scope, wrapped FROM keys ORDER BY scope;

-- name: queue.any_key
SELECT scope, wrapped FROM keys LIMIT 1;

-- name: queue.delete_key
-- Only while no thread uses it: a copy may have been made a moment ago.
DELETE FROM keys WHERE scope = $scope
  AND NOT EXISTS (SELECT 1 FROM threads WHERE threads.scope = $scope);

-- name: queue.add_thread
INSERT INTO threads (thread, scope, agent, status, run, session, intended, returned, records,
                     first_seq, last_seq, created, updated, token)
VALUES ($thread, $scope, NULL, 'pending', 0, 0, 0, 0, 0, $seq, $seq, $ts, $ts, 0);

-- name: queue.touch_thread
-- Counts and status of a batch's records; a driver's batch only while its token is the newest.
UPDATE threads SET
    last_seq = $seq, updated = $ts, records = records + $records,
    intended = intended + $intended, returned = returned + $returned,
    status = coalesce($status, status)
WHERE thread = $thread AND ($token IS NULL OR token = $token);

-- name: queue.token
SELECT token FROM threads WHERE thread = $thread;

-- name: queue.claim_thread
UPDATE threads SET
    agent = $agent, status = 'running', run = $run, session = $session, notebook = $notebook,
    intended = CASE WHEN run <> $run THEN 0 ELSE intended END,
    returned = CASE WHEN run <> $run THEN 0 ELSE returned END,
    token = token + 1, driver_pid = $pid, driver_host = $host, driver_boot = $boot,
    driver_started = $started, driver_since = $ts
WHERE thread = $thread;

-- name: queue.release_thread
-- With the driver goes what is said of it: a row without fits into its page, and thousands of rows
-- are read in a third of the time.
UPDATE threads SET driver_pid = NULL, driver_host = NULL, driver_boot = NULL, driver_started = NULL,
    driver_since = NULL
WHERE thread = $thread AND token = $token;

-- name: queue.ask
-- Of who drives the thread now. What was asked first stands: its time counts.
INSERT INTO requests (thread, token, what, boot, at)
SELECT thread, token, $what, $boot, $at FROM threads
WHERE thread = $thread AND token = $token AND driver_pid IS NOT NULL
ON CONFLICT (thread, what, boot) DO UPDATE SET token = excluded.token, at = excluded.at
WHERE requests.token <> excluded.token OR requests.at > excluded.at;

-- name: queue.asked
-- What is asked of a process.
SELECT DISTINCT r.thread, r.token, r.what FROM requests AS r
JOIN threads AS t ON t.thread = r.thread AND t.token = r.token
WHERE t.driver_pid = $pid AND t.driver_host = $host AND t.driver_boot = $boot
  AND t.driver_started = $started;

-- name: queue.requested
SELECT 1 FROM requests
WHERE thread = $thread AND token = $token AND what = $what AND boot = $boot;

-- name: queue.answered
DELETE FROM requests WHERE thread = $thread AND ($what IS NULL OR (what = $what AND token = $token));

-- name: queue.thread
SELECT thread, scope, agent, status, run, session, intended, returned, records, first_seq, last_seq,
       created, updated, notebook, token, driver_pid, driver_host, driver_boot, driver_started,
       driver_since, (SELECT at FROM requests AS r WHERE r.thread = threads.thread
                      AND r.token = threads.token AND r.what = 'answer' AND r.boot = $boot)
FROM threads WHERE thread = $thread;

-- name: queue.threads
-- As queue.thread; of a driver only where there is one: each column takes its time. The last line is
-- left out where all are wanted (`journal/sql.py`).
SELECT thread, scope, agent, status, run, session, intended, returned, records, first_seq, last_seq,
       created, updated, notebook, token, driver_pid,
       CASE WHEN driver_pid IS NOT NULL THEN driver_host END,
       CASE WHEN driver_pid IS NOT NULL THEN driver_boot END,
       CASE WHEN driver_pid IS NOT NULL THEN driver_started END,
       CASE WHEN driver_pid IS NOT NULL THEN driver_since END,
       CASE WHEN driver_pid IS NOT NULL THEN
           (SELECT at FROM requests AS r WHERE r.thread = threads.thread
            AND r.token = threads.token AND r.what = 'answer' AND r.boot = $boot) END
FROM threads
WHERE (driver_pid IS NOT NULL) = $driven;

-- name: queue.undriven
-- What is listed of the threads that nobody drives, nearly all; and `last_seq`, by which they are
-- ordered.
SELECT thread, agent, status, run, returned, intended, created, updated, notebook, records, last_seq
FROM threads WHERE driver_pid IS NULL;

-- name: queue.untouched
SELECT thread, scope, agent, status, run, session, intended, returned, records, first_seq, last_seq,
       created, updated, notebook, token, driver_pid, driver_host, driver_boot, driver_started,
       driver_since, (SELECT at FROM requests AS r WHERE r.thread = threads.thread
                      AND r.token = threads.token AND r.what = 'answer' AND r.boot = $boot)
FROM threads WHERE updated < $before AND driver_pid IS NULL ORDER BY updated;

-- name: queue.scope_born
SELECT coalesce(min(first_seq), 0) FROM threads WHERE scope = $scope;

-- name: queue.forget_thread
DELETE FROM threads WHERE thread = $thread;

-- name: queue.select
-- Every column but the payload. A line whose parameter is NULL is left out (`journal/sql.py`).
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, NULL
FROM records
WHERE seq > $after
  AND thread = $thread
  AND coalesce(scope, thread) = $scope
  AND kind IN ($kinds)
  AND run = $run
  AND ns = $ns
  AND ref = $ref
  AND ref >= $least_ref
  AND step = $step
  AND name = $name
  AND ref IN (SELECT value FROM json_each($any_ref))
  AND step IN (SELECT value FROM json_each($steps))
  AND parent IN (SELECT value FROM json_each($parents))
ORDER BY seq
LIMIT $limit;

-- name: queue.newest
-- A thread's newest checkpoints, by id as LangGraph lists them; of several with one id the one stored
-- last is the first. Lines without their parameter are left out, as above. With
-- payloads: whoever asks reads them next.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records
WHERE seq > $after AND thread = $thread AND kind = 'checkpoint'
  AND ns = $ns
  AND ref < $until
ORDER BY ref DESC, ns DESC, seq DESC LIMIT $limit;

-- name: queue.by_seq
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq IN (SELECT value FROM json_each($seqs));

-- name: queue.weigh
SELECT count(*), coalesce(sum(length(payload)), 0) FROM records
WHERE seq IN (SELECT value FROM json_each($seqs));

-- name: archive.weigh
SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM records
WHERE seq IN (SELECT unnest($seqs::BIGINT[])) AND seq BETWEEN $low AND $high;

-- name: queue.batch
-- What a burst takes.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq > $after ORDER BY seq LIMIT $limit;

-- name: queue.trim
-- The newest record stays, so that sequence numbers never start again.
DELETE FROM records WHERE seq <= $upto AND seq < (SELECT max(seq) FROM records);

-- name: archive.watermark
SELECT coalesce(max(seq), 0) FROM ingested;

-- name: archive.mark
INSERT INTO ingested VALUES ($seq, $ts);

-- name: archive.set_meta
INSERT INTO meta VALUES ($key, $value);

-- name: archive.unset_meta
DELETE FROM meta WHERE key = $key;

-- name: archive.meta
-- All but the one that may be long.
SELECT key, value FROM meta WHERE key <> 'compacted';

-- name: archive.compacted
SELECT value FROM meta WHERE key = 'compacted';

-- name: archive.select
-- As queue.select. The conditions stand in a query of row ids, by itself: DuckDB reads every column
-- that is asked for of each row that it has to look at, and here that is what conditions need.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, NULL
FROM records WHERE rowid IN (
  SELECT rowid FROM records
  WHERE seq < $before AND seq > $after
  AND thread = $thread
  AND coalesce(scope, thread) = $scope
  AND kind IN ($kinds)
  AND run = $run
  AND ns = $ns
  AND ref = $ref
  AND ref >= $least_ref
  AND step = $step
  AND name = $name
  AND ref IN (SELECT unnest($any_ref::VARCHAR[]))
  AND step IN (SELECT unnest($steps::VARCHAR[]))
  AND parent IN (SELECT unnest($parents::VARCHAR[]))
  ORDER BY seq
  LIMIT $limit
)
ORDER BY seq;

-- name: archive.newest
-- As queue.newest.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records
WHERE seq < $before AND seq > $after AND thread = $thread AND kind = 'checkpoint'
  AND ns = $ns
  AND ref < $until
ORDER BY ref DESC, ns DESC, seq DESC LIMIT $limit;

-- name: archive.by_seq
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq IN (SELECT unnest($seqs::BIGINT[])) AND seq BETWEEN $low AND $high;

-- name: archive.by_few
-- As archive.by_seq. A list of literals, while it is short, is planned in half the time.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq IN ($seqs);

-- name: queue.every
-- Every record that is still here, with its payload.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records ORDER BY seq;

-- name: queue.schema
SELECT name FROM sqlite_schema;

-- name: queue.put_head
-- Only a repair makes a head that no driver or append made.
INSERT INTO threads (thread, scope, agent, status, run, session, intended, returned, records,
                     first_seq, last_seq, created, updated, notebook, token)
VALUES ($thread, $scope, $agent, $status, $run, $session, $intended, $returned, $records,
        $first_seq, $last_seq, $created, $updated, $notebook, $token);

-- name: queue.copy_head
INSERT INTO threads (thread, scope, agent, status, run, session, intended, returned, records,
                     first_seq, last_seq, created, updated, notebook, token, driver_pid, driver_host,
                     driver_boot, driver_started, driver_since)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: archive.extent
SELECT count(*), coalesce(max(seq), 0) FROM records;

-- name: archive.heads
-- What the records of each thread behind its deletion say about its head.
WITH gone AS (
    SELECT thread, max(seq) AS upto FROM records
    WHERE kind = 'deletion' AND refs IS NULL AND seq < $before GROUP BY thread
)
SELECT r.thread, arg_min(coalesce(r.scope, r.thread), r.seq), min(r.seq), max(r.seq), arg_min(r.ts, r.seq),
       arg_max(r.ts, r.seq), count(*), coalesce(min(r.seq) FILTER (r.kind <> 'chunk'), 0),
       arg_max(CASE WHEN r.kind = 'run_finished' THEN r.name ELSE 'running' END, r.seq)
           FILTER (r.kind IN ('run_started', 'run_finished')
                   OR (r.kind = 'decision' AND r.name = 'update')),
       arg_max({'name': r.name, 'run': r.run, 'attempt': r.attempt}, r.seq)
           FILTER (r.kind = 'run_started'),
       max(r.seq) = any_value(gone.upto) IS TRUE
FROM records r LEFT JOIN gone ON r.thread = gone.thread
WHERE r.seq < $before AND r.seq >= coalesce(gone.upto, 0)
  AND (gone.upto IS NULL OR r.seq > gone.upto
       OR NOT EXISTS (SELECT 1 FROM records n
                      WHERE n.thread = r.thread AND n.seq > gone.upto AND n.seq < $before))
GROUP BY r.thread;

-- name: archive.counts
SELECT thread, coalesce(run, 0), count(*) FILTER (kind = 'step_intended'),
       count(*) FILTER (kind = 'step_returned')
FROM records WHERE seq < $before AND kind IN ('step_intended', 'step_returned')
GROUP BY thread, coalesce(run, 0);

-- name: archive.watermarks
SELECT seq FROM ingested ORDER BY rowid;

-- name: archive.slice
SELECT * FROM records WHERE seq >= $low AND seq < $high ORDER BY seq;

-- name: archive.rows
-- By row id, not by number: a damaged block costs the rows of the ranges that it is part of.
SELECT * FROM records WHERE rowid >= $low AND rowid < $high ORDER BY rowid;

-- name: archive.summary
-- Of a copy and its original: equal only if every column of every record is.
SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0), bit_xor(hash(records)) FROM records;

-- name: archive.all
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records;

-- name: queue.numbers
SELECT seq FROM records WHERE seq <= $upto ORDER BY seq;

-- name: queue.count
SELECT count(*) FROM records;

-- name: queue.counts
-- How many records behind a number each thread has.
SELECT thread, count(*) FROM records WHERE seq > $after GROUP BY thread ORDER BY thread;

-- name: queue.forget_drivers
-- Whoever drove a thread when the backup was made does not drive it any more.
UPDATE threads SET driver_pid = NULL, driver_host = NULL, driver_boot = NULL, driver_started = NULL,
    driver_since = NULL;

-- name: queue.adopt_heads
-- After all newer records were taken over: the heads and keys that go with them. `present` is the
-- queue that is replaced.
DELETE FROM threads;
INSERT INTO threads SELECT * FROM present.threads;
DELETE FROM keys;
INSERT INTO keys SELECT * FROM present.keys;

-- name: queue.adopt_keys
INSERT OR REPLACE INTO keys SELECT * FROM present.keys;

-- name: queue.adopt_new_keys
INSERT OR IGNORE INTO keys SELECT * FROM present.keys;

-- name: queue.heads
SELECT * FROM threads;

-- name: queue.present_heads
SELECT * FROM present.threads;

-- name: queue.forget_heads
DELETE FROM threads;

-- name: queue.drop_deleted_keys
DELETE FROM keys WHERE scope IN
    (SELECT coalesce(scope, thread) FROM records
     WHERE seq > $after AND kind = 'deletion' AND refs IS NULL)
  AND NOT EXISTS (SELECT 1 FROM threads WHERE threads.scope = keys.scope);

-- name: archive.deletions
SELECT seq, thread, name, refs FROM records WHERE kind = 'deletion' AND seq <= $upto ORDER BY seq;

-- name: archive.ends
-- Each thread's newest record.
SELECT thread, max(seq) FROM records WHERE seq <= $upto GROUP BY thread;

-- name: archive.outline
-- What a compaction has to know of each record, the newest first.
SELECT seq, kind, thread, coalesce(scope, thread), run, refs, octet_length(payload)
FROM records WHERE seq >= $low AND seq < $high ORDER BY seq DESC;

-- name: archive.copy
-- Of a range of numbers all records, or those that are named, to the next generation's file.
INSERT INTO compacted.records
SELECT * FROM journal.records
WHERE seq >= $low AND seq < $high AND ($all OR seq IN (SELECT unnest($kept::BIGINT[])));

-- name: queue.moved
-- Threads that were written to behind number `upto`, or that somebody has or had.
SELECT thread, scope, last_seq FROM threads WHERE last_seq > $upto OR driver_pid IS NOT NULL;

-- name: queue.compacted_head
-- Of a thread some of whose records are gone.
UPDATE threads SET records = max(0, records - $gone), first_seq = max(first_seq, $first)
WHERE thread = $thread;
