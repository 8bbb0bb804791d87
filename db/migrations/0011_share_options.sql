-- Options that many jobs of a submit have in common are kept once: recording a large experiment writes
-- a third of the bytes. The view `jobs` shows every job's options whole.
CREATE TABLE shared_spec (
  id        INTEGER PRIMARY KEY,
  spec_json TEXT    NOT NULL
) STRICT;

-- NULL: job_spec.spec_json is all. Otherwise it has the rest; no member stands in both.
ALTER TABLE job_spec ADD COLUMN shared_id INTEGER REFERENCES shared_spec (id);

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
       iif(h.id IS NULL, s.spec_json, json_patch(h.spec_json, s.spec_json))
                                AS spec_json,
       j.experiment_id          AS experiment_id,
       j.id                     AS job_id
  FROM job AS j
  JOIN experiment AS e ON e.id = j.experiment_id
  JOIN job_spec AS s ON s.job_id = coalesce(j.cached_from, j.id)
  LEFT JOIN shared_spec AS h ON h.id = s.shared_id
  LEFT JOIN attempt AS a ON a.job_id = j.id AND a.attempt = j.attempt
  LEFT JOIN job AS c ON c.id = j.cached_from;
