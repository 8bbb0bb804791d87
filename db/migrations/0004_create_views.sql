-- Views for questions in one line, for instance
--   sqlite3 -readonly -box bitrung.db \
--     "select name, test_accuracy from results where experiment = 'bit-ladder'"
-- Times are UTC text, digests are hex, NULL means "not yet" or "none".

-- One row per job: what was asked for and what came out.
CREATE VIEW results AS
SELECT e.name                   AS experiment,
       j.name                   AS name,
       j.model                  AS model,
       j.dataset                AS dataset,
       j.method                 AS method,
       j.weight_bits            AS weight_bits,
       j.activation_bits        AS activation_bits,
       (SELECT coalesce(p.name, 'artifact ' || lower(hex(i.artifact_sha256)))
          FROM job_input AS i LEFT JOIN job AS p ON p.id = i.parent_id
         WHERE i.job_id = j.id AND i.role = 'teacher'
         ORDER BY i.position LIMIT 1)
                                AS teacher,  -- Name of the job, or "artifact" and its digest.
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

-- One row per experiment with the number of its jobs in each state. `waiting` counts blocked and
-- ready ones, `running` those that a worker has (offered, running, cancelling).
CREATE VIEW experiments AS
SELECT e.id                     AS experiment_id,
       e.name                   AS experiment,
       CASE WHEN count(j.id) FILTER (WHERE j.state IN ('blocked', 'ready', 'offered', 'running',
                                                       'cancelling')) > 0
              THEN 'active'
            WHEN count(j.id) FILTER (WHERE j.state = 'failed') > 0 THEN 'failed'
            WHEN count(j.id) FILTER (WHERE j.state IN ('cancelled', 'skipped')) > 0 THEN 'cancelled'
            ELSE 'succeeded' END AS state,
       count(j.id)              AS jobs,
       count(j.id) FILTER (WHERE j.state IN ('blocked', 'ready'))                 AS waiting,
       count(j.id) FILTER (WHERE j.state IN ('offered', 'running', 'cancelling')) AS running,
       count(j.id) FILTER (WHERE j.state = 'succeeded') AS succeeded,
       count(j.cached_from)     AS cached,               -- Part of `succeeded`.
       count(j.id) FILTER (WHERE j.state = 'failed')    AS failed,
       count(j.id) FILTER (WHERE j.state = 'cancelled') AS cancelled,
       count(j.id) FILTER (WHERE j.state = 'skipped')   AS skipped,
       datetime(e.submitted_at_ms / 1000, 'unixepoch')  AS submitted_at,
       datetime(nullif(e.finished_at_ms, 0) / 1000, 'unixepoch') AS finished_at
  FROM experiment AS e LEFT JOIN job AS j ON j.experiment_id = e.id
 GROUP BY e.id;

-- One row per job: where it stands, and with every option as JSON.
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
  JOIN job_spec AS s ON s.job_id = j.id
  LEFT JOIN attempt AS a ON a.job_id = j.id AND a.attempt = j.attempt
  LEFT JOIN job AS c ON c.id = j.cached_from;

-- One row per attempt, with the names of what it belongs to.
CREATE VIEW attempts AS
SELECT e.name                   AS experiment,
       j.name                   AS job,
       a.attempt                AS attempt,
       a.state                  AS state,
       a.worker_name            AS worker,
       a.slot                   AS slot,
       a.device                 AS device,
       a.threads                AS threads,
       nullif(a.failure_class, 'none') AS failure_class,
       nullif(a.error, '')      AS error,
       datetime(nullif(a.offered_at_ms, 0) / 1000, 'unixepoch')  AS offered_at,
       datetime(nullif(a.started_at_ms, 0) / 1000, 'unixepoch')  AS started_at,
       datetime(nullif(a.finished_at_ms, 0) / 1000, 'unixepoch') AS finished_at,
       CASE WHEN a.started_at_ms > 0 AND a.finished_at_ms > 0
            THEN (a.finished_at_ms - a.started_at_ms) / 1000.0 END AS seconds,
       a.resumed_epoch          AS resumed_epoch,
       a.point_watermark        AS points,               -- Number of points it has reported.
       a.line_watermark         AS log_lines,
       j.experiment_id          AS experiment_id,
       a.job_id                 AS job_id
  FROM attempt AS a JOIN job AS j ON j.id = a.job_id JOIN experiment AS e ON e.id = j.experiment_id;

-- One row per point of every series, in the order of arrival within a series.
CREATE VIEW metrics AS
SELECT e.name                   AS experiment,
       j.name                   AS job,
       s.attempt                AS attempt,
       s.name                   AS series,
       json_extract(p.value, '$[0]') AS step,
       CAST(json_extract(p.value, '$[1]') AS REAL) AS value,
       j.experiment_id          AS experiment_id,
       s.job_id                 AS job_id
  FROM series AS s
  JOIN job AS j ON j.id = s.job_id
  JOIN experiment AS e ON e.id = j.experiment_id
  JOIN series_chunk AS c ON c.series_id = s.series_id
  JOIN json_each('[' || c.points || ']') AS p;

-- One row per student that another job teaches: what a rung costs or gains. `difference` is the
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
  JOIN job_input AS i ON i.job_id = j.id AND i.role = 'teacher'
  JOIN job AS t ON t.id = i.parent_id;

-- One row per log line.
CREATE VIEW logs AS
SELECT e.name                   AS experiment,
       j.name                   AS job,
       l.attempt                AS attempt,
       l.line                   AS line,
       strftime('%Y-%m-%d %H:%M:%f', l.time_ms / 1000.0, 'unixepoch') AS time,
       l.text                   AS text,
       j.experiment_id          AS experiment_id,
       l.job_id                 AS job_id
  FROM log_line AS l
  JOIN job AS j ON j.id = l.job_id
  JOIN experiment AS e ON e.id = j.experiment_id;
