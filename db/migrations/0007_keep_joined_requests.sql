-- Submits that joined an experiment which was active: repeated, also after it has ended, they get
-- the first answer. Those that made an experiment are in its own row.
CREATE TABLE joined_request (
  request_id     TEXT    NOT NULL PRIMARY KEY CHECK (request_id <> ''),
  -- Over the whole request.
  request_sha256 BLOB    NOT NULL CHECK (length(request_sha256) = 32),
  experiment_id  INTEGER NOT NULL REFERENCES experiment (id)
) STRICT, WITHOUT ROWID;
