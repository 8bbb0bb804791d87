#include "worker/agent/state_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "db/base/status.h"
#include "temporary_directory.h"

namespace bitrung::agent {
namespace {

TEST(StateDirectory, IdentityAndTerm_AreKept) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "worker";
  std::string id;
  {
    const auto state = StateDirectory::open(path);
    ASSERT_TRUE(state.ok()) << state.status();
    id = state->worker_id();
    EXPECT_EQ(id.size(), 32U);
    EXPECT_EQ(state->term(), 0);
    EXPECT_TRUE(state->persist_term(7).ok());
  }
  const auto state = StateDirectory::open(path);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->worker_id(), id);
  EXPECT_EQ(state->term(), 7);
}

TEST(StateDirectory, SecondProcess_IsRefused) {
  const TemporaryDirectory directory;
  const auto first = StateDirectory::open(directory.path());
  ASSERT_TRUE(first.ok());
  const auto second = StateDirectory::open(directory.path());
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(message(second.status())), testing::HasSubstr(directory.path().string()));
}

TEST(StateDirectory, DamagedFiles_AreNamed) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(StateDirectory::open(directory.path()).ok());
  std::ofstream(directory.path() / "term") << "x";
  EXPECT_THAT(std::string(message(StateDirectory::open(directory.path()).status())),
              testing::HasSubstr("/term"));
  std::ofstream(directory.path() / "worker_id") << "x";
  EXPECT_THAT(std::string(message(StateDirectory::open(directory.path()).status())),
              testing::HasSubstr("/worker_id"));
}

}  // namespace
}  // namespace bitrung::agent
