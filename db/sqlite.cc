#include "db/sqlite.h"

#include <sqlite3.h>

#include <cerrno>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::db {
namespace {

// A second connection holds a lock for the time of a commit or checkpoint at most; longer means
// something is wrong.
constexpr int kBusyTimeoutMs = 10'000;

// Every commit is synced (FULL): what was acknowledged survives a power cut. The sizes bound memory
// to 64 MiB of pages and cut the log back to 64 MiB after a large transaction.
constexpr const char* kReadWritePragmas =
    "PRAGMA synchronous = FULL;"
    "PRAGMA foreign_keys = ON;"
    "PRAGMA cache_size = -65536;"
    "PRAGMA temp_store = MEMORY;"
    "PRAGMA journal_size_limit = 67108864";
constexpr const char* kReadOnlyPragmas =
    "PRAGMA query_only = ON;"
    "PRAGMA wal_autocheckpoint = 0;"
    "PRAGMA cache_size = -32768;"
    "PRAGMA temp_store = MEMORY";

// SQLite itself recognises only ENOSPC; a quota and a limit of the file size are the same to us.
// The error number of a failed write is kept with the file, which is the log or, during a
// checkpoint, the database.
bool is_out_of_space(sqlite3* handle) {
  const auto last_error = [](sqlite3_file* file) {
    int error = 0;
    if (file != nullptr && file->pMethods != nullptr) {
      file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error);
    }
    return error;
  };
  for (const int which : {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER}) {
    sqlite3_file* file = nullptr;
    if (sqlite3_file_control(handle, "main", which, &file) != SQLITE_OK) continue;
    const int error = last_error(file);
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) return true;
  }
  const int error = sqlite3_system_errno(handle);
  return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

// SQLite counts its memory under one lock for all connections; nobody asks for the count.
void leave_memory_uncounted() {
  static const int code = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  static_cast<void>(code);  // Refused once SQLite is in use: then it counts.
}

void set_option(sqlite3* handle, int option, int value) {
  BITRUNG_CHECK(sqlite3_db_config(handle, option, value, nullptr) == SQLITE_OK);
}

}  // namespace

Database::~Database() {
  if (handle != nullptr) sqlite3_close_v2(handle);
}

absl::Status Database::error(std::string_view operation, int code) const {
  const std::string text =
      fmt::format("{} on {}: {} (SQLite {})", operation, path.string(),
                  handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(code), code);
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
      if (handle != nullptr && is_out_of_space(handle)) {
        return absl::ResourceExhaustedError(text);
      }
      return absl::UnavailableError(text);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_NOMEM:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

Rows::Rows(const Database* database, const std::string* operation, sqlite3_stmt* statement,
           absl::Status status)
    : database_(database),
      operation_(operation),
      statement_(statement),
      status_(std::move(status)) {}

Rows::Rows(Rows&& other) noexcept
    : database_(other.database_),
      operation_(other.operation_),
      statement_(std::exchange(other.statement_, nullptr)),
      status_(std::move(other.status_)) {}

Rows::~Rows() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);  // They point into memory of the caller.
}

bool Rows::next() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = database_->error(*operation_, code);
  return false;
}

bool Rows::is_null(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::string_view Rows::text(int column) const {
  // In this order: the size is that of the representation last asked for.
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  const int size = sqlite3_column_bytes(statement_, column);
  return {bytes, static_cast<std::size_t>(size)};
}

std::int64_t Rows::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

void Rows::damaged(int column, std::string_view expected) {
  if (!status_.ok()) return;
  const char* column_name = sqlite3_column_name(statement_, column);
  status_ = absl::DataLossError(fmt::format(
      "{} on {}: column {} holds no {}; the file was changed by something else", *operation_,
      database_->path.string(), column_name != nullptr ? column_name : "?", expected));
}

void Rows::read_one(int column, std::int64_t& value) {
  value = integer(column);
}
void Rows::read_one(int column, double& value) {
  value = sqlite3_column_double(statement_, column);
}
void Rows::read_one(int column, bool& value) {
  value = integer(column) != 0;
}
void Rows::read_one(int column, std::string& value) {
  value = text(column);
}

void Rows::read_one(int column, Digest& value) {
  if (const auto digest = Digest::from_raw(text(column))) {
    value = *digest;
  } else {
    damaged(column, "SHA-256");
  }
}

void Rows::read_one(int column, JobState& value) {
  if (const auto state = parse_job_state(text(column))) {
    value = *state;
  } else {
    damaged(column, "job state");
  }
}

void Rows::read_one(int column, AttemptState& value) {
  if (const auto state = parse_attempt_state(text(column))) {
    value = *state;
  } else {
    damaged(column, "attempt state");
  }
}

void Rows::read_one(int column, FailureClass& value) {
  if (const auto failure = parse_failure_class(text(column))) {
    value = *failure;
  } else {
    damaged(column, "failure class");
  }
}

void Rows::read_one(int column, InputRole& value) {
  if (const auto role = parse_input_role(text(column))) {
    value = *role;
  } else {
    damaged(column, "input role");
  }
}

void Rows::read_one(int column, std::uint32_t& value) {
  const std::int64_t wide = integer(column);
  if (wide < 0 || wide > std::numeric_limits<std::uint32_t>::max())
    damaged(column, "32-bit number");
  value = static_cast<std::uint32_t>(wide);
}

void Rows::read_one(int column, std::int32_t& value) {
  const std::int64_t wide = integer(column);
  if (wide < std::numeric_limits<std::int32_t>::min() ||
      wide > std::numeric_limits<std::int32_t>::max()) {
    damaged(column, "32-bit number");
  }
  value = static_cast<std::int32_t>(wide);
}

Statement::Statement(Statement&& other) noexcept {
  *this = std::move(other);
}

Statement& Statement::operator=(Statement&& other) noexcept {
  std::swap(database_, other.database_);
  std::swap(operation_, other.operation_);
  std::swap(statement_, other.statement_);
  return *this;
}

Statement::~Statement() {
  sqlite3_finalize(statement_);
}

int Statement::bind(int parameter, std::int64_t value) {
  return sqlite3_bind_int64(statement_, parameter, value);
}
int Statement::bind(int parameter, double value) {
  return sqlite3_bind_double(statement_, parameter, value);
}
int Statement::bind(int parameter, std::nullopt_t) {
  return sqlite3_bind_null(statement_, parameter);
}

int Statement::bind(int parameter, std::string_view value) {
  // A view without data is an empty text; to SQLite a null pointer would be NULL.
  return sqlite3_bind_text64(statement_, parameter, value.data() != nullptr ? value.data() : "",
                             value.size(), SQLITE_STATIC, SQLITE_UTF8);
}

int Statement::bind(int parameter, const Digest& value) {
  return sqlite3_bind_blob64(statement_, parameter, value.bytes.data(), value.bytes.size(),
                             SQLITE_STATIC);
}

Rows Statement::start(int bind_code, int parameters) {
  BITRUNG_CHECK(statement_ != nullptr);
  BITRUNG_CHECK(sqlite3_stmt_busy(statement_) == 0);
  BITRUNG_CHECK(bind_code != SQLITE_OK || sqlite3_bind_parameter_count(statement_) == parameters);
  return Rows(database_, operation_.get(), statement_,
              bind_code == SQLITE_OK ? absl::OkStatus() : database_->error(*operation_, bind_code));
}

absl::StatusOr<Connection> Connection::open(const std::filesystem::path& path, Mode mode) {
  std::error_code error;
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    return absl::FailedPreconditionError(fmt::format(
        "{} is not a regular file; the database is to be there, so move it away", path.string()));
  }
  leave_memory_uncounted();
  auto database = std::make_unique<Database>();
  database->path = path;
  const int flags = (mode == Mode::kReadWrite ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
                                              : SQLITE_OPEN_READONLY) |
                    SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int code = sqlite3_open_v2(path.c_str(), &database->handle, flags, nullptr);
  if (code != SQLITE_OK) return database->error("open", code);

  sqlite3* handle = database->handle;
  sqlite3_busy_timeout(handle, kBusyTimeoutMs);
  set_option(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0);
  set_option(handle, SQLITE_DBCONFIG_DEFENSIVE, 1);
  set_option(handle, SQLITE_DBCONFIG_DQS_DDL, 0);
  set_option(handle, SQLITE_DBCONFIG_DQS_DML, 0);
  set_option(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1);
  Connection connection(std::move(database));
  BITRUNG_RETURN_IF_ERROR(connection.execute(
      "configure", mode == Mode::kReadWrite ? kReadWritePragmas : kReadOnlyPragmas));
  return connection;
}

absl::Status Connection::use_write_ahead_log() {
  BITRUNG_ASSIGN_OR_RETURN(Statement statement,
                           prepare("use_write_ahead_log", "PRAGMA journal_mode = WAL"));
  std::string mode;
  Rows rows = statement.query();
  while (rows.next()) rows.read(mode);
  BITRUNG_RETURN_IF_ERROR(rows.status());
  if (mode != "wal") {
    return absl::FailedPreconditionError(
        fmt::format("{} cannot have a write-ahead log, its journal is \"{}\"; the state directory "
                    "must be on a local disk",
                    path().string(), mode));
  }
  set_option(database_->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0);
  // Takes the place of SQLite's hook, which makes checkpoints.
  sqlite3_wal_hook(
      database_->handle,
      [](void* database, sqlite3*, const char*, int pages) {
        static_cast<Database*>(database)->log_pages = pages;
        return SQLITE_OK;
      },
      database_.get());
  return absl::OkStatus();
}

absl::Status Connection::checkpoint() {
  const int code = sqlite3_wal_checkpoint_v2(database_->handle, nullptr, SQLITE_CHECKPOINT_PASSIVE,
                                             nullptr, nullptr);
  // Busy: somebody else makes one, or a reader is just starting. A later call does it.
  if (code == SQLITE_OK || (code & 0xff) == SQLITE_BUSY) return absl::OkStatus();
  return database_->error("checkpoint", code);
}

void Connection::keep_log() {
  set_option(database_->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1);
}

absl::Status Connection::execute(std::string_view operation, const char* sql) {
  const int code = sqlite3_exec(database_->handle, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : database_->error(operation, code);
}

absl::StatusOr<std::int64_t> Connection::query_integer(std::string_view operation,
                                                       std::string_view sql) {
  BITRUNG_ASSIGN_OR_RETURN(Statement statement, prepare(operation, sql));
  Rows rows = statement.query();
  std::int64_t value = 0;
  while (rows.next()) rows.read(value);
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return value;
}

absl::StatusOr<Statement> Connection::prepare(std::string_view operation, std::string_view sql) {
  Statement statement;
  statement.database_ = database_.get();
  statement.operation_ = std::make_unique<std::string>(operation);
  const int code = sqlite3_prepare_v3(database_->handle, sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement.statement_, nullptr);
  if (code != SQLITE_OK) return database_->error(operation, code);
  return statement;
}

absl::Status Connection::copy_to(
    Connection& target, int pages_per_step,
    const std::function<void(std::uint64_t, std::uint64_t)>& on_progress) {
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t page_bytes,
                           query_integer("read_page_size", "PRAGMA page_size"));
  sqlite3_backup* copy =
      sqlite3_backup_init(target.database_->handle, "main", database_->handle, "main");
  if (copy == nullptr) {
    return target.database_->error("copy", sqlite3_extended_errcode(target.database_->handle));
  }
  int code = SQLITE_OK;
  while (code == SQLITE_OK) {
    code = sqlite3_backup_step(copy, pages_per_step);
    const auto total = static_cast<std::uint64_t>(sqlite3_backup_pagecount(copy));
    const auto left = static_cast<std::uint64_t>(sqlite3_backup_remaining(copy));
    const auto bytes = static_cast<std::uint64_t>(page_bytes);
    on_progress((total - left) * bytes, total * bytes);
  }
  const int finished = sqlite3_backup_finish(copy);
  if (code == SQLITE_DONE && finished == SQLITE_OK) return absl::OkStatus();
  // SQLite keeps the error with the target, whoever failed.
  return target.database_->error("copy", code == SQLITE_DONE ? finished : code);
}

std::int64_t Connection::changes() const {
  return sqlite3_changes64(database_->handle);
}

bool Connection::in_transaction() const {
  return sqlite3_get_autocommit(database_->handle) == 0;
}

}  // namespace bitrung::db
