-- The tables of a journal. FORMAT.md says what the columns mean.
-- Statements are named; `queue.*` run in SQLite (queue.sqlite), `archive.*` in DuckDB (journal.<n>.duckdb).

-- name: queue.create
-- Made once, in one transaction, when a journal is new.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE records (
    seq     INTEGER PRIMARY KEY,
    ts      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    thread  TEXT NOT NULL,
    scope   TEXT,
    run     INTEGER,
    ns      TEXT,
    step    TEXT,
    parent  TEXT,
    name    TEXT,
    attempt INTEGER,
    ref     TEXT,
    prior   TEXT,
    digest  BLOB,
    refs    BLOB,
    size    INTEGER NOT NULL,
    payload BLOB NOT NULL
);

CREATE TABLE threads (
    thread         TEXT PRIMARY KEY,
    scope          TEXT NOT NULL,
    agent          TEXT,
    status         TEXT NOT NULL,  -- pending -> running -> succeeded | failed | cancelled | waiting | in_doubt
    run            INTEGER NOT NULL,
    session        INTEGER NOT NULL,
    intended       INTEGER NOT NULL,
    returned       INTEGER NOT NULL,
    records        INTEGER NOT NULL,
    first_seq      INTEGER NOT NULL,
    last_seq       INTEGER NOT NULL,
    created        INTEGER NOT NULL,
    updated        INTEGER NOT NULL,
    notebook       TEXT,
    token          INTEGER NOT NULL,  -- fencing token: +1 whenever a driver takes the thread
    driver_pid     INTEGER,           -- NULL: nobody drives it
    driver_host    TEXT,
    driver_boot    TEXT,
    driver_started INTEGER,
    driver_since   INTEGER
) WITHOUT ROWID;

-- With row ids, since a row of 150 bytes is too long for one without: each would lie on two pages.
CREATE TABLE keys (
    scope   TEXT NOT NULL PRIMARY KEY,
    wrapped BLOB NOT NULL
);

-- Tells every process that a key which it may have is gone.
CREATE TRIGGER key_deleted AFTER DELETE ON keys BEGIN
    UPDATE meta SET value = value + 1 WHERE key = 'keys_deleted';
END;
-- What other processes ask of a thread's driver. It looks while it drives, and deletes what it did.
CREATE TABLE requests (
    thread TEXT NOT NULL,
    token  INTEGER NOT NULL,  -- of whom it is asked: nobody else acts on it
    what   TEXT NOT NULL,     -- answer | cancel
    boot   TEXT NOT NULL,     -- whose clock `at` is
    at     INTEGER NOT NULL,  -- microseconds of that host's clock that is never set
    PRIMARY KEY (thread, what, boot)
) WITHOUT ROWID;

-- name: archive.create
-- Made once per generation. No index: records are appended, and read by ranges and scans.
CREATE TABLE records (
    seq     BIGINT NOT NULL,
    ts      BIGINT NOT NULL,
    kind    VARCHAR NOT NULL,
    thread  VARCHAR NOT NULL,
    scope   VARCHAR,
    run     BIGINT,
    ns      VARCHAR,
    step    VARCHAR,
    parent  VARCHAR,
    name    VARCHAR,
    attempt BIGINT,
    ref     VARCHAR,
    prior   VARCHAR,
    digest  BLOB,
    refs    BIGINT[],
    size    BIGINT NOT NULL,
    -- Sealed bytes do not get smaller; compressed, one could not be read without its neighbours.
    payload BLOB NOT NULL USING COMPRESSION uncompressed
);

-- One row per burst that took records in; the largest `seq` is the watermark.
CREATE TABLE ingested (seq BIGINT NOT NULL, ts BIGINT NOT NULL);

CREATE TABLE meta (key VARCHAR NOT NULL, value VARCHAR NOT NULL);

-- name: archive.views
-- They hold nothing. Where another build's are in the file (`meta.views` tells), they are replaced when it is opened.
CREATE OR REPLACE VIEW live AS
    SELECT r.* FROM records r
    LEFT JOIN (SELECT thread, max(seq) AS upto FROM records
               WHERE kind = 'deletion' AND refs IS NULL GROUP BY thread) d
        ON r.thread = d.thread
    ANTI JOIN (SELECT unnest(refs) AS seq FROM records WHERE kind = 'deletion') h ON r.seq = h.seq
    WHERE d.upto IS NULL OR r.seq > d.upto;

CREATE OR REPLACE VIEW attempts AS
    SELECT i.thread, i.run, i.step, i.parent, i.name, i.ns AS namespace, i.attempt,
           make_timestamp(i.ts) AS started, make_timestamp(e.ts) AS ended,
           CASE WHEN e.kind IS NULL THEN 'uncertain' ELSE substr(e.kind, 6) END AS outcome,
           if(e.ts < i.ts, 0, e.ts - i.ts) / 1e6 AS seconds, e.size AS result_bytes,
           CASE WHEN e.kind = 'step_failed' THEN e.ref END AS proof
    FROM live i
    LEFT JOIN live e
        ON e.thread = i.thread AND e.step = i.step AND e.attempt = i.attempt
        AND e.kind IN ('step_returned', 'step_failed', 'step_suspended', 'step_late')
    WHERE i.kind = 'step_intended';

CREATE OR REPLACE VIEW steps AS
    SELECT thread, run, step, any_value(parent) AS parent, any_value(name) AS name,
           any_value(namespace) AS namespace, count(*) AS attempts, min(started) AS started,
           CASE WHEN bool_or(outcome = 'returned') THEN 'returned'
                ELSE arg_max(outcome, attempt) END AS outcome,
           coalesce(max(seconds) FILTER (outcome = 'returned'), arg_max(seconds, attempt)) AS seconds,
           arg_max(proof, attempt) AS proof
    FROM attempts GROUP BY thread, run, step;

CREATE OR REPLACE VIEW in_doubt AS
    SELECT thread, run, step, name, attempts, started FROM steps
    WHERE outcome IN ('uncertain', 'late') OR (outcome = 'failed' AND proof = 'none');

-- What people said; who did is in the sealed payload.
CREATE OR REPLACE VIEW decisions AS
    SELECT thread, run, step, name AS said, attempt, ref AS interrupt, make_timestamp(ts) AS at
    FROM live WHERE kind = 'decision';

CREATE OR REPLACE VIEW runs AS
    SELECT s.thread, s.run, any_value(s.name) AS agent, max(s.attempt) AS sessions,
           make_timestamp(min(s.ts)) AS started,
           make_timestamp(max(f.ts)) AS ended,
           coalesce(arg_max(f.name, f.seq) FILTER (f.seq > s.seq), 'running') AS status
    FROM live s
    LEFT JOIN live f ON f.thread = s.thread AND f.run = s.run AND f.kind = 'run_finished'
    WHERE s.kind = 'run_started'
    GROUP BY s.thread, s.run;

CREATE OR REPLACE VIEW threads AS
    SELECT thread, max(run) AS runs, count(*) AS records, sum(size) AS bytes,
           make_timestamp(min(ts)) AS created, make_timestamp(max(ts)) AS updated
    FROM live GROUP BY thread;

CREATE OR REPLACE VIEW checkpoints AS
    SELECT thread, ns AS namespace, ref AS checkpoint_id, prior AS parent_id, run,
           make_timestamp(ts) AS saved, size AS bytes
    FROM live WHERE kind = 'checkpoint';
