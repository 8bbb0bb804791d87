-- Experiments and their jobs.
--
-- Conventions of every table: a column that ends in _at_ms is wall-clock time in milliseconds since
-- 1970 (UTC), meant for people, and 0 means "not yet". A column that ends in _sha256 holds the 32
-- bytes of a SHA-256; hex() prints it. Accuracies are percent. Unsigned 64-bit numbers above 2^63-1
-- appear negative (two's complement).
--
-- To ask questions use the views (results, experiments, jobs, attempts, ladders, metrics, logs);
-- they are plainer than the tables. Never write to this file while a server uses it.

-- Counters of the server itself.
--   term         how often the file was opened by a server; a worker refuses a lower term than it
--                has seen
--   changed_seq  last value given to job.changed_seq
CREATE TABLE meta (
  key   TEXT    NOT NULL PRIMARY KEY,
  value INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES ('term', 0), ('changed_seq', 0);

-- A submitted graph of jobs.
CREATE TABLE experiment (
  id              INTEGER PRIMARY KEY CHECK (id > 0),
  -- Several experiments may share one.
  name            TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  -- Chosen by the client: a repeated submit is found by it.
  request_id      TEXT    NOT NULL UNIQUE CHECK (request_id <> ''),
  -- Over the whole request.
  request_sha256  BLOB    NOT NULL CHECK (length(request_sha256) = 32),
  -- Over names, options and inputs: equal for equal graphs.
  graph_sha256    BLOB    NOT NULL CHECK (length(graph_sha256) = 32),
  -- The file as it was written.
  source_yaml     TEXT    NOT NULL,
  submitted_at_ms INTEGER NOT NULL,
  finished_at_ms  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX experiment_by_name ON experiment (name, graph_sha256);

-- A training, a quantization or an evaluation: one node of an experiment's graph. The columns down
-- to estimated_flops never change; the others tell how far it got.
CREATE TABLE job (
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

  state            TEXT    NOT NULL CHECK (state IN (
                     'blocked', 'ready', 'offered', 'running', 'cancelling',
                     'succeeded', 'failed', 'cancelled', 'skipped')),
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
  failure_class    TEXT    NOT NULL CHECK (failure_class IN (
                     'none', 'user_error', 'diverged', 'out_of_memory', 'device_fault',
                     'lost_worker', 'preempted', 'timeout', 'trainer_crashed')),
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

CREATE INDEX job_by_experiment ON job (experiment_id);
CREATE INDEX job_by_change ON job (experiment_id, changed_seq);
-- Answers counts without the table.
CREATE INDEX job_by_state ON job (experiment_id, state, cached_from);
CREATE INDEX job_succeeded_by_identity ON job (identity) WHERE state = 'succeeded';
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

-- Every option of a job as canonical JSON. Beside the job and not in it, so that lists of jobs do
-- not read it. For example:
--   SELECT spec_json ->> '$.optimizer.learning_rate' FROM job_spec WHERE job_id = 7
CREATE TABLE job_spec (
  job_id    INTEGER PRIMARY KEY REFERENCES job (id),
  spec_json TEXT NOT NULL
) STRICT;

-- Names and aliases of the jobs of an experiment. They share one table because they share one name
-- space: a job that is written twice in the file (the first rung of a ladder is often a job of its
-- own) exists once and has an alias.
CREATE TABLE job_name (
  experiment_id INTEGER NOT NULL REFERENCES experiment (id),
  name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  job_id        INTEGER NOT NULL REFERENCES job (id),
  -- 0 for the name that job.name repeats.
  is_alias      INTEGER NOT NULL CHECK (is_alias IN (0, 1)),
  PRIMARY KEY (experiment_id, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_alias ON job_name (job_id) WHERE is_alias = 1;

-- What a job needs before it can start: another job, or an artifact from outside.
CREATE TABLE job_input (
  job_id          INTEGER NOT NULL REFERENCES job (id),
  position        INTEGER NOT NULL CHECK (position >= 0),
  -- It teaches, or its weights are the start.
  role            TEXT    NOT NULL CHECK (role IN ('teacher', 'init')),
  parent_id       INTEGER REFERENCES job (id) DEFERRABLE INITIALLY DEFERRED,
  artifact_sha256 BLOB    CHECK (length(artifact_sha256) = 32),
  PRIMARY KEY (job_id, position),
  CHECK ((parent_id IS NULL) <> (artifact_sha256 IS NULL))
) STRICT, WITHOUT ROWID;
