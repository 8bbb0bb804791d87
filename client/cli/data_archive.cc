#include "client/cli/data_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <set>

#include "client/cli/exit_code.h"
#include "client/cli/text.h"
#include "db/base/check.h"
#include "db/base/digest.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = 256 * 1024;
// 10,000 records of a label and 3 x 32 x 32 pixels; CIFAR-100 has two labels.
constexpr std::uint64_t kCifar10FileBytes = 10'000 * 3'073;
constexpr std::uint64_t kCifar100RecordBytes = 3'074;

struct CloseArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

// Removes what is left of an extraction unless it was handed over.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(fs::path path) : path_(std::move(path)) {}
  ~TemporaryDirectory() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string words_of(archive* reader) {
  const char* text = archive_error_string(reader);
  return text == nullptr ? "unreadable" : printable(text);
}

absl::Status write_entry(archive* reader, const ArchiveFile& expected, const fs::path& target) {
  const FileDescriptor fd(
      ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return local_error(errno_status("create", target, errno));
  std::string block(kBlockBytes, '\0');
  std::uint64_t written = 0;
  while (true) {
    const la_ssize_t got = archive_read_data(reader, block.data(), block.size());
    if (got < 0) {
      return absl::DataLossError(
          fmt::format("archive is damaged at {}: {}", expected.name, words_of(reader)));
    }
    if (got == 0) break;
    written += static_cast<std::uint64_t>(got);
    if (written > expected.size_bytes) break;
    const absl::Status status = write_all(
        fd.get(), std::string_view(block).substr(0, static_cast<std::size_t>(got)), target);
    if (!status.ok()) return local_error(status);
  }
  if (written != expected.size_bytes) {
    return absl::DataLossError(
        fmt::format("{} in the archive has {} {} bytes, expected {}", expected.name,
                    written > expected.size_bytes ? "more than" : "only",
                    std::min(written, expected.size_bytes), expected.size_bytes));
  }
  if (::fsync(fd.get()) != 0) return local_error(errno_status("sync", target, errno));
  return absl::OkStatus();
}

absl::Status extract_files(const DatasetArchive& description, const fs::path& file,
                           const fs::path& directory) {
  const std::unique_ptr<archive, CloseArchive> reader(archive_read_new());
  BITRUNG_CHECK(reader != nullptr);
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_filename(reader.get(), file.c_str(), kBlockBytes) != ARCHIVE_OK) {
    return absl::DataLossError(
        fmt::format("{} is no tar.gz archive: {}", file.string(), words_of(reader.get())));
  }
  std::set<std::string> found;
  archive_entry* entry = nullptr;
  int result = ARCHIVE_OK;
  while ((result = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK ||
         result == ARCHIVE_WARN) {
    const char* name = archive_entry_pathname(entry);
    if (name == nullptr || archive_entry_filetype(entry) != AE_IFREG) continue;
    // Names are compared, never used as paths: an entry cannot point out of the directory.
    const auto expected =
        std::ranges::find_if(description.files, [&](const ArchiveFile& candidate) {
          const std::string inside = description.folder + "/" + candidate.name;
          return name == inside || name == "./" + inside;
        });
    if (expected == description.files.end() || !found.insert(expected->name).second) continue;
    BITRUNG_RETURN_IF_ERROR(write_entry(reader.get(), *expected, directory / expected->name));
  }
  if (result != ARCHIVE_EOF) {
    return absl::DataLossError(
        fmt::format("{} is damaged: {}", file.string(), words_of(reader.get())));
  }
  for (const ArchiveFile& expected : description.files) {
    if (!found.contains(expected.name)) {
      return absl::DataLossError(
          fmt::format("{} does not hold {}/{}", file.string(), description.folder, expected.name));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DatasetArchive> archive_of(std::string_view dataset) {
  if (dataset == "cifar10") {
    return DatasetArchive{.dataset = "cifar10",
                          .url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                          .file_name = "cifar-10-binary.tar.gz",
                          .folder = "cifar-10-batches-bin",
                          .md5 = "c32a1d4ab5d03f1284b67883e8d87530",
                          .files = {{"data_batch_1.bin", kCifar10FileBytes},
                                    {"data_batch_2.bin", kCifar10FileBytes},
                                    {"data_batch_3.bin", kCifar10FileBytes},
                                    {"data_batch_4.bin", kCifar10FileBytes},
                                    {"data_batch_5.bin", kCifar10FileBytes},
                                    {"test_batch.bin", kCifar10FileBytes}}};
  }
  if (dataset == "cifar100") {
    return DatasetArchive{.dataset = "cifar100",
                          .url = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                          .file_name = "cifar-100-binary.tar.gz",
                          .folder = "cifar-100-binary",
                          .md5 = "03b5dce01913d631647c71ecec9e9cb8",
                          .files = {{"train.bin", 50'000 * kCifar100RecordBytes},
                                    {"test.bin", 10'000 * kCifar100RecordBytes}}};
  }
  return std::nullopt;
}

absl::StatusOr<std::string> file_md5(const fs::path& file) {
  const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return local_error(errno_status("open", file, errno));
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  BITRUNG_CHECK(context != nullptr);
  if (EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) != 1) {
    return absl::InternalError(
        "this system's OpenSSL refuses MD5, which the archive is checked by");
  }
  std::string block(kBlockBytes, '\0');
  while (true) {
    const ssize_t got = ::read(fd.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return local_error(errno_status("read", file, errno));
    if (got == 0) break;
    BITRUNG_CHECK(EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(got)) ==
                  1);
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  BITRUNG_CHECK(EVP_DigestFinal_ex(context.get(), digest.data(), &size) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest.at(i));
  return hex;
}

absl::Status extract_archive(const DatasetArchive& archive, const fs::path& file,
                             const fs::path& data_directory) {
  const std::string prefix = "." + archive.folder + ".tmp-";
  std::error_code error;
  // What a killed extraction left behind.
  for (const fs::directory_entry& entry : fs::directory_iterator(data_directory, error)) {
    if (entry.path().filename().string().starts_with(prefix)) {
      std::error_code ignored;
      fs::remove_all(entry.path(), ignored);
    }
  }
  const TemporaryDirectory fresh(data_directory / (prefix + random_hex(8)));
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(fresh.path(), 0755)));
  BITRUNG_RETURN_IF_ERROR(extract_files(archive, file, fresh.path()));
  BITRUNG_RETURN_IF_ERROR(local_error(sync_directory(fresh.path())));

  const fs::path target = data_directory / archive.folder;
  const TemporaryDirectory old(data_directory / (prefix + random_hex(8)));
  if (fs::exists(fs::symlink_status(target, error))) {  // Incomplete, or it would not be fetched.
    fs::rename(target, old.path(), error);
    if (error) return local_error(errno_status("move aside", target, error.value()));
  }
  fs::rename(fresh.path(), target, error);
  if (error) {
    const int reason = error.value();
    fs::rename(old.path(), target, error);
    return local_error(errno_status("rename to", target, reason));
  }
  return local_error(sync_directory(data_directory));
}

}  // namespace bitrung::cli
