// Downloads from a loopback server that cuts connections, and archives with more in them than there
// should be.
#include "client/cli/data_fetch.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "client/cli/exit_code.h"
#include "db/base/status.h"
#include "tests/unit/client/cli/http_server.h"
#include "tests/unit/client/cli/temporary.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string path;
  std::string content;
  unsigned type = AE_IFREG;
};

std::string make_archive(const std::vector<Entry>& entries) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "a.tar.gz";
  archive* writer = archive_write_new();
  archive_write_add_filter_gzip(writer);
  archive_write_set_format_ustar(writer);
  archive_write_open_filename(writer, file.c_str());
  for (const Entry& entry : entries) {
    archive_entry* header = archive_entry_new();
    archive_entry_set_pathname(header, entry.path.c_str());
    archive_entry_set_filetype(header, entry.type);
    archive_entry_set_perm(header, 0644);
    if (entry.type == AE_IFLNK) {
      archive_entry_set_symlink(header, entry.content.c_str());
    } else {
      archive_entry_set_size(header, static_cast<la_int64_t>(entry.content.size()));
    }
    archive_write_header(writer, header);
    if (entry.type == AE_IFREG) {
      archive_write_data(writer, entry.content.data(), entry.content.size());
    }
    archive_entry_free(header);
  }
  archive_write_close(writer);
  archive_write_free(writer);
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream bytes;
  bytes << stream.rdbuf();
  return bytes.str();
}

std::string noise(std::size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    seed = seed * 1664525U + 1013904223U;
    byte = static_cast<char>(seed >> 24U);
  }
  return bytes;
}

std::string content_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream bytes;
  bytes << stream.rdbuf();
  return bytes.str();
}

std::string md5_of(const std::string& bytes) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "x", std::ios::binary) << bytes;
  return *file_md5(folder.path() / "x");
}

class DataFetch : public testing::Test {
 protected:
  DataFetch() {
    description_.dataset = "toy";
    description_.url = server_.url();
    description_.file_name = "toy.tar.gz";
    description_.folder = "toy-bin";
    description_.md5 = md5_of(bytes_);
    description_.files = {{"train.bin", train_.size()}, {"test.bin", test_.size()}};
    options_.data_directory = folder_.path() / "data";
    options_.retries = 2;
    options_.retry_pause = std::chrono::milliseconds(1);
    options_.note = [this](std::string_view line) { notes_ += std::string(line) + "\n"; };
  }

  void expect_complete() {
    EXPECT_EQ(content_of(options_.data_directory / "toy-bin" / "train.bin"), train_);
    EXPECT_EQ(content_of(options_.data_directory / "toy-bin" / "test.bin"), test_);
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(options_.data_directory)) {
      names.push_back(entry.path().filename());
    }
    EXPECT_EQ(names, std::vector<std::string>{"toy-bin"});  // No partial file, no temporary folder.
  }

  bool folder_is_there() const { return fs::exists(options_.data_directory / "toy-bin"); }
  fs::path part() const { return options_.data_directory / ".toy.tar.gz.part"; }

  const std::string train_ = noise(300'000, 1);
  const std::string test_ = noise(60'000, 2);
  const std::string bytes_ = make_archive({{"toy-bin/train.bin", train_},
                                           {"toy-bin/readme.html", "not needed"},
                                           {"./toy-bin/test.bin", test_}});
  HttpServer server_{{.content = bytes_}};
  TemporaryFolder folder_;
  DatasetArchive description_;
  FetchOptions options_;
  std::string notes_;
};

TEST_F(DataFetch, DownloadsChecksAndUnpacks) {
  std::uint64_t last = 0;
  std::optional<std::uint64_t> total;
  options_.on_progress = [&](std::uint64_t done, std::optional<std::uint64_t> whole) {
    EXPECT_GE(done, last);
    last = done;
    if (whole) total = whole;
    return true;
  };
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  expect_complete();
  EXPECT_EQ(last, bytes_.size());
  EXPECT_EQ(total, bytes_.size());
  EXPECT_FALSE(fs::exists(options_.data_directory / "toy-bin" / "readme.html"));
}

TEST_F(DataFetch, CutConnection_ContinuesFromThere) {
  server_.set({.content = bytes_, .ranges = true, .cuts = 2, .cut_after = 100'000, .status = 200});
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(server_.starts(), (std::vector<std::size_t>{0, 100'000, 200'000}));
  expect_complete();
}

TEST_F(DataFetch, AlwaysCut_KeepsWhatArrivedForTheNextCall) {
  server_.set({.content = bytes_, .ranges = true, .cuts = 1000, .cut_after = 0, .status = 200});
  std::error_code error;
  fs::create_directories(options_.data_directory, error);
  std::ofstream(part(), std::ios::binary) << bytes_.substr(0, 50'000);
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_EQ(exit_code(status), ExitCode::kUnreachable);
  EXPECT_NE(message(status).find("what has arrived is kept"), std::string_view::npos) << status;
  EXPECT_EQ(fs::file_size(part()), 50'000U);

  server_.set({.content = bytes_});
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  EXPECT_EQ(server_.starts().back(), 50'000U);
  expect_complete();
}

TEST_F(DataFetch, CompletePartialFile_NeedsOnlyTheCheck) {
  fs::create_directories(options_.data_directory);
  std::ofstream(part(), std::ios::binary) << bytes_;
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  expect_complete();
}

TEST_F(DataFetch, HostWithoutRanges_StartsOver) {
  fs::create_directories(options_.data_directory);
  std::ofstream(part(), std::ios::binary) << bytes_.substr(0, 1000);
  server_.set({.content = bytes_, .ranges = false, .cuts = 0, .cut_after = 0, .status = 200});
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_NE(notes_.find("cannot continue a download"), std::string::npos) << notes_;
  expect_complete();
}

TEST_F(DataFetch, DamagedPartialFile_StartsOverOnce) {
  fs::create_directories(options_.data_directory);
  std::ofstream(part(), std::ios::binary) << noise(1000, 9);
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  EXPECT_EQ(server_.starts(), (std::vector<std::size_t>{1000, 0}));
  expect_complete();
}

TEST_F(DataFetch, WrongChecksum_IsRefusedAndRemoved) {
  description_.md5 = std::string(32, '0');
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_EQ(exit_code(status), ExitCode::kFailed);
  EXPECT_NE(message(status).find("expected MD5 00000000000000000000000000000000"),
            std::string_view::npos)
      << status;
  EXPECT_FALSE(folder_is_there());
  EXPECT_FALSE(fs::exists(part()));
}

TEST_F(DataFetch, MissingFile_IsNotFound) {
  server_.set({.content = {}, .ranges = true, .cuts = 0, .cut_after = 0, .status = 404});
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_EQ(exit_code(status), ExitCode::kNotFound) << status;
  EXPECT_EQ(server_.starts().size(), 1U);
}

TEST_F(DataFetch, BusyHost_IsTriedAgain) {
  server_.set({.content = {}, .ranges = true, .cuts = 0, .cut_after = 0, .status = 503});
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_EQ(exit_code(status), ExitCode::kUnreachable) << status;
  EXPECT_EQ(server_.starts().size(), 3U);
}

TEST_F(DataFetch, NobodyListens_IsUnreachable) {
  description_.url = "http://127.0.0.1:1/x";
  EXPECT_EQ(exit_code(fetch_dataset(description_, options_)), ExitCode::kUnreachable);
  description_.url = "file:///etc/passwd";
  EXPECT_EQ(exit_code(fetch_dataset(description_, options_)), ExitCode::kUsage);
}

TEST_F(DataFetch, Interrupted_KeepsWhatArrived) {
  options_.on_progress = [](std::uint64_t done, std::optional<std::uint64_t>) { return done == 0; };
  EXPECT_EQ(exit_code(fetch_dataset(description_, options_)), ExitCode::kInterrupted);
  EXPECT_FALSE(folder_is_there());
  options_.on_progress = {};
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  expect_complete();
}

TEST_F(DataFetch, UnwritableDirectory_NamesIt) {
  std::ofstream(folder_.path() / "file") << "x";
  options_.data_directory = folder_.path() / "file" / "data";
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_EQ(exit_code(status), ExitCode::kFailed) << status;
  EXPECT_NE(message(status).find(options_.data_directory.parent_path().string()),
            std::string_view::npos)
      << status;
  if (fs::exists("/dev/full")) {  // A full disk, as far as one can be had in a test.
    fs::create_directories(folder_.path() / "full");
    options_.data_directory = folder_.path() / "full";
    fs::create_symlink("/dev/full", part());
    EXPECT_EQ(exit_code(fetch_dataset(description_, options_)), ExitCode::kFailed);
  }
}

TEST_F(DataFetch, IncompleteFolder_IsReplaced) {
  fs::create_directories(options_.data_directory / "toy-bin");
  std::ofstream(options_.data_directory / "toy-bin" / "train.bin") << "truncated";
  fs::create_directories(options_.data_directory / ".toy-bin.tmp-0123");
  EXPECT_TRUE(fetch_dataset(description_, options_).ok());
  expect_complete();
}

TEST_F(DataFetch, HostileArchive_WritesNothingOutside) {
  const std::string bytes = make_archive({{"../escaped.bin", "x"},
                                          {"/tmp/bitrung-escaped.bin", "x"},
                                          {"toy-bin/train.bin", "/etc/passwd", AE_IFLNK},
                                          {"toy-bin/../../train.bin", "x"},
                                          {"toy-bin/train.bin", train_},
                                          {"toy-bin/train.bin", "a second one"},
                                          {"toy-bin/test.bin", test_}});
  server_.set({.content = bytes});
  description_.md5 = md5_of(bytes);
  const absl::Status status = fetch_dataset(description_, options_);
  EXPECT_TRUE(status.ok()) << status;
  expect_complete();
  EXPECT_FALSE(fs::exists(folder_.path() / "escaped.bin"));
  EXPECT_FALSE(fs::exists("/tmp/bitrung-escaped.bin"));
}

TEST_F(DataFetch, ArchiveWithWrongContent_LeavesNoFolder) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {make_archive({{"toy-bin/train.bin", train_}}), "does not hold toy-bin/test.bin"},
      {make_archive({{"toy-bin/train.bin", train_ + "x"}, {"toy-bin/test.bin", test_}}),
       "has more than 300000 bytes, expected 300000"},
      {make_archive({{"toy-bin/train.bin", "x"}, {"toy-bin/test.bin", test_}}),
       "has only 1 bytes, expected 300000"},
      {"this is no archive", "is no tar.gz archive"},
      {bytes_.substr(0, bytes_.size() / 2), "damaged"},
  };
  for (const auto& [bytes, words] : cases) {
    server_.set({.content = bytes});
    description_.md5 = md5_of(bytes);
    const absl::Status status = fetch_dataset(description_, options_);
    EXPECT_EQ(exit_code(status), ExitCode::kFailed);
    EXPECT_NE(message(status).find(words), std::string_view::npos) << status << " lacks " << words;
    EXPECT_FALSE(folder_is_there());
    fs::remove(part());
  }
}

TEST(DataArchive, OfficialArchives) {
  const auto ten = archive_of("cifar10");
  ASSERT_TRUE(ten.has_value());
  EXPECT_EQ(ten->url, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz");
  EXPECT_EQ(ten->md5, "c32a1d4ab5d03f1284b67883e8d87530");
  EXPECT_EQ(ten->files.size(), 6U);
  EXPECT_EQ(archive_of("cifar100")->folder, "cifar-100-binary");
  EXPECT_FALSE(archive_of("synthetic").has_value());
}

}  // namespace
}  // namespace bitrung::cli
