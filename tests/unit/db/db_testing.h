// What the tests of the database share: a directory that disappears, rows with plausible values,
// questions in SQL.
#pragma once

#include <sqlite3.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"
#include "db/store.h"

#define ASSERT_OK(expression)                                                  \
  do {                                                                         \
    const absl::Status asserted_status = ::bitrung::db::status_of(expression); \
    ASSERT_TRUE(asserted_status.ok()) << asserted_status;                      \
  } while (false)
#define EXPECT_OK(expression)                                                  \
  do {                                                                         \
    const absl::Status expected_status = ::bitrung::db::status_of(expression); \
    EXPECT_TRUE(expected_status.ok()) << expected_status;                      \
  } while (false)

namespace bitrung::db {

inline absl::Status status_of(const absl::Status& status) {
  return status;
}
template <typename T>
absl::Status status_of(const absl::StatusOr<T>& result) {
  return result.status();
}

// The value, or the end of the test program with the reason.
template <typename T>
T value_of(absl::StatusOr<T> result) {
  if (!result.ok()) {
    fmt::print(stderr, "unexpected: {}\n", result.status().ToString());
    std::abort();
  }
  return *std::move(result);
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "bitrung-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline Digest digest_of(std::string_view text) {
  return sha256(text);
}

inline ExperimentRow make_experiment(std::int64_t id, std::string name = "bit-ladder") {
  ExperimentRow row;
  row.id = ExperimentId{id};
  row.name = std::move(name);
  row.request_id = fmt::format("request-{}", id);
  row.request_sha256 = digest_of(row.request_id);
  row.graph_sha256 = digest_of("graph");
  row.source_yaml = "experiment: bit-ladder\n";
  row.submitted_at_ms = 1'700'000'000'000;
  return row;
}

inline JobSpecRow make_job(std::int64_t id, std::int64_t experiment, std::string name) {
  JobSpecRow row;
  row.id = JobId{id};
  row.experiment = ExperimentId{experiment};
  row.name = std::move(name);
  row.spec_json = R"({"model":"resnet20"})";
  row.spec_sha256 = digest_of(row.name);
  row.model = "resnet20";
  row.dataset = "cifar10";
  row.method = "dorefa";
  row.seed = 20;
  row.epochs = 160;
  return row;
}

inline JobStateRow make_state(std::int64_t id, JobState state = JobState::kReady) {
  JobStateRow row;
  row.id = JobId{id};
  row.state = state;
  return row;
}

inline ResultRow make_result(double test_accuracy) {
  ResultRow row;
  row.test_accuracy = test_accuracy;
  row.artifact = digest_of("network");
  return row;
}

inline AttemptRow make_attempt(std::int64_t job, std::uint32_t attempt, AttemptState state) {
  AttemptRow row;
  row.job = JobId{job};
  row.attempt = attempt;
  row.state = state;
  row.worker_id = "w-1";
  row.worker_name = "lab-1";
  row.device = "cpu";
  return row;
}

// The rows of a query as `sqlite3 -list` prints them: columns joined by |, NULL as nothing. An
// error is the one row.
inline std::vector<std::string> select(const std::filesystem::path& state_directory,
                                       const std::string& sql) {
  sqlite3* handle = nullptr;
  const std::filesystem::path file = state_directory / kDatabaseFile;
  sqlite3_open_v2(file.c_str(), &handle, SQLITE_OPEN_READONLY, nullptr);
  std::vector<std::string> lines;
  const auto add = [](void* context, int count, char** values, char**) {
    std::string line;
    for (int i = 0; i < count; ++i) {
      if (i > 0) line += '|';
      if (values[i] != nullptr) line += values[i];
    }
    static_cast<std::vector<std::string>*>(context)->push_back(line);
    return 0;
  };
  if (sqlite3_exec(handle, sql.c_str(), add, &lines, nullptr) != SQLITE_OK)
    lines = {sqlite3_errmsg(handle)};
  sqlite3_close(handle);
  return lines;
}

// Changes the file behind the program's back.
inline void tamper(const std::filesystem::path& state_directory, const std::string& sql) {
  sqlite3* handle = nullptr;
  const std::filesystem::path file = state_directory / kDatabaseFile;
  sqlite3_open(file.c_str(), &handle);
  ASSERT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(handle);
  sqlite3_close(handle);
}

}  // namespace bitrung::db
