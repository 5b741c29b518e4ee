-- The statements that the journal runs, by name. `queue.*` are SQLite's, `archive.*` DuckDB's.

-- name: queue.last_seq
-- The queue is never emptied of its newest record, so this is the newest sequence number of all.
SELECT coalesce(max(seq), 0) FROM records;

-- name: queue.bounds
-- First and last sequence number still here, and how many bytes of payload lie between.
SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM records;

-- name: queue.meta
SELECT key, value FROM meta;

-- name: queue.set_meta
INSERT INTO meta (key, value) VALUES ($key, $value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: queue.append
INSERT INTO records (seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior,
                     digest, refs, size, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: queue.add_key
INSERT INTO keys (scope, wrapped) VALUES ($scope, $wrapped) ON CONFLICT (scope) DO NOTHING;

-- name: queue.key
SELECT wrapped FROM keys WHERE scope = $scope;

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
UPDATE threads SET driver_pid = NULL WHERE thread = $thread AND token = $token;

-- name: queue.thread
SELECT thread, scope, agent, status, run, session, intended, returned, records, first_seq, last_seq,
       created, updated, notebook, token, driver_pid, driver_host, driver_boot, driver_started,
       driver_since
FROM threads WHERE thread = $thread;

-- name: queue.threads
SELECT thread, scope, agent, status, run, session, intended, returned, records, first_seq, last_seq,
       created, updated, notebook, token, driver_pid, driver_host, driver_boot, driver_started,
       driver_since
FROM threads ORDER BY last_seq DESC;

-- name: queue.scope_users
SELECT count(*) FROM threads WHERE scope = $scope;

-- name: queue.forget_thread
DELETE FROM threads WHERE thread = $thread;

-- name: queue.select
-- Every column but the payload; a parameter that is NULL does not filter.
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, NULL
FROM records
WHERE seq > $after AND ($thread IS NULL OR thread = $thread)
  AND ($scope IS NULL OR coalesce(scope, thread) = $scope)
  AND ($kinds IS NULL OR instr($kinds, kind) > 0)
  AND ($ns IS NULL OR ns = $ns) AND ($ref IS NULL OR ref = $ref) AND ($step IS NULL OR step = $step)
  AND ($name IS NULL OR name = $name)
ORDER BY seq;

-- name: queue.by_seq
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq IN (SELECT value FROM json_each($seqs));

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

-- name: archive.meta
SELECT key, value FROM meta;

-- name: archive.select
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, NULL
FROM records
WHERE seq < $before AND seq > $after AND ($thread IS NULL OR thread = $thread)
  AND ($scope IS NULL OR coalesce(scope, thread) = $scope)
  AND ($kinds IS NULL OR instr($kinds, kind) > 0)
  AND ($ns IS NULL OR ns = $ns) AND ($ref IS NULL OR ref = $ref) AND ($step IS NULL OR step = $step)
  AND ($name IS NULL OR name = $name)
ORDER BY seq;

-- name: archive.by_seq
SELECT seq, ts, kind, thread, scope, run, ns, step, parent, name, attempt, ref, prior, digest, refs,
       size, payload
FROM records WHERE seq IN (SELECT unnest($seqs::BIGINT[])) AND seq BETWEEN $low AND $high;
