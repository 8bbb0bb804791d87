#include "worker/agent/transfers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "db/base/check.h"
#include "db/base/files.h"
#include "fake_server.h"
#include "temporary_directory.h"
#include "worker/agent/session.h"

namespace bitrung::agent {
namespace {

using testing::HasSubstr;

db::ArtifactStore open_cache(const std::filesystem::path& path) {
  absl::StatusOr<db::ArtifactStore> cache = db::ArtifactStore::open(path);
  BITRUNG_CHECK(cache.ok());
  return *std::move(cache);
}

class TransfersTest : public testing::Test {
 protected:
  // As an interrupted download left it.
  void leave_partial(const std::string& bytes, std::size_t size) {
    auto upload = cache_.begin(sha256(bytes), bytes.size(), 0);
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE((*upload)->append(std::string_view(bytes).substr(0, size)).ok());
  }
  std::string cached(const std::string& bytes) {
    return read_file(cache_.path(sha256(bytes)), std::size_t{64} << 20).value_or("not there");
  }
  Digest put_in_cache(const std::string& bytes) {
    std::ofstream(directory_.path() / "file") << bytes;
    return cache_.put_file(directory_.path() / "file").value().sha256;
  }

  TemporaryDirectory directory_;
  FakeServer server_{directory_.path() / "server.sock"};
  db::ArtifactStore cache_ = open_cache(directory_.path() / "cache");
  Transfers transfers_{
      make_channel({"unix:" + (directory_.path() / "server.sock").string()},
                   grpc::InsecureChannelCredentials(), false),
      cache_};
  // More than a chunk, and not a multiple of one.
  const std::string large_ = std::string((std::size_t{2} << 20) + 12345, 'x') + "end";
};

TEST_F(TransfersTest, Fetch_MakesTheArtifactPresent) {
  server_.put_artifact(large_);
  EXPECT_FALSE(transfers_.fetch(sha256(large_)).has_value());
  EXPECT_EQ(cached(large_), large_);
}

TEST_F(TransfersTest, InterruptedFetch_ContinuesWhereItStopped) {
  server_.put_artifact(large_);
  leave_partial(large_, 1000);
  EXPECT_FALSE(transfers_.fetch(sha256(large_)).has_value());
  EXPECT_EQ(cached(large_), large_);
  EXPECT_EQ(server_.last_download_offset(), 1000U);
}

TEST_F(TransfersTest, EmptyArtifact_IsFetchedAndUploaded) {
  server_.put_artifact("");
  EXPECT_FALSE(transfers_.fetch(sha256("")).has_value());
  EXPECT_EQ(cached(""), "");
  EXPECT_FALSE(transfers_.upload(put_in_cache("")).has_value());
}

TEST_F(TransfersTest, MissingArtifact_IsTold) {
  const auto problem = transfers_.fetch(sha256("nobody has this"));
  ASSERT_TRUE(problem.has_value());
  EXPECT_EQ(problem->kind, FetchProblem::kMissing);
}

TEST_F(TransfersTest, DamageOnTheWay_IsNeverVisible) {
  server_.put_artifact_as(sha256("right").hex(), "wrong");
  const auto problem = transfers_.fetch(sha256("right"));
  ASSERT_TRUE(problem.has_value());
  EXPECT_EQ(problem->kind, FetchProblem::kTransient);
  EXPECT_EQ(cached("right"), "not there");
  server_.put_artifact("right");
  EXPECT_FALSE(transfers_.fetch(sha256("right")).has_value());
}

TEST_F(TransfersTest, DamageInTheCache_IsFetchedAgain) {
  server_.put_artifact("right");
  const Digest digest = put_in_cache("right");
  std::filesystem::permissions(cache_.path(digest), std::filesystem::perms::owner_all);
  std::ofstream(cache_.path(digest)) << "wrong";
  EXPECT_FALSE(transfers_.fetch(digest).has_value());
  EXPECT_EQ(cached("right"), "right");
}

TEST_F(TransfersTest, SeveralFetchesOfOneArtifact_AllSucceed) {
  server_.put_artifact(large_);
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { failures += transfers_.fetch(sha256(large_)).has_value() ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(cached(large_), large_);
}

TEST_F(TransfersTest, Upload_ContinuesAnUnfinishedOne) {
  const Digest digest = put_in_cache(large_);
  server_.put_partial(digest.hex(), large_.substr(0, 5000));
  EXPECT_FALSE(transfers_.upload(digest).has_value());
  EXPECT_EQ(server_.artifact(digest.hex()), large_);
  EXPECT_EQ(server_.last_upload_offset(), 5000U);
  EXPECT_FALSE(transfers_.upload(digest).has_value());
  EXPECT_EQ(server_.uploads(), 1U);
}

TEST_F(TransfersTest, UploadOfNothing_IsPermanent) {
  const auto problem = transfers_.upload(sha256("not in the cache"));
  ASSERT_TRUE(problem.has_value());
  EXPECT_TRUE(problem->permanent);
}

TEST_F(TransfersTest, AbsentServer_IsTransient) {
  const Digest digest = put_in_cache("model");
  server_.stop();
  const auto upload = transfers_.upload(digest);
  ASSERT_TRUE(upload.has_value());
  EXPECT_FALSE(upload->permanent);
  const auto fetch = transfers_.fetch(sha256("teacher"));
  ASSERT_TRUE(fetch.has_value());
  EXPECT_EQ(fetch->kind, FetchProblem::kTransient);
}

TEST_F(TransfersTest, Cancelled_RefusesAtOnce) {
  server_.put_artifact("right");
  transfers_.cancel();
  EXPECT_TRUE(transfers_.fetch(sha256("right")).has_value());
}

TEST(ServerAddress, TwoForms_AreUnderstood) {
  EXPECT_EQ(parse_server_address("unix:/run/b.sock").value().target, "unix:/run/b.sock");
  EXPECT_EQ(parse_server_address("host:7600").value().target, "host:7600");
  EXPECT_EQ(parse_server_address("[::1]:7600").value().target, "[::1]:7600");
  for (const char* text :
       {"", "host", "host:", ":7600", "host:0", "host:65536", "host:76x", "unix:"}) {
    EXPECT_FALSE(parse_server_address(text).ok()) << text;
  }
}

}  // namespace
}  // namespace bitrung::agent
