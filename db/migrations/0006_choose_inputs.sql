-- A job may have several teachers, a teacher that is the best of several candidates, or a source: a
-- network that it quantizes or evaluates without training it.

-- They read the table that is made anew.
DROP VIEW ladders;
DROP VIEW results;

CREATE TABLE job_input_with_choices (
  job_id          INTEGER NOT NULL REFERENCES job (id),
  position        INTEGER NOT NULL CHECK (position >= 0),
  -- It teaches (several are averaged, in this order), its weights are the start, or it is what is
  -- quantized or evaluated.
  role            TEXT    NOT NULL CHECK (role IN ('teacher', 'init', 'source')),
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

INSERT INTO job_input_with_choices
SELECT job_id, position, role, parent_id, artifact_sha256, 0, 0 FROM job_input;
DROP TABLE job_input;
ALTER TABLE job_input_with_choices RENAME TO job_input;

-- A choice is made once and never again.
CREATE UNIQUE INDEX job_input_one_chosen ON job_input (job_id, choice) WHERE chosen = 1;
CREATE TRIGGER job_input_choice_is_final BEFORE UPDATE ON job_input
WHEN OLD.chosen = 1 AND NEW.chosen <> 1
BEGIN SELECT RAISE(ABORT, 'the choice of a teacher is final'); END;

-- One row per job: what was asked for and what came out.
CREATE VIEW results AS
SELECT e.name                   AS experiment,
       j.name                   AS name,
       j.model                  AS model,
       j.dataset                AS dataset,
       j.method                 AS method,
       j.weight_bits            AS weight_bits,
       j.activation_bits        AS activation_bits,
       -- Names of the jobs that teach, or "artifact" and its digest; NULL until a teacher is chosen.
       (SELECT group_concat(t.name, ', ')
          FROM (SELECT coalesce(p.name, 'artifact ' || lower(hex(i.artifact_sha256))) AS name
                  FROM job_input AS i LEFT JOIN job AS p ON p.id = i.parent_id
                 WHERE i.job_id = j.id AND i.role = 'teacher' AND (i.choice = 0 OR i.chosen = 1)
                 ORDER BY i.position) AS t)
                                AS teacher,
       CASE WHEN j.seed >= 0 THEN j.seed ELSE printf('%u', j.seed) END
                                AS seed,
       j.epochs                 AS epochs,
       j.state                  AS state,
       -- 1: the result of an equal job was taken over.
       j.cached_from IS NOT NULL AS cached,
       j.test_accuracy          AS test_accuracy,
       j.validation_accuracy    AS validation_accuracy,
       j.test_loss              AS test_loss,
       j.duration_seconds       AS duration_seconds,
       j.images_per_second      AS images_per_second,
       j.attempt                AS attempts,
       lower(nullif(hex(j.artifact_sha256), '')) AS artifact_sha256,
       nullif(j.error, '')      AS error,
       j.experiment_id          AS experiment_id,        -- Tells experiments of one name apart.
       j.id                     AS job_id
  FROM job AS j JOIN experiment AS e ON e.id = j.experiment_id;

-- One row per student and job that teaches it: what a rung costs or gains. `difference` is the
-- student's test accuracy minus the teacher's, in percentage points.
CREATE VIEW ladders AS
SELECT e.name                   AS experiment,
       j.name                   AS job,
       t.name                   AS teacher,
       j.weight_bits            AS weight_bits,
       j.activation_bits        AS activation_bits,
       t.weight_bits            AS teacher_weight_bits,
       t.activation_bits        AS teacher_activation_bits,
       j.test_accuracy          AS test_accuracy,
       t.test_accuracy          AS teacher_test_accuracy,
       j.test_accuracy - t.test_accuracy AS difference,
       CASE WHEN j.seed >= 0 THEN j.seed ELSE printf('%u', j.seed) END AS seed,
       j.state                  AS state,
       j.experiment_id          AS experiment_id,
       j.id                     AS job_id
  FROM job AS j
  JOIN experiment AS e ON e.id = j.experiment_id
  JOIN job_input AS i ON i.job_id = j.id AND i.role = 'teacher' AND (i.choice = 0 OR i.chosen = 1)
  JOIN job AS t ON t.id = i.parent_id;
