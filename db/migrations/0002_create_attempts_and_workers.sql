-- Who trained what: attempts, workers, artifacts, pinned data sets.

-- One try of a job, numbered from 1. The number is the fencing token: what is said under an old
-- number changes nothing.
CREATE TABLE attempt (
  job_id          INTEGER NOT NULL REFERENCES job (id),
  attempt         INTEGER NOT NULL CHECK (attempt > 0),
  state           TEXT    NOT NULL CHECK (state IN (
                    'offered', 'running', 'succeeded', 'failed', 'cancelled', 'lost')),
  worker_id       TEXT    NOT NULL,
  worker_name     TEXT    NOT NULL,                      -- As it was called then.
  slot            INTEGER NOT NULL CHECK (slot >= 0),
  device          TEXT    NOT NULL,
  threads         INTEGER NOT NULL CHECK (threads >= 0),
  failure_class   TEXT    NOT NULL CHECK (failure_class IN (
                    'none', 'user_error', 'diverged', 'out_of_memory', 'device_fault',
                    'lost_worker', 'preempted', 'timeout', 'trainer_crashed')),
  error           TEXT    NOT NULL,
  offered_at_ms   INTEGER NOT NULL,
  started_at_ms   INTEGER NOT NULL,
  finished_at_ms  INTEGER NOT NULL,
  -- Epoch it continued from; 0 from the start.
  resumed_epoch   INTEGER NOT NULL CHECK (resumed_epoch >= 0),
  -- Points 1 to here are stored.
  point_watermark INTEGER NOT NULL DEFAULT 0 CHECK (point_watermark >= 0),
  -- Log lines 1 to here are stored.
  line_watermark  INTEGER NOT NULL DEFAULT 0 CHECK (line_watermark >= 0),
  PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX attempt_one_winner ON attempt (job_id) WHERE state = 'succeeded';
CREATE UNIQUE INDEX attempt_one_live ON attempt (job_id) WHERE state IN ('offered', 'running');

-- How an attempt ended is never changed. Its points and lines may still arrive, so the watermarks
-- are left out.
CREATE TRIGGER attempt_end_is_final BEFORE UPDATE ON attempt
WHEN OLD.state NOT IN ('offered', 'running') AND
     (NEW.job_id <> OLD.job_id OR NEW.attempt <> OLD.attempt OR NEW.state <> OLD.state OR
      NEW.worker_id <> OLD.worker_id OR NEW.worker_name <> OLD.worker_name OR
      NEW.slot <> OLD.slot OR NEW.device <> OLD.device OR NEW.threads <> OLD.threads OR
      NEW.failure_class <> OLD.failure_class OR NEW.error <> OLD.error OR
      NEW.offered_at_ms <> OLD.offered_at_ms OR NEW.started_at_ms <> OLD.started_at_ms OR
      NEW.finished_at_ms <> OLD.finished_at_ms OR NEW.resumed_epoch <> OLD.resumed_epoch)
BEGIN SELECT RAISE(ABORT, 'an attempt that has ended is final'); END;

-- A host that trains.
CREATE TABLE worker (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
  name           TEXT    NOT NULL,
  version        TEXT    NOT NULL,
  -- 1: it finishes what it has and gets nothing new.
  draining       INTEGER NOT NULL CHECK (draining IN (0, 1)),
  last_seen_ms   INTEGER NOT NULL,
  -- Slots and data sets when it last connected.
  inventory_json TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Files that the server holds: trained networks, resume states, teachers from outside.
CREATE TABLE artifact (
  sha256         BLOB    NOT NULL PRIMARY KEY CHECK (length(sha256) = 32),
  size_bytes     INTEGER NOT NULL CHECK (size_bytes >= 0),
  recorded_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The content a data set must have for the jobs of one experiment, taken from the first attempt
-- that used it.
CREATE TABLE dataset_pin (
  experiment_id INTEGER NOT NULL REFERENCES experiment (id),
  dataset       TEXT    NOT NULL,
  sha256        BLOB    NOT NULL CHECK (length(sha256) = 32),
  PRIMARY KEY (experiment_id, dataset)
) STRICT, WITHOUT ROWID;
