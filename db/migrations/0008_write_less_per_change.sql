-- What is written with every change of a job gets cheaper; what is stored stays the same.
--
-- A list of more than two words in a CHECK makes SQLite build a small table for each row that it
-- writes, which took longer than the row. The tables with such lists are made anew with
-- comparisons in their place. Two indices are left out: one in which every change of a state moved its
-- job, and one by identity, for which nothing looks. Foreign keys are off while migrations run, and a
-- renamed table keeps the references to its name.
PRAGMA legacy_alter_table = ON;

-- The columns down to estimated_flops never change; the others tell how far a job got.
CREATE TABLE job_anew (
  id               INTEGER PRIMARY KEY CHECK (id > 0),
  experiment_id    INTEGER NOT NULL REFERENCES experiment (id),
  name             TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  -- Of its options (table job_spec).
  spec_sha256      BLOB    NOT NULL CHECK (length(spec_sha256) = 32),
  model            TEXT    NOT NULL,
  dataset          TEXT    NOT NULL,
  method           TEXT    NOT NULL,                                   -- How numbers are rounded.
  weight_bits      INTEGER NOT NULL CHECK (weight_bits >= 0),          -- 32 means not quantized.
  activation_bits  INTEGER NOT NULL CHECK (activation_bits >= 0),
  seed             INTEGER NOT NULL,
  epochs           INTEGER NOT NULL CHECK (epochs >= 0),
  -- Version of the trainer's arithmetic.
  numerics         INTEGER NOT NULL CHECK (numerics >= 0),
  -- How often it may be tried again after a failure.
  retries          INTEGER NOT NULL CHECK (retries >= 0),
  timeout_seconds  REAL    NOT NULL CHECK (abs(timeout_seconds) <= 1.7976931348623157e308),
  priority         INTEGER NOT NULL,
  devices          INTEGER NOT NULL CHECK (devices >= 0),
  memory_bytes     INTEGER NOT NULL,
  estimated_flops  REAL    NOT NULL CHECK (abs(estimated_flops) <= 1.7976931348623157e308),

  state            TEXT    NOT NULL CHECK (
                     state = 'offered' OR state = 'succeeded' OR state = 'ready' OR
                     state = 'running' OR state = 'blocked' OR state = 'cancelling' OR
                     state = 'failed' OR state = 'cancelled' OR state = 'skipped'),
  -- Number of the latest attempt; 0 before the first.
  attempt          INTEGER NOT NULL CHECK (attempt >= 0),
  retries_used     INTEGER NOT NULL CHECK (retries_used >= 0),
  -- Attempts that ended without using up a retry.
  losses           INTEGER NOT NULL CHECK (losses >= 0),
  -- Equal for jobs that must give equal numbers.
  identity         BLOB    CHECK (length(identity) = 32),
  -- The equal job whose result was taken over.
  cached_from      INTEGER REFERENCES job (id) DEFERRABLE INITIALLY DEFERRED,
  test_accuracy       REAL CHECK (abs(test_accuracy) <= 1.7976931348623157e308),
  validation_accuracy REAL CHECK (abs(validation_accuracy) <= 1.7976931348623157e308),
  test_loss           REAL CHECK (abs(test_loss) <= 1.7976931348623157e308),
  best_epoch          INTEGER CHECK (best_epoch >= 0),
  duration_seconds    REAL CHECK (abs(duration_seconds) <= 1.7976931348623157e308),
  images_per_second   REAL CHECK (abs(images_per_second) <= 1.7976931348623157e308),
  artifact_sha256     BLOB CHECK (length(artifact_sha256) = 32),       -- The trained network.
  failure_class    TEXT    NOT NULL CHECK (
                     failure_class = 'none' OR failure_class = 'user_error' OR
                     failure_class = 'diverged' OR failure_class = 'out_of_memory' OR
                     failure_class = 'device_fault' OR failure_class = 'lost_worker' OR
                     failure_class = 'preempted' OR failure_class = 'timeout' OR
                     failure_class = 'trainer_crashed'),
  error            TEXT    NOT NULL,
  -- Newest state that a training can continue from.
  resume_sha256    BLOB    CHECK (length(resume_sha256) = 32),
  resume_epoch     INTEGER NOT NULL CHECK (resume_epoch >= 0),
  started_at_ms    INTEGER NOT NULL,
  finished_at_ms   INTEGER NOT NULL,
  -- Rises over all jobs with every change: the cursor of a watcher.
  changed_seq      INTEGER NOT NULL CHECK (changed_seq > 0),

  CHECK ((state = 'succeeded') = (artifact_sha256 IS NOT NULL)),
  CHECK (artifact_sha256 IS NULL OR
         (best_epoch IS NOT NULL AND duration_seconds IS NOT NULL AND
          images_per_second IS NOT NULL))
) STRICT;
INSERT INTO job_anew SELECT * FROM job;
DROP TABLE job;
ALTER TABLE job_anew RENAME TO job;

CREATE INDEX job_by_experiment ON job (experiment_id);
CREATE INDEX job_by_change ON job (experiment_id, changed_seq);
CREATE INDEX job_succeeded_by_spec ON job (spec_sha256) WHERE state = 'succeeded';
CREATE INDEX job_succeeded_by_network ON job (model, dataset) WHERE state = 'succeeded';

-- What a job has won is never taken back or replaced.
CREATE TRIGGER job_result_is_final BEFORE UPDATE ON job
WHEN OLD.state = 'succeeded' AND
     (NEW.state <> OLD.state OR
      NEW.artifact_sha256 IS NOT OLD.artifact_sha256 OR
      NEW.identity IS NOT OLD.identity OR
      NEW.test_accuracy IS NOT OLD.test_accuracy OR
      NEW.validation_accuracy IS NOT OLD.validation_accuracy OR
      NEW.test_loss IS NOT OLD.test_loss OR
      NEW.best_epoch IS NOT OLD.best_epoch OR
      NEW.duration_seconds IS NOT OLD.duration_seconds OR
      NEW.images_per_second IS NOT OLD.images_per_second)
BEGIN SELECT RAISE(ABORT, 'the result of a succeeded job is final'); END;

-- One try of a job, numbered from 1. The number is the fencing token: what is said under an old
-- number changes nothing.
CREATE TABLE attempt_anew (
  job_id          INTEGER NOT NULL REFERENCES job (id),
  attempt         INTEGER NOT NULL CHECK (attempt > 0),
  state           TEXT    NOT NULL CHECK (
                    state = 'offered' OR state = 'succeeded' OR state = 'running' OR
                    state = 'failed' OR state = 'cancelled' OR state = 'lost'),
  worker_id       TEXT    NOT NULL,
  worker_name     TEXT    NOT NULL,                      -- As it was called then.
  slot            INTEGER NOT NULL CHECK (slot >= 0),
  device          TEXT    NOT NULL,
  threads         INTEGER NOT NULL CHECK (threads >= 0),
  failure_class   TEXT    NOT NULL CHECK (
                    failure_class = 'none' OR failure_class = 'user_error' OR
                    failure_class = 'diverged' OR failure_class = 'out_of_memory' OR
                    failure_class = 'device_fault' OR failure_class = 'lost_worker' OR
                    failure_class = 'preempted' OR failure_class = 'timeout' OR
                    failure_class = 'trainer_crashed'),
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
INSERT INTO attempt_anew SELECT * FROM attempt;
DROP TABLE attempt;
ALTER TABLE attempt_anew RENAME TO attempt;

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

CREATE TABLE job_input_anew (
  job_id          INTEGER NOT NULL REFERENCES job (id),
  position        INTEGER NOT NULL CHECK (position >= 0),
  -- It teaches (several are averaged, in this order), its weights are the start, or it is what is
  -- quantized or evaluated.
  role            TEXT    NOT NULL CHECK (
                    role = 'teacher' OR role = 'init' OR role = 'source'),
  parent_id       INTEGER REFERENCES job (id) DEFERRABLE INITIALLY DEFERRED,
  artifact_sha256 BLOB    CHECK (length(artifact_sha256) = 32),
  -- Candidates with the same number above 0 compete: when all have ended, the one with the highest
  -- validation accuracy is taken.
  choice          INTEGER NOT NULL CHECK (choice >= 0),
  -- 1 for the candidate that was taken.
  chosen          INTEGER NOT NULL CHECK (chosen IN (0, 1)),
  PRIMARY KEY (job_id, position),
  CHECK ((parent_id IS NULL) <> (artifact_sha256 IS NULL)),
  CHECK (choice = 0 OR parent_id IS NOT NULL),
  CHECK (chosen = 0 OR choice > 0)
) STRICT, WITHOUT ROWID;
INSERT INTO job_input_anew SELECT * FROM job_input;
DROP TABLE job_input;
ALTER TABLE job_input_anew RENAME TO job_input;

-- A choice is made once and never again.
CREATE UNIQUE INDEX job_input_one_chosen ON job_input (job_id, choice) WHERE chosen = 1;
CREATE TRIGGER job_input_choice_is_final BEFORE UPDATE ON job_input
WHEN OLD.chosen = 1 AND NEW.chosen <> 1
BEGIN SELECT RAISE(ABORT, 'the choice of a teacher is final'); END;

PRAGMA legacy_alter_table = OFF;

-- Numbers of jobs per state, kept with every change of a job: a list of experiments, and a client that
-- waits for the end of one, ask for them often. Counted anew whenever a server opens the file.
CREATE TABLE job_count (
  experiment_id INTEGER NOT NULL REFERENCES experiment (id),
  state         TEXT    NOT NULL,
  jobs          INTEGER NOT NULL CHECK (jobs >= 0),
  cached        INTEGER NOT NULL CHECK (cached >= 0),   -- Part of `jobs`: an equal job's result.
  PRIMARY KEY (experiment_id, state)
) STRICT, WITHOUT ROWID;

-- A job that takes an equal one's result when it is submitted has no options of its own in job_spec:
-- they are those of the job that it was cached from.
DROP VIEW jobs;
CREATE VIEW jobs AS
SELECT e.name                   AS experiment,
       j.name                   AS name,
       j.state                  AS state,
       a.worker_name            AS worker,               -- Of the latest attempt.
       j.attempt                AS attempts,
       j.retries_used           AS retries_used,
       j.retries                AS retries,
       j.losses                 AS losses,
       nullif(j.failure_class, 'none') AS failure_class,
       nullif(j.error, '')      AS error,
       j.priority               AS priority,
       j.resume_epoch           AS resume_epoch,
       (SELECT group_concat(n.name, ' ') FROM job_name AS n
         WHERE n.job_id = j.id AND n.is_alias = 1)
                                AS aliases,
       -- The equal job, perhaps of another experiment.
       c.name                   AS cached_from,
       lower(nullif(hex(j.identity), '')) AS identity,
       lower(hex(j.spec_sha256)) AS spec_sha256,
       datetime(nullif(j.started_at_ms, 0) / 1000, 'unixepoch')  AS started_at,
       datetime(nullif(j.finished_at_ms, 0) / 1000, 'unixepoch') AS finished_at,
       s.spec_json              AS spec_json,
       j.experiment_id          AS experiment_id,
       j.id                     AS job_id
  FROM job AS j
  JOIN experiment AS e ON e.id = j.experiment_id
  JOIN job_spec AS s ON s.job_id = coalesce(j.cached_from, j.id)
  LEFT JOIN attempt AS a ON a.job_id = j.id AND a.attempt = j.attempt
  LEFT JOIN job AS c ON c.id = j.cached_from;
