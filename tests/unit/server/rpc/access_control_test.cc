// Tokens, enrolments and limits by clocks of the test's own.
#include "server/auth/access_control.h"

#include <sys/stat.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "db/base/files.h"
#include "db/base/secret.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::auth {
namespace {

using db::value_of;
using std::chrono::hours;
using std::chrono::seconds;

class AccessControlTest : public testing::Test {
 protected:
  void reopen() {
    access_.reset();
    access_ = value_of(AccessControl::open(directory_.path(), clocks_, nullptr));
  }

  db::TemporaryDirectory directory_;
  std::int64_t now_ms_ = 1'800'000'000'000;
  const Clocks clocks_{.wall_ms = [this] { return now_ms_; }, .steady = [] { return Time{}; }};
  const NewToken admin_ =
      value_of(make_authority(directory_.path(), "lab:7420", {"lab", "10.0.0.5", "::1"}, clocks_));
  std::unique_ptr<AccessControl> access_ =
      value_of(AccessControl::open(directory_.path(), clocks_, nullptr));
};

TEST_F(AccessControlTest, Tokens_SurviveARestart_AndAreStoredAsDigests) {
  const NewToken anna = value_of(access_->create_token("anna", "submitter", hours(2), "admin"));
  const NewToken gone = value_of(access_->create_token("gone", "viewer", hours(2), "admin"));
  ASSERT_OK(access_->revoke_token(gone.row.id));
  reopen();
  EXPECT_EQ(value_of(access_->find_token(anna.text))->role, Role::kSubmitter);
  EXPECT_EQ(value_of(access_->find_token(admin_.text))->role, Role::kAdmin);
  EXPECT_TRUE(absl::IsUnauthenticated(access_->find_token(gone.text).status()));
  EXPECT_EQ(access_->tokens().size(), 3u);

  now_ms_ += hours(2) / std::chrono::milliseconds(1);
  EXPECT_TRUE(absl::IsUnauthenticated(access_->find_token(anna.text).status()));
  access_.reset();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
    if (!entry.is_regular_file()) continue;
    const std::string bytes = value_of(read_file(entry.path(), std::size_t{1} << 30));
    for (const std::string& text : {anna.text, admin_.text, gone.text}) {
      EXPECT_EQ(bytes.find(text.substr(text.size() - 64)), std::string::npos)
          << entry.path() << " holds a token";
    }
  }
}

TEST_F(AccessControlTest, Secrets_AreReadableByTheirOwnerOnly) {
  for (const char* file : {"access.db", "authority.key", "server.key"}) {
    struct stat info {};
    ASSERT_EQ(::stat((directory_.path() / "auth" / file).c_str(), &info), 0) << file;
    EXPECT_EQ(info.st_mode & 07777, 0600u) << file;
  }
  struct stat info {};
  ASSERT_EQ(::stat((directory_.path() / "auth").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  std::filesystem::permissions(directory_.path() / "auth" / "authority.key",
                               std::filesystem::perms::group_read,
                               std::filesystem::perm_options::add);
  EXPECT_TRUE(
      absl::IsPermissionDenied(AccessControl::open(directory_.path(), clocks_, nullptr).status()));
}

TEST_F(AccessControlTest, Limits_OfLifetimeNameAndRole) {
  const auto create = [&](const std::string& name, const std::string& role, seconds lifetime) {
    return access_->create_token(name, role, lifetime, "admin").status();
  };
  EXPECT_OK(create("a", "viewer", hours(1)));
  EXPECT_OK(create(std::string(128, 'a'), "viewer", std::chrono::days(366)));
  for (const seconds lifetime : {seconds(3599), seconds(std::chrono::days(366)) + seconds(1)})
    EXPECT_TRUE(absl::IsInvalidArgument(create("a", "viewer", lifetime))) << lifetime.count();
  for (const std::string& name : {std::string(), std::string(129, 'a'), std::string("a b"),
                                  std::string("owner"), std::string("../a")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(create(name, "viewer", hours(1)))) << name;
  }
  for (const char* role : {"worker", "root", ""})
    EXPECT_TRUE(absl::IsInvalidArgument(create("a", role, hours(1)))) << role;
}

TEST_F(AccessControlTest, AnEnrolment_EndsAfterTenMinutes) {
  const std::string key = value_of(make_private_key());
  const std::string request = value_of(make_certificate_request(key));
  const NewEnrolment early = value_of(access_->create_enrolment("gpu1", "admin"));
  now_ms_ += 599'999;
  reopen();
  EXPECT_OK(access_->enrol(early.text, std::string(32, 'a'), request));
  const NewEnrolment late = value_of(access_->create_enrolment("gpu2", "admin"));
  now_ms_ += 600'000;
  EXPECT_TRUE(
      absl::IsUnauthenticated(access_->enrol(late.text, std::string(32, 'b'), request).status()));
}

TEST_F(AccessControlTest, AnAuthority_IsMadeOnce) {
  EXPECT_TRUE(absl::IsAlreadyExists(
      make_authority(directory_.path(), "lab:7420", {"lab"}, clocks_).status()));
  const db::TemporaryDirectory none;
  EXPECT_TRUE(absl::IsNotFound(AccessControl::open(none.path(), clocks_, nullptr).status()));
}

TEST_F(AccessControlTest, TheServersCertificate_IsRenewedBeforeItEnds) {
  const ServerIdentity first = value_of(load_server_identity(directory_.path(), clocks_));
  const CertificateFacts facts = value_of(read_certificate(first.certificate_pem));
  EXPECT_EQ(facts.hosts, (std::vector<std::string>{"lab", "10.0.0.5", "::1"}));
  now_ms_ = facts.expires_at_ms - std::int64_t{31} * 24 * 3'600'000;
  EXPECT_EQ(value_of(load_server_identity(directory_.path(), clocks_)).certificate_pem,
            first.certificate_pem);
  now_ms_ += std::int64_t{2} * 24 * 3'600'000;
  const ServerIdentity second = value_of(load_server_identity(directory_.path(), clocks_));
  EXPECT_NE(second.certificate_pem, first.certificate_pem);
  EXPECT_EQ(value_of(read_certificate(second.certificate_pem)).hosts, facts.hosts);
}

TEST(Secret, HasOneForm) {
  const Secret secret = make_secret();
  EXPECT_EQ(secret.text, "bitrung_" + secret.id + "_" + secret.text.substr(25));
  EXPECT_EQ(secret.text.size(), 8u + 16 + 1 + 64);
  EXPECT_NE(make_secret().text, secret.text);
  EXPECT_EQ(parse_secret(secret.text)->sha256, sha256(secret.text));
  for (std::string bad : {std::string(), secret.text + "0", secret.text.substr(1)}) {
    EXPECT_FALSE(parse_secret(bad)) << bad;
  }
  std::string upper = secret.text;
  upper[30] = 'A';
  EXPECT_FALSE(parse_secret(upper));
}

TEST(Bucket, LetsABurstThrough_ThenARate) {
  Bucket bucket({.burst = 3, .per_second = 2});
  Time now{hours(1)};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.take(now)) << i;
  EXPECT_FALSE(bucket.take(now));
  EXPECT_DOUBLE_EQ(bucket.wait_seconds(now), 0.5);
  EXPECT_FALSE(bucket.take(now + std::chrono::milliseconds(499)));
  EXPECT_TRUE(bucket.take(now + std::chrono::milliseconds(500)));
  EXPECT_FALSE(bucket.full(now + seconds(1)));
  EXPECT_TRUE(bucket.full(now + seconds(3)));
}

TEST(FailedLogins, AreCountedByAddress_AndForgottenWithTime) {
  FailedLogins failed;
  const Time now{hours(1)};
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(failed.wait_seconds("a", now), 0);
    failed.add("a", now);
  }
  EXPECT_NEAR(failed.wait_seconds("a", now), 6, 1e-9);
  EXPECT_EQ(failed.wait_seconds("b", now), 0);
  EXPECT_EQ(failed.wait_seconds("a", now + seconds(7)), 0);
  // A flood of addresses is not remembered without bound.
  for (std::size_t i = 0; i < 2 * FailedLogins::kAddressesMax; ++i)
    failed.add("x" + std::to_string(i), now + seconds(8));
  EXPECT_EQ(failed.wait_seconds("a", now + seconds(8)), 0);
}

}  // namespace
}  // namespace bitrung::auth
