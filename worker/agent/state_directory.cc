#include "worker/agent/state_directory.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "db/base/digest.h"
#include "db/base/status.h"

namespace bitrung::agent {
namespace {

constexpr std::size_t kWorkerIdDigits = 32;
constexpr std::size_t kSmallFileMax = 256;

std::string without_line_end(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

absl::StatusOr<StateDirectory> StateDirectory::open(const std::filesystem::path& path) {
  // Absolute, because the trainers and we may not always agree on the working directory.
  const std::filesystem::path directory = std::filesystem::absolute(path);
  BITRUNG_RETURN_IF_ERROR(make_directories(directory, 0700));
  const std::filesystem::path lock_path = directory / "lock";
  FileDescriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return errno_status("open", lock_path, errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_status("lock", lock_path, errno);
    return absl::FailedPreconditionError(
        fmt::format("another bitrung-worker uses the state directory {}; give this one a "
                    "--state-dir of its own",
                    directory.string()));
  }
  StateDirectory state(directory, std::move(lock));

  absl::StatusOr<std::string> id = read_file(directory / "worker_id", kSmallFileMax);
  if (absl::IsNotFound(id.status())) {
    state.worker_id_ = random_hex(kWorkerIdDigits / 2);
    BITRUNG_RETURN_IF_ERROR(
        write_file_durably(directory / "worker_id", state.worker_id_ + "\n", 0600));
  } else {
    BITRUNG_RETURN_IF_ERROR(id.status());
    state.worker_id_ = without_line_end(*std::move(id));
    const bool valid = state.worker_id_.size() == kWorkerIdDigits &&
                       std::ranges::all_of(state.worker_id_, [](char c) {
                         return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                       });
    if (!valid) {
      return absl::DataLossError(
          fmt::format("{} does not hold {} hexadecimal digits; remove it for a new identity",
                      (directory / "worker_id").string(), kWorkerIdDigits));
    }
  }

  absl::StatusOr<std::string> term = read_file(directory / "term", kSmallFileMax);
  if (!absl::IsNotFound(term.status())) {
    BITRUNG_RETURN_IF_ERROR(term.status());
    const std::string text = without_line_end(*std::move(term));
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), state.term_);
    if (error != std::errc{} || end != text.data() + text.size()) {
      return absl::DataLossError(
          fmt::format("{} does not hold a number; remove it to accept any server again",
                      (directory / "term").string()));
    }
  }
  return state;
}

absl::Status StateDirectory::persist_term(std::int64_t term) const {
  return write_file_durably(path_ / "term", fmt::format("{}\n", term), 0600);
}

}  // namespace bitrung::agent
