// The worker's own directory: one process at a time, its identity, the highest term it has seen.
//
//   lock        held as long as the process lives
//   worker_id   16 random bytes in hex, made once
//   term        highest term of a server this worker has spoken with
//
// Thread-safe after open(): persist_term may run on any one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"

namespace bitrung::agent {

class StateDirectory {
 public:
  // FAILED_PRECONDITION when another process has it.
  static absl::StatusOr<StateDirectory> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::string& worker_id() const { return worker_id_; }
  // As it was when the directory was opened.
  std::int64_t term() const { return term_; }
  // Durable on return.
  absl::Status persist_term(std::int64_t term) const;

 private:
  StateDirectory(std::filesystem::path path, FileDescriptor lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  FileDescriptor lock_;
  std::string worker_id_;
  std::int64_t term_ = 0;
};

}  // namespace bitrung::agent
