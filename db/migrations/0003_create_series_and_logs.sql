-- What attempts report while they run: series of numbers and log lines.

-- One metric of one attempt ("train_loss"), with a summary that is kept up to date, so that lists
-- need no points.
CREATE TABLE series (
  series_id   INTEGER PRIMARY KEY,
  job_id      INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  name        TEXT    NOT NULL CHECK (name <> ''),
  point_count INTEGER NOT NULL CHECK (point_count > 0),
  first_step  INTEGER NOT NULL,
  last_step   INTEGER NOT NULL,
  min         REAL    NOT NULL CHECK (abs(min) <= 1.7976931348623157e308),
  max         REAL    NOT NULL CHECK (abs(max) <= 1.7976931348623157e308),
  last        REAL    NOT NULL CHECK (abs(last) <= 1.7976931348623157e308),
  UNIQUE (job_id, attempt, name),
  FOREIGN KEY (job_id, attempt) REFERENCES attempt (job_id, attempt)
) STRICT;

-- The points of a series in the order of their arrival, 512 to a row: a row per point takes 30
-- times as long to write. `points` is a list of [step,value] pairs without the outer brackets, so
-- that a point is added by adding text; the view `metrics` takes it apart. Every chunk but the last
-- is full.
CREATE TABLE series_chunk (
  series_id   INTEGER NOT NULL REFERENCES series (series_id),
  chunk       INTEGER NOT NULL CHECK (chunk >= 0),
  point_count INTEGER NOT NULL CHECK (point_count BETWEEN 1 AND 512),
  points      TEXT    NOT NULL,
  PRIMARY KEY (series_id, chunk)
) STRICT;

-- What an attempt printed. The attempt is checked where lines are added (its watermark is read
-- there), so there is no foreign key to check per line.
CREATE TABLE log_line (
  job_id  INTEGER NOT NULL,
  attempt INTEGER NOT NULL CHECK (attempt > 0),
  line    INTEGER NOT NULL CHECK (line > 0),  -- Counted from 1 within the attempt.
  time_ms INTEGER NOT NULL,                   -- By the worker's clock.
  text    TEXT    NOT NULL,
  PRIMARY KEY (job_id, attempt, line)
) STRICT, WITHOUT ROWID;
