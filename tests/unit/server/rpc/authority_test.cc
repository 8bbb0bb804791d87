#include "server/auth/authority.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace bitrung::auth {
namespace {

TEST(Token, IsMadeOnce_ReadableByTheOwnerOnly_AndRefusedWhenOthersMayRead) {
  const auto file = std::filesystem::temp_directory_path() / "bitrung-token-test";
  std::filesystem::remove(file);
  const auto token = load_or_create_token(file);
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->size(), std::string("bitrung_").size() + 64);
  struct stat info {};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(*load_or_create_token(file), *token);

  ::chmod(file.c_str(), 0644);
  EXPECT_TRUE(absl::IsPermissionDenied(load_or_create_token(file).status()));
  ::chmod(file.c_str(), 0600);
  std::ofstream(file) << "nonsense";
  EXPECT_TRUE(absl::IsInvalidArgument(load_or_create_token(file).status()));
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace bitrung::auth
