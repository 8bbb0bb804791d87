#include "client/cli/data_fetch.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <thread>

#include "client/cli/exit_code.h"
#include "client/cli/text.h"
#include "db/base/check.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;

// Six times the larger archive: a wrong URL must not fill the disk.
constexpr std::uint64_t kArchiveBytesMax = std::uint64_t{1} << 30;
constexpr long kConnectTimeoutSeconds = 15;
constexpr long kSilenceSecondsMax = 30;
constexpr long kRedirectsMax = 5;

// One HTTP transfer that appends to the file.
struct Transfer {
  const FetchOptions& options;
  const fs::path& path;
  int fd = -1;
  std::uint64_t start = 0;  // Bytes that were here before.
  std::uint64_t done = 0;   // Bytes here now.
  std::optional<std::uint64_t> total;
  bool stopped = false;
  absl::Status disk;
};

std::size_t on_data(char* bytes, std::size_t /*one*/, std::size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.done + count > kArchiveBytesMax) {
    transfer.disk = absl::ResourceExhaustedError(fmt::format(
        "the download has more than {}, which no archive of a data set has; check --url",
        format_bytes(kArchiveBytesMax)));
    return 0;
  }
  transfer.disk = local_error(write_all(transfer.fd, {bytes, count}, transfer.path));
  if (!transfer.disk.ok()) return 0;  // libcurl ends the transfer.
  transfer.done += count;
  return count;
}

int on_transfer_progress(void* user, curl_off_t total, curl_off_t /*now*/, curl_off_t /*up_total*/,
                         curl_off_t /*up_now*/) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (total > 0) transfer.total = transfer.start + static_cast<std::uint64_t>(total);
  if (transfer.options.on_progress &&
      !transfer.options.on_progress(transfer.done, transfer.total)) {
    transfer.stopped = true;
    return 1;
  }
  return 0;
}

struct Outcome {
  CURLcode code = CURLE_OK;
  long http_status = 0;
  std::string words;
};

Outcome transfer_once(const std::string& url, Transfer& transfer) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(),
                                                                 &curl_easy_cleanup);
  BITRUNG_CHECK(curl != nullptr);
  std::array<char, CURL_ERROR_SIZE> words{};
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_MAXREDIRS, kRedirectsMax);
  curl_easy_setopt(curl.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_USERAGENT, "bitrung");
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT, kConnectTimeoutSeconds);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, kSilenceSecondsMax);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, words.data());
  curl_easy_setopt(curl.get(), CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(transfer.start));
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &on_data);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, &on_transfer_progress);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, &transfer);
  Outcome outcome;
  outcome.code = curl_easy_perform(curl.get());
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &outcome.http_status);
  outcome.words = words[0] != '\0' ? printable(words.data()) : curl_easy_strerror(outcome.code);
  return outcome;
}

// Broken connections and busy hosts; anything else will not get better.
bool worth_another_try(const Outcome& outcome) {
  if (outcome.code == CURLE_HTTP_RETURNED_ERROR) {
    return outcome.http_status >= 500 || outcome.http_status == 429;
  }
  return outcome.code == CURLE_PARTIAL_FILE || outcome.code == CURLE_RECV_ERROR ||
         outcome.code == CURLE_SEND_ERROR || outcome.code == CURLE_GOT_NOTHING ||
         outcome.code == CURLE_OPERATION_TIMEDOUT || outcome.code == CURLE_HTTP2 ||
         outcome.code == CURLE_HTTP2_STREAM;
}

absl::StatusOr<std::uint64_t> size_of(int fd, const fs::path& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return local_error(errno_status("stat", path, errno));
  return static_cast<std::uint64_t>(info.st_size);
}

absl::Status start_over(int fd, const fs::path& path) {
  if (::ftruncate(fd, 0) != 0) return local_error(errno_status("truncate", path, errno));
  return absl::OkStatus();
}

// Until the file is complete. `resumed` tells whether some of it came from an earlier call.
absl::Status download(const DatasetArchive& archive, const FetchOptions& options, int fd,
                      const fs::path& path, bool& resumed) {
  int idle_tries = 0;
  while (true) {
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t start, size_of(fd, path));
    if (start > 0 && options.note) {
      options.note(fmt::format("continuing after {}", format_bytes(start)));
    }
    resumed = resumed || start > 0;
    Transfer transfer{.options = options,
                      .path = path,
                      .fd = fd,
                      .start = start,
                      .done = start,
                      .total = {},
                      .stopped = false,
                      .disk = {}};
    const Outcome outcome = transfer_once(archive.url, transfer);
    if (outcome.code == CURLE_OK) return absl::OkStatus();
    if (!transfer.disk.ok()) return transfer.disk;
    if (transfer.stopped) return absl::CancelledError("interrupted");
    if (outcome.code == CURLE_HTTP_RETURNED_ERROR && outcome.http_status == 416 && start > 0) {
      return absl::OkStatus();  // Nothing beyond what is here; the checksum decides.
    }
    if (outcome.code == CURLE_RANGE_ERROR && start > 0) {
      if (options.note) options.note("the host cannot continue a download; starting over");
      BITRUNG_RETURN_IF_ERROR(start_over(fd, path));
      continue;
    }
    if (!worth_another_try(outcome)) {
      const std::string text = fmt::format("cannot fetch {}: {}", archive.url, outcome.words);
      if (outcome.code == CURLE_HTTP_RETURNED_ERROR) {
        return outcome.http_status == 404 || outcome.http_status == 410
                   ? absl::NotFoundError(text + "; name another place with --url")
                   : absl::PermissionDeniedError(text + "; name another place with --url");
      }
      if (outcome.code == CURLE_UNSUPPORTED_PROTOCOL || outcome.code == CURLE_URL_MALFORMAT) {
        return absl::InvalidArgumentError(text + "; http:// or https:// is expected");
      }
      return absl::UnavailableError(text + "; check the network, or name another place with --url");
    }
    idle_tries = transfer.done > start ? 0 : idle_tries + 1;
    if (idle_tries > options.retries) {
      return absl::UnavailableError(fmt::format(
          "cannot fetch {}: {} ({} tries); what has arrived is kept, the same command continues",
          archive.url, outcome.words, idle_tries));
    }
    if (options.note) options.note(fmt::format("{}; trying again", outcome.words));
    std::this_thread::sleep_for(options.retry_pause);
    if (options.on_progress && !options.on_progress(transfer.done, transfer.total)) {
      return absl::CancelledError("interrupted");
    }
  }
}

}  // namespace

absl::Status fetch_dataset(const DatasetArchive& archive, const FetchOptions& options) {
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(options.data_directory, 0755)));
  const fs::path path = options.data_directory / ("." + archive.file_name + ".part");
  const FileDescriptor fd(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return local_error(errno_status("create", path, errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(fmt::format("another command fetches {} into {} right now",
                                                     archive.dataset,
                                                     options.data_directory.string()));
  }
  BITRUNG_CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);

  bool started_over = false;
  while (true) {
    bool resumed = false;
    BITRUNG_RETURN_IF_ERROR(download(archive, options, fd.get(), path, resumed));
    BITRUNG_ASSIGN_OR_RETURN(const std::string md5, file_md5(path));
    if (md5 == archive.md5) break;
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t size, size_of(fd.get(), path));
    BITRUNG_RETURN_IF_ERROR(start_over(fd.get(), path));
    // The parts of a resumed download may belong to two versions of the file.
    if (!resumed || started_over) {
      std::error_code error;
      fs::remove(path, error);
      return absl::DataLossError(
          fmt::format("{} has {} bytes and MD5 {}, expected MD5 {}; it was damaged on the way or "
                      "is another file",
                      archive.url, size, md5, archive.md5));
    }
    started_over = true;
    if (options.note) options.note("the continued download is damaged; starting over");
  }
  BITRUNG_RETURN_IF_ERROR(extract_archive(archive, path, options.data_directory));
  std::error_code error;
  fs::remove(path, error);
  return absl::OkStatus();
}

}  // namespace bitrung::cli
