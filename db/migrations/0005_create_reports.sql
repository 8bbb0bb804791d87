-- What was measured of a trained network: its final evaluation and its layers. Beside the job and
-- not in it, so that lists of jobs do not read it.
--
-- A job that was cached has no row: its report is that of the job it was cached from. The view
-- `reports` has followed that link. For example:
--   SELECT name, report_json ->> '$.evaluation.per_class[3]' FROM reports

CREATE TABLE report (
  job_id      INTEGER PRIMARY KEY REFERENCES job (id),
  -- The server has parsed it; a schema that is not trusted may not call json_valid() itself.
  report_json TEXT    NOT NULL CHECK (substr(report_json, 1, 1) = '{')
) STRICT;

-- It belongs to a result, and is as final as that.
CREATE TRIGGER report_of_a_winner BEFORE INSERT ON report
WHEN NOT EXISTS (SELECT 1 FROM job AS j WHERE j.id = NEW.job_id AND j.state = 'succeeded' AND
                                              j.cached_from IS NULL)
BEGIN SELECT RAISE(ABORT, 'a report belongs to a job that has succeeded'); END;

CREATE TRIGGER report_is_final BEFORE UPDATE ON report
BEGIN SELECT RAISE(ABORT, 'the report of a job is final'); END;

-- One row per job with a report.
CREATE VIEW reports AS
SELECT e.name                   AS experiment,
       j.name                   AS name,
       r.report_json            AS report_json,
       j.experiment_id          AS experiment_id,
       j.id                     AS job_id
  FROM job AS j
  JOIN experiment AS e ON e.id = j.experiment_id
  JOIN report AS r ON r.job_id = coalesce(j.cached_from, j.id);

-- One row per job with a report: its numbers on the test set, and what the network costs. `ece` is
-- the expected calibration error over 15 bins.
CREATE VIEW evaluations AS
SELECT r.experiment             AS experiment,
       r.name                   AS name,
       r.report_json ->> '$.evaluation.images'       AS images,
       r.report_json ->> '$.evaluation.top1'         AS top1,
       r.report_json ->> '$.evaluation.top5'         AS top5,
       r.report_json ->> '$.evaluation.nll'          AS nll,
       r.report_json ->> '$.evaluation.brier'        AS brier,
       r.report_json ->> '$.evaluation.ece'          AS ece,
       r.report_json ->> '$.network.parameters'      AS parameters,
       r.report_json ->> '$.network.macs'            AS macs,
       r.report_json ->> '$.network.bit_operations'  AS bit_operations,
       r.report_json ->> '$.network.bytes_packed'    AS bytes_packed,
       r.report_json ->> '$.network.compression'     AS compression,
       r.experiment_id          AS experiment_id,
       r.job_id                 AS job_id
  FROM reports AS r;

-- One row per layer of each job with a report, in the order of the forward pass. `levels` is the
-- number of different values that occur; quantization really happened if it is at most 2^bits.
CREATE VIEW layers AS
SELECT r.experiment             AS experiment,
       r.name                   AS name,
       l.key + 1                AS position,
       l.value ->> '$.name'     AS layer,
       l.value ->> '$.role'     AS role,
       l.value ->> '$.macs'     AS macs,
       l.value ->> '$.weights.bits'         AS weight_bits,
       l.value ->> '$.weights.levels'       AS weight_levels,
       l.value ->> '$.weights.sqnr_db'      AS weight_sqnr_db,
       l.value ->> '$.weights.saturated'    AS weight_saturated,
       l.value ->> '$.weights.entropy'      AS weight_entropy,
       l.value ->> '$.activations.bits'     AS activation_bits,
       l.value ->> '$.activations.levels'   AS activation_levels,
       l.value ->> '$.activations.sqnr_db'  AS activation_sqnr_db,
       l.value ->> '$.activations.saturated' AS activation_saturated,
       l.value ->> '$.activations.entropy'  AS activation_entropy,
       r.experiment_id          AS experiment_id,
       r.job_id                 AS job_id
  FROM reports AS r JOIN json_each(r.report_json, '$.layers') AS l;
