#include "db/base/address.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitrung {
namespace {

using testing::HasSubstr;

TEST(Address, HasAPathOrAHostAndAPort) {
  EXPECT_EQ(parse_address("unix:/run/b.sock")->path, "/run/b.sock");
  EXPECT_TRUE(parse_address("unix:b.sock")->is_unix());
  const auto named = parse_address("lab_1.example.org:7420");
  EXPECT_EQ(named->host, "lab_1.example.org");
  EXPECT_EQ(named->port, 7420);
  EXPECT_FALSE(named->is_unix());
  EXPECT_EQ(parse_address("[::1]:65535")->host, "::1");
  EXPECT_EQ(parse_address("0.0.0.0:0", 0)->port, 0);
}

TEST(Address, WhatIsWrong_IsSaid) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "write unix:PATH or HOST:PORT"},
      {"127.0.0.1", "write unix:PATH or HOST:PORT"},
      {":7420", "write unix:PATH or HOST:PORT"},
      {"unix:", "unix: needs a path"},
      {"unix:/" + std::string(107, 'x'), "has 108 bytes, the system's limit is 107"},
      {"::1:7420", "in brackets"},
      {"[::1:7420", "in brackets"},
      {"[host]:7420", "in brackets"},
      {"http://host:7420", "the host must be"},
      {"host:", "the port must be 1 to 65535"},
      {"host:0", "the port must be 1 to 65535"},
      {"host:65536", "the port must be 1 to 65535"},
      {"host:-1", "the port must be 1 to 65535"},
      {"host:76x", "the port must be 1 to 65535"},
  };
  for (const auto& [text, what] : cases) {
    const auto status = parse_address(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + text + "\""));
  }
  EXPECT_TRUE(parse_address("unix:/" + std::string(106, 'x')).ok());
  EXPECT_FALSE(parse_address("host:-1", 0).ok());
}

}  // namespace
}  // namespace bitrung
