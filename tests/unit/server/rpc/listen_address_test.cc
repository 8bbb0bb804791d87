#include "server/listen_address.h"

#include <fstream>

#include <gtest/gtest.h>

namespace bitrung {
namespace {

TEST(ListenAddress, UnixSocketsAndHostsWithPorts_AreAllowed_AnythingElseIsRefused) {
  EXPECT_TRUE(parse_listen_address("unix:/run/b.sock")->is_unix());
  EXPECT_EQ(parse_listen_address("127.0.0.1:0")->text_with_port(4711), "127.0.0.1:4711");
  EXPECT_EQ(parse_listen_address("[::1]:80")->text_with_port(80), "[::1]:80");
  for (const char* good : {"localhost:7420", "0.0.0.0:7420", "[::]:7420", "lab.example.org:7420"})
    EXPECT_TRUE(parse_listen_address(good).ok()) << good;
  for (const char* bad :
       {"127.0.0.1", "::1:7420", "[::1:7420", "[host]:7420", "host/x:7420", ":7420",
        "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "unix:", ""}) {
    EXPECT_TRUE(absl::IsInvalidArgument(parse_listen_address(bad).status())) << bad;
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(parse_listen_address("unix:/" + std::string(200, 'x')).status()));
}

TEST(ListenAddress, OtherFileInTheSocketsPlace_IsKept) {
  const auto file = std::filesystem::temp_directory_path() / "bitrung-listen-test";
  std::ofstream(file) << "precious";
  EXPECT_TRUE(absl::IsFailedPrecondition(
      parse_listen_address("unix:" + file.string())->remove_stale_socket()));
  EXPECT_TRUE(std::filesystem::exists(file));
  std::filesystem::remove(file);
  EXPECT_TRUE(parse_listen_address("unix:" + file.string())->remove_stale_socket().ok());
}

}  // namespace
}  // namespace bitrung
