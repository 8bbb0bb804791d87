#include "db/artifacts.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>

#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ArtifactStoreTest : public ::testing::Test {
 protected:
  // Uploads in one piece.
  absl::Status upload(std::string_view bytes, const Digest& announced) {
    BITRUNG_ASSIGN_OR_RETURN(auto upload, store_.begin(announced, bytes.size(), 0));
    BITRUNG_RETURN_IF_ERROR(upload->append(bytes));
    return upload->commit();
  }

  std::string content(const Digest& digest) {
    std::ifstream file(store_.path(digest), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path write(std::string_view name, std::string_view bytes) {
    const std::filesystem::path path = outside_.path() / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // Sets the time of the last use, in seconds.
  void use_at(const Digest& digest, std::int64_t seconds) {
    const std::array<struct timespec, 2> times = {timespec{seconds, 0}, timespec{0, UTIME_OMIT}};
    ASSERT_EQ(::utimensat(AT_FDCWD, store_.path(digest).c_str(), times.data(), 0), 0);
  }

  TemporaryDirectory directory_;
  TemporaryDirectory outside_;
  ArtifactStore store_ = value_of(ArtifactStore::open(directory_.path() / "artifacts"));
};

TEST_F(ArtifactStoreTest, Upload_InPieces_BecomesVisibleWithCommitOnly) {
  const std::string bytes = "the weights of a network";
  const Digest digest = sha256(bytes);
  auto upload = value_of(store_.begin(digest, bytes.size(), 0));
  ASSERT_OK(upload->append("the weights "));
  EXPECT_EQ(store_.partial_size(digest), 12U);
  ASSERT_OK(upload->append("of a network"));
  EXPECT_FALSE(store_.contains(digest));
  EXPECT_EQ(store_.size(digest).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_.open_for_read(digest).status().code(), absl::StatusCode::kNotFound);

  ASSERT_OK(upload->commit());
  EXPECT_TRUE(store_.contains(digest));
  EXPECT_EQ(value_of(store_.size(digest)), bytes.size());
  EXPECT_EQ(store_.partial_size(digest), 0U);
  EXPECT_EQ(content(digest), bytes);
  EXPECT_OK(store_.verify(digest));

  struct stat info {};
  ASSERT_EQ(::stat(store_.path(digest).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0444U);
  EXPECT_EQ(upload->commit().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_.begin(digest, bytes.size(), 0).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(ArtifactStoreTest, Upload_OfNothing_IsAnArtifact) {
  ASSERT_OK(upload("", sha256("")));
  EXPECT_EQ(value_of(store_.size(sha256(""))), 0U);
}

TEST_F(ArtifactStoreTest, Upload_CutOff_GoesOnWhereItStopped) {
  const std::string bytes = "0123456789";
  const Digest digest = sha256(bytes);
  {
    auto cut = value_of(store_.begin(digest, bytes.size(), 0));
    ASSERT_OK(cut->append("0123"));
  }
  // Another process continues: the hash is rebuilt from the file.
  ArtifactStore again = value_of(ArtifactStore::open(directory_.path() / "artifacts"));
  ASSERT_EQ(again.partial_size(digest), 4U);
  auto upload = value_of(again.begin(digest, bytes.size(), 4));
  ASSERT_OK(upload->append("456789"));
  ASSERT_OK(upload->commit());
  EXPECT_EQ(content(digest), bytes);
}

TEST_F(ArtifactStoreTest, Upload_FromZero_DiscardsThePartial) {
  const std::string bytes = "0123456789";
  const Digest digest = sha256(bytes);
  ASSERT_OK(value_of(store_.begin(digest, bytes.size(), 0))->append("wrong"));
  EXPECT_EQ(store_.partial_size(digest), 5U);
  ASSERT_OK(upload(bytes, digest));
  EXPECT_EQ(content(digest), bytes);
}

TEST_F(ArtifactStoreTest, Upload_FromAWrongOffset_IsRefusedWithTheRightOne) {
  const Digest digest = sha256("0123456789");
  ASSERT_OK(value_of(store_.begin(digest, 10, 0))->append("0123"));
  for (const std::uint64_t offset : {3U, 5U, 10U}) {
    const absl::Status status = store_.begin(digest, 10, offset).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(message(status)), HasSubstr("4 bytes are present"));
  }
  EXPECT_EQ(store_.partial_size(digest), 4U);
  // More is there than the whole is said to have.
  EXPECT_EQ(store_.begin(digest, 3, 4).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ArtifactStoreTest, Upload_OfOtherBytes_IsDataLossAndGone) {
  const Digest digest = sha256("right");
  const absl::Status status = upload("wrong", digest);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr(digest.hex()), HasSubstr(sha256("wrong").hex())));
  EXPECT_FALSE(store_.contains(digest));
  EXPECT_EQ(store_.partial_size(digest), 0U);
  EXPECT_OK(upload("right", digest));
}

TEST_F(ArtifactStoreTest, Upload_EndedTooEarly_IsDataLossAndGone) {
  auto upload = value_of(store_.begin(sha256("right"), 5, 0));
  ASSERT_OK(upload->append("righ"));
  const absl::Status status = upload->commit();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)), HasSubstr("4 bytes of 5"));
  EXPECT_EQ(store_.partial_size(sha256("right")), 0U);
}

TEST_F(ArtifactStoreTest, Upload_BeyondItsSize_IsRefusedAndWritesNothing) {
  const Digest digest = sha256("12345");
  auto upload = value_of(store_.begin(digest, 5, 0));
  ASSERT_OK(upload->append("123"));
  EXPECT_EQ(upload->append("456").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_.partial_size(digest), 3U);
  ASSERT_OK(upload->append("45"));
  EXPECT_OK(upload->commit());
}

TEST_F(ArtifactStoreTest, Upload_AboveTheLimit_IsRefused) {
  EXPECT_EQ(store_.begin(sha256("x"), kArtifactBytesMax + 1, 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_OK(store_.begin(sha256("x"), kArtifactBytesMax, 0));
}

TEST_F(ArtifactStoreTest, Upload_ByASecondWriter_IsAbortedUntilTheFirstEnds) {
  const Digest digest = sha256("abc");
  auto first = value_of(store_.begin(digest, 3, 0));
  ASSERT_OK(first->append("a"));
  EXPECT_EQ(store_.begin(digest, 3, 0).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(store_.begin(digest, 3, 1).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(store_.partial_size(digest), 1U);
  EXPECT_OK(store_.begin(sha256("other"), 5, 0));
  first.reset();
  EXPECT_OK(store_.begin(digest, 3, 1));
}

TEST_F(ArtifactStoreTest, PutFile_CopiesAndNames) {
  const std::string bytes(3'000'000, 'w');
  const auto stored = value_of(store_.put_file(write("weights", bytes)));
  EXPECT_EQ(stored.sha256, sha256(bytes));
  EXPECT_EQ(stored.size_bytes, bytes.size());
  EXPECT_EQ(content(stored.sha256), bytes);
  // The same again changes nothing and leaves nothing behind.
  EXPECT_EQ(value_of(store_.put_file(write("copy", bytes))).sha256, stored.sha256);
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path() / "artifacts" / "partial"));
}

TEST_F(ArtifactStoreTest, PutFile_OfWhatIsNoFile_IsRefused) {
  EXPECT_EQ(store_.put_file(outside_.path() / "absent").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(store_.put_file(outside_.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ArtifactStoreTest, Open_RemovesOldCopiesButNoUploads) {
  const std::filesystem::path partial = directory_.path() / "artifacts" / "partial";
  const Digest digest = sha256("abc");
  ASSERT_OK(value_of(store_.begin(digest, 3, 0))->append("ab"));
  std::ofstream(partial / "copy.old") << "x";
  std::ofstream(partial / "copy.new") << "x";
  std::filesystem::last_write_time(
      partial / "copy.old", std::filesystem::file_time_type::clock::now() - std::chrono::hours(2));
  ASSERT_OK(ArtifactStore::open(directory_.path() / "artifacts"));
  EXPECT_FALSE(std::filesystem::exists(partial / "copy.old"));
  EXPECT_TRUE(std::filesystem::exists(partial / "copy.new"));
  EXPECT_EQ(store_.partial_size(digest), 2U);
}

TEST_F(ArtifactStoreTest, Verify_OfAFlippedByte_IsDataLossAndMovesItAside) {
  std::string bytes = "0123456789";
  const Digest digest = sha256(bytes);
  ASSERT_OK(upload(bytes, digest));
  bytes[7] ^= 1;
  std::filesystem::permissions(store_.path(digest), std::filesystem::perms::owner_all);
  std::ofstream(store_.path(digest), std::ios::binary) << bytes;

  EXPECT_EQ(store_.verify(digest).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(store_.contains(digest));
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "artifacts" / "damaged" / digest.hex()));
  EXPECT_EQ(store_.verify(digest).code(), absl::StatusCode::kNotFound);
  EXPECT_OK(upload("0123456789", digest));
  EXPECT_OK(store_.verify(digest));
}

TEST_F(ArtifactStoreTest, ShrinkTo_RemovesTheLeastRecentlyUsedButWhatIsKept) {
  std::vector<Digest> digests;
  for (const char c : {'a', 'b', 'c', 'd'}) {
    const std::string bytes(100, c);
    digests.push_back(sha256(bytes));
    ASSERT_OK(upload(bytes, digests.back()));
    use_at(digests.back(), 1'000'000 + c);
  }
  EXPECT_EQ(value_of(store_.shrink_to(400, nullptr, nullptr)), 0U);

  // `a` was written first, but is used now; `b` is spared.
  store_.touch(digests[0]);
  std::set<Digest> spared = {digests[1]};
  const auto keep = [](const Digest& digest, void* context) {
    return static_cast<std::set<Digest>*>(context)->contains(digest);
  };
  const FileDescriptor open = value_of(store_.open_for_read(digests[2]));
  use_at(digests[2], 1'000'000);
  EXPECT_EQ(value_of(store_.shrink_to(250, keep, &spared)), 200U);
  EXPECT_TRUE(store_.contains(digests[0]));
  EXPECT_TRUE(store_.contains(digests[1]));
  EXPECT_FALSE(store_.contains(digests[2]));
  EXPECT_FALSE(store_.contains(digests[3]));
  char byte = 0;
  EXPECT_EQ(::pread(open.get(), &byte, 1, 99), 1);
  EXPECT_EQ(byte, 'c');

  EXPECT_EQ(value_of(store_.shrink_to(0, nullptr, nullptr)), 200U);
}

TEST_F(ArtifactStoreTest, Touch_OfWhatIsAbsent_DoesNothing) {
  store_.touch(sha256("absent"));
}

// In a process of its own, because the limit cannot be taken back.
TEST_F(ArtifactStoreTest, FullDisk_IsResourceExhaustedAndLeavesNothingVisible) {
  const std::string bytes(100'000, 'x');
  const std::filesystem::path file = write("large", bytes);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{50'000, 50'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(1);
    if (store_.put_file(file).status().code() != absl::StatusCode::kResourceExhausted) ::_exit(2);
    auto upload = value_of(store_.begin(sha256(bytes), bytes.size(), 0));
    if (upload->append(bytes).code() != absl::StatusCode::kResourceExhausted) ::_exit(3);
    if (upload->append("x").code() != absl::StatusCode::kResourceExhausted) ::_exit(4);
    if (upload->commit().code() != absl::StatusCode::kResourceExhausted) ::_exit(5);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_FALSE(store_.contains(sha256(bytes)));
  // What was written counts: the upload goes on when there is room again.
  const std::uint64_t present = store_.partial_size(sha256(bytes));
  EXPECT_EQ(present, 50'000U);
  auto upload = value_of(store_.begin(sha256(bytes), bytes.size(), present));
  ASSERT_OK(upload->append(std::string_view(bytes).substr(present)));
  EXPECT_OK(upload->commit());
}

TEST_F(ArtifactStoreTest, Open_WhereAFileLies_SaysSo) {
  const std::filesystem::path file = write("file", "x");
  const absl::Status status = ArtifactStore::open(file).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(message(status)), HasSubstr(file.string()));
}

}  // namespace
}  // namespace bitrung::db
