// Where things lie in a state directory, and which socket belongs to it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung::cli {

// The directory behind `run`: database, artifacts, worker and logs.
struct StateDirectory {
  std::filesystem::path path;  // Absolute, symbolic links resolved as far as they exist.

  explicit StateDirectory(const std::filesystem::path& directory);

  std::filesystem::path database() const { return path / "bitrung.db"; }
  std::filesystem::path worker_directory() const { return path / "worker"; }
  std::filesystem::path server_log() const { return path / "logs" / "server.log"; }
  std::filesystem::path worker_log() const { return path / "logs" / "worker.log"; }
  std::filesystem::path pending_directory() const { return path / "pending"; }

  // server.sock in the directory, or a short path outside it where the kernel's limit of 107 bytes
  // would be exceeded.
  std::filesystem::path socket() const;

  // True if somebody listens on the socket now.
  bool socket_answers() const;

  // Creates the directory with its logs folder (0700), and the socket's directory where that lies
  // outside. Refuses a socket directory that belongs to somebody else or that others may enter.
  absl::Status create() const;
};

}  // namespace bitrung::cli
