// A small wrapper of SQLite: a connection, statements that are prepared once, rows with typed
// columns, errors as absl::Status. It knows nothing of our tables. Nothing here is thread-safe: one
// connection and its statements belong to one thread at a time, and the statements must not outlive
// the connection.
//
//   BITRUNG_ASSIGN_OR_RETURN(Statement find, connection.prepare("find_job", "SELECT name, seed FROM
//   job WHERE id = ?")); Rows rows = find.query(id); while (rows.next()) rows.read(name, seed);
//   BITRUNG_RETURN_IF_ERROR(rows.status());
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/digest.h"
#include "db/words.h"

struct sqlite3;
struct sqlite3_stmt;

namespace bitrung::db {

// The open file. Shared by a connection and its statements, for their error texts.
struct Database {
  sqlite3* handle = nullptr;
  std::filesystem::path path;
  int log_pages = 0;  // In the write-ahead log, as of the last commit of this connection.

  Database() = default;
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database();

  // "insert_job on /var/lib/bitrung/bitrung.db: UNIQUE constraint failed: job.id (SQLite 1555)". A
  // full disk is RESOURCE_EXHAUSTED, damage is DATA_LOSS, a broken constraint or statement
  // INTERNAL, everything else UNAVAILABLE.
  absl::Status error(std::string_view operation, int code) const;
};

// The rows of one execution of a statement. The statement is free again when this is destroyed.
class Rows {
 public:
  Rows(Rows&& other) noexcept;
  Rows& operator=(Rows&&) = delete;
  ~Rows();

  // True if there is a row to read; false at the end and after an error.
  bool next();
  // OK unless an execution or a read() failed.
  absl::Status status() const { return status_; }

  // The columns from the first on, or from `column` on. A value that its type does not admit (an
  // unknown state, a digest of the wrong length) makes status() DATA_LOSS and ends the rows.
  template <typename... Values>
  void read(Values&... values) {
    read_from(0, values...);
  }
  template <typename... Values>
  void read_from(int column, Values&... values) {
    (read_one(column++, values), ...);
  }
  bool is_null(int column) const;
  // Text of a column; valid until the next call of next().
  std::string_view text(int column) const;

 private:
  friend class Statement;
  Rows(const Database* database, const std::string* operation, sqlite3_stmt* statement,
       absl::Status status);

  void read_one(int column, std::int64_t& value);
  void read_one(int column, double& value);
  void read_one(int column, bool& value);
  void read_one(int column, std::string& value);
  void read_one(int column, Digest& value);
  void read_one(int column, JobState& value);
  void read_one(int column, AttemptState& value);
  void read_one(int column, FailureClass& value);
  void read_one(int column, InputRole& value);
  void read_one(int column, ExperimentId& value) { value = ExperimentId{integer(column)}; }
  void read_one(int column, JobId& value) { value = JobId{integer(column)}; }
  // Unsigned 64-bit numbers are stored as the signed number with the same bits.
  void read_one(int column, std::uint64_t& value) {
    value = static_cast<std::uint64_t>(integer(column));
  }
  void read_one(int column, std::uint32_t& value);
  void read_one(int column, std::int32_t& value);
  template <typename T>
  void read_one(int column, std::optional<T>& value) {
    if (is_null(column)) {
      value.reset();
    } else {
      read_one(column, value.emplace());
    }
  }

  std::int64_t integer(int column) const;
  void damaged(int column, std::string_view expected);

  const Database* database_;
  const std::string* operation_;
  sqlite3_stmt* statement_;
  absl::Status status_;
};

// One prepared statement, named after the operation that it performs.
class Statement {
 public:
  Statement() = default;
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) noexcept;
  ~Statement();

  // Executes a statement of which no rows are wanted. The parameters are bound in order.
  template <typename... Values>
  absl::Status run(const Values&... values) {
    Rows rows = query(values...);
    while (rows.next()) {
    }
    return rows.status();
  }

  // Executes and gives the rows. The parameters must live until the last row was read, unless they
  // are numbers.
  template <typename... Values>
  Rows query(const Values&... values) {
    int parameter = 0;
    int code = 0;
    // The first failure ends the binding.
    static_cast<void>((((code = bind(++parameter, values)) == 0) && ...));
    return start(code, parameter);
  }

 private:
  friend class Connection;

  int bind(int parameter, std::int64_t value);
  int bind(int parameter, double value);
  int bind(int parameter, std::string_view value);
  int bind(int parameter, const Digest& value);
  int bind(int parameter, const char* value) = delete;  // It would become a bool.
  int bind(int parameter, std::nullopt_t);
  int bind(int parameter, std::uint64_t value) {
    return bind(parameter, static_cast<std::int64_t>(value));
  }
  int bind(int parameter, std::uint32_t value) { return bind(parameter, std::int64_t{value}); }
  int bind(int parameter, std::int32_t value) { return bind(parameter, std::int64_t{value}); }
  int bind(int parameter, bool value) { return bind(parameter, std::int64_t{value ? 1 : 0}); }
  int bind(int parameter, ExperimentId value) { return bind(parameter, number(value)); }
  int bind(int parameter, JobId value) { return bind(parameter, number(value)); }
  int bind(int parameter, JobState value) { return bind(parameter, name(value)); }
  int bind(int parameter, AttemptState value) { return bind(parameter, name(value)); }
  int bind(int parameter, FailureClass value) { return bind(parameter, name(value)); }
  int bind(int parameter, InputRole value) { return bind(parameter, name(value)); }
  int bind(int parameter, const std::string& value) {
    return bind(parameter, std::string_view(value));
  }
  template <typename T>
  int bind(int parameter, const std::optional<T>& value) {
    return value ? bind(parameter, *value) : bind(parameter, std::nullopt);
  }

  Rows start(int bind_code, int parameters);

  const Database* database_ = nullptr;
  std::unique_ptr<std::string> operation_;  // Its address must outlive a move of the statement.
  sqlite3_stmt* statement_ = nullptr;
};

class Connection {
 public:
  enum class Mode {
    kReadWrite,  // Creates the file if needed. Foreign keys are enforced, every commit is synced.
    kReadOnly,   // Never writes, not even a checkpoint.
  };
  // Does not read the file yet. Until use_write_ahead_log() the file is left as it is.
  static absl::StatusOr<Connection> open(const std::filesystem::path& path, Mode mode);

  Connection(Connection&&) noexcept = default;
  Connection& operator=(Connection&&) noexcept = default;

  const std::filesystem::path& path() const { return database_->path; }

  // For the one writer: readers go on while it writes, and it does all checkpoints. SQLite's own
  // ones after a commit are off: they hide their errors, a failed sync among them.
  absl::Status use_write_ahead_log();
  // Pages that wait in the log for a checkpoint.
  int log_pages() const { return database_->log_pages; }
  // Brings the log's pages into the database file, as far as no reader needs the older ones.
  absl::Status checkpoint();
  // Makes none when it is closed either: after an error the disk is left as it is.
  void keep_log();

  // Executes statements without parameters and rows, separated by semicolons.
  absl::Status execute(std::string_view operation, const char* sql);
  // The one number that a query gives.
  absl::StatusOr<std::int64_t> query_integer(std::string_view operation, std::string_view sql);
  absl::StatusOr<Statement> prepare(std::string_view operation, std::string_view sql);
  // Copies the whole database over that of `target`, some pages at a time; `on_progress` gets the
  // bytes done and those of the whole. Inside a transaction it is one snapshot, whatever another
  // connection writes meanwhile.
  absl::Status copy_to(Connection& target, int pages_per_step,
                       const std::function<void(std::uint64_t, std::uint64_t)>& on_progress);
  // Rows that the last statement changed.
  std::int64_t changes() const;
  bool in_transaction() const;

 private:
  explicit Connection(std::unique_ptr<Database> database) : database_(std::move(database)) {}
  std::unique_ptr<Database> database_;
};

}  // namespace bitrung::db
