#include "client/interop/zip.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"
#include "tests/unit/client/interop/testing.h"

namespace bitrung::interop {
namespace {

using namespace std::string_view_literals;
using ::testing::HasSubstr;

std::string sample() {
  return encode_zip({{"a/data.pkl", "pickle"}, {"a/data/0", "\0\1\2"sv}, {"a/v", ""}});
}

std::string refusal(const std::string& bytes) {
  return std::string(message(parse_zip(bytes).status()));
}

TEST(Zip, RoundTrip_KeepsEverythingAligned) {
  const std::string bytes = sample();
  EXPECT_EQ(bytes, sample());
  const auto entries = parse_zip(bytes);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->size(), 3U);
  EXPECT_EQ(entries->at("a/data.pkl"), "pickle");
  EXPECT_EQ(entries->at("a/data/0"), "\0\1\2"sv);
  EXPECT_EQ(entries->at("a/v"), "");
  for (const auto& [name, content] : *entries) {
    EXPECT_EQ((content.data() - bytes.data()) % 64, 0) << name;
  }
}

TEST(Zip, NoEntries_IsAnArchive) {
  EXPECT_TRUE(parse_zip(encode_zip({}))->empty());
}

TEST(Zip, EveryTruncation_IsRefused) {
  const std::string bytes = sample();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(parse_zip(bytes.substr(0, size)).ok()) << size;
  }
}

// Damage is noticed or harmless (padding, unused fields); it never reads outside the bytes.
TEST(Zip, EveryFlippedByte_IsRefusedOrGivesTheSameContents) {
  const std::string whole = sample();
  const auto expected = parse_zip(whole);
  int refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0xFF);
    const auto entries = parse_zip(bytes);
    refused += entries.ok() ? 0 : 1;
    if (entries.ok()) {
      EXPECT_EQ(*entries, *expected) << i;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(Zip, WrongChecksum_IsRefusedByName) {
  std::string bytes = sample();
  bytes[bytes.find("pickle")] = 'P';
  EXPECT_THAT(refusal(bytes), HasSubstr("checksum of entry \"a/data.pkl\""));
}

TEST(Zip, CompressedEntry_IsRefusedBeforeAnythingIsUnpacked) {
  std::string bytes = sample();
  const std::size_t central = bytes.find("PK\x01\x02");
  bytes[central + 10] = 8;  // Deflate.
  EXPECT_THAT(refusal(bytes), HasSubstr("entry \"a/data.pkl\" of its zip archive is compressed"));
  bytes = sample();
  bytes[central + 8] = 1;
  EXPECT_THAT(refusal(bytes), HasSubstr("is encrypted"));
}

TEST(Zip, SameNameTwice_IsRefused) {
  std::string bytes = encode_zip({{"a/0", "one"}, {"a/1", "two"}});
  for (std::size_t at = bytes.find("a/1"); at != std::string::npos; at = bytes.find("a/1", at)) {
    bytes[at + 2] = '0';
  }
  EXPECT_THAT(refusal(bytes), HasSubstr("entry \"a/0\" occurs twice"));
}

TEST(Zip, OverlappingEntries_AreRefused) {
  // Both entries of the directory point at the first local header, whose name is the second's too.
  std::string bytes = encode_zip({{"a/0", "same"}, {"a/1", "same"}});
  const std::size_t first = bytes.find("PK\x01\x02");
  const std::size_t second = bytes.find("PK\x01\x02", first + 1);
  bytes[second + 42] = 0;
  EXPECT_THAT(refusal(bytes), HasSubstr("entry \"a/1\" differs from its directory"));

  // An entry that holds the next one's header as its content.
  bytes = encode_zip({{"a/0", std::string(64, 'x')}, {"a/1", "y"}});
  const std::size_t central = bytes.find("PK\x01\x02");
  put_u32(bytes, central + 20, 100);
  put_u32(bytes, central + 24, 100);
  EXPECT_THAT(refusal(bytes), HasSubstr("entry \"a/1\" overlaps another"));
}

TEST(Zip, SizesBeyondTheFile_AreRefused) {
  std::string bytes = sample();
  const std::size_t central = bytes.find("PK\x01\x02");
  put_u32(bytes, central + 20, 0x7FFFFFFF);
  put_u32(bytes, central + 24, 0x7FFFFFFF);
  EXPECT_THAT(refusal(bytes), HasSubstr("entry \"a/data.pkl\" claims 2147483647 bytes"));
  // 64-bit sizes that are announced and missing.
  put_u32(bytes, central + 20, 0xFFFFFFFF);
  put_u32(bytes, central + 24, 0xFFFFFFFF);
  EXPECT_THAT(refusal(bytes), HasSubstr("a 64-bit size is missing"));
  bytes = sample();
  put_u32(bytes, bytes.size() - 6, 0x7FFFFFFF);
  EXPECT_THAT(refusal(bytes), HasSubstr("its directory is said to be bytes 2147483647"));
}

TEST(Zip, TooManyEntries_AreRefusedBeforeTheyAreRead) {
  std::string bytes = sample();
  bytes[bytes.size() - 14] = bytes[bytes.size() - 12] = '\xFE';
  bytes[bytes.size() - 13] = bytes[bytes.size() - 11] = '\xFF';
  EXPECT_THAT(refusal(bytes), HasSubstr("has 65534 entries, the limit is 16384"));
}

TEST(Zip, NamesThatArePaths_AreOnlyNames) {
  const std::string bytes = encode_zip({{"../../etc/passwd", "x"}, {"/abs", "y"}});
  const auto entries = parse_zip(bytes);  // They lie in the bytes.
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->at("../../etc/passwd"), "x");
}

}  // namespace
}  // namespace bitrung::interop
