-- Who may use the server. Beside the studies and not among them: a copy of bitrung.db can be given
-- away. Columns that end in _at_ms are wall-clock milliseconds since 1970; 0 means "not yet".

-- Where clients reach the server.
CREATE TABLE server (
  address TEXT NOT NULL CHECK (address <> '')
) STRICT;

-- Of people and their programs.
CREATE TABLE token (
  id            TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  -- Of the whole token. It has 256 random bits, so that a slow hash would add nothing.
  secret_sha256 BLOB    NOT NULL CHECK (length(secret_sha256) = 32),
  name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  role          TEXT    NOT NULL CHECK (role IN ('viewer', 'submitter', 'operator', 'admin')),
  created_by    TEXT    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL CHECK (expires_at_ms > created_at_ms),
  revoked_at_ms INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER token_changes_once BEFORE UPDATE ON token
WHEN OLD.revoked_at_ms <> 0 OR NEW.id <> OLD.id OR NEW.secret_sha256 <> OLD.secret_sha256 OR
     NEW.name <> OLD.name OR NEW.role <> OLD.role OR NEW.expires_at_ms <> OLD.expires_at_ms
BEGIN SELECT RAISE(ABORT, 'a token can only be revoked, once'); END;

-- Lets a worker ask for a certificate, once.
CREATE TABLE enrolment (
  id            TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  secret_sha256 BLOB    NOT NULL CHECK (length(secret_sha256) = 32),
  worker        TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 128),
  created_by    TEXT    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL CHECK (expires_at_ms > created_at_ms),
  used_at_ms    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER enrolment_is_used_once BEFORE UPDATE ON enrolment
WHEN OLD.used_at_ms <> 0 OR NEW.secret_sha256 <> OLD.secret_sha256 OR NEW.worker <> OLD.worker
BEGIN SELECT RAISE(ABORT, 'an enrolment can only be used, once'); END;

-- Certificates that were issued to workers, by serial number in hex.
CREATE TABLE worker_certificate (
  serial        TEXT    NOT NULL PRIMARY KEY CHECK (serial <> ''),
  worker        TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 128),
  worker_id     TEXT    NOT NULL CHECK (worker_id <> ''),
  enrolment_id  TEXT    NOT NULL UNIQUE REFERENCES enrolment (id),
  issued_at_ms  INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  revoked_at_ms INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TRIGGER worker_certificate_changes_once BEFORE UPDATE ON worker_certificate
WHEN OLD.revoked_at_ms <> 0 OR NEW.serial <> OLD.serial OR NEW.worker <> OLD.worker OR
     NEW.worker_id <> OLD.worker_id OR NEW.expires_at_ms <> OLD.expires_at_ms
BEGIN SELECT RAISE(ABORT, 'a certificate can only be revoked, once'); END;

-- What was asked of the server that changes something, in order. Rows are only ever added.
CREATE TABLE audit (
  id         INTEGER PRIMARY KEY,
  at_ms      INTEGER NOT NULL,
  name       TEXT    NOT NULL,  -- Of the token or worker, or "owner".
  credential TEXT    NOT NULL,  -- Id of the token, or serial number of the certificate.
  address    TEXT    NOT NULL,
  method     TEXT    NOT NULL,
  subject    TEXT    NOT NULL
) STRICT;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is only ever added to'); END;
