#include "worker/train/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/worker/train/test_files.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

std::vector<std::uint8_t> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::uint8_t> bytes(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

std::string refusal(const std::vector<std::uint8_t>& bytes) {
  try {
    parse_safetensors(bytes);
  } catch (const SafetensorsError& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal(const std::string& header, std::size_t data_bytes) {
  return refusal(file_of(header, data_bytes));
}

SafetensorsFile sample() {
  SafetensorsFile file;
  file.tensors["fc.bias"] = {Dtype::kF32, {2}, {0, 0, 128, 63, 0, 0, 0, 64}};  // 1, 2
  file.tensors["bn.num_batches_tracked"] = {Dtype::kI64, {}, {7, 0, 0, 0, 0, 0, 0, 0}};
  file.tensors["empty"] = {Dtype::kF32, {0, 3}, {}};
  file.tensors["a"] = {Dtype::kU8, {1, 3}, {1, 2, 3}};
  file.metadata = {{"format", "pt"}, {"bitrung.kind", "checkpoint"}};
  return file;
}

TEST(Safetensors, RoundTrip_KeepsEverything) {
  const SafetensorsFile file = parse_safetensors(encode_safetensors(sample()));
  EXPECT_EQ(file.metadata, sample().metadata);
  ASSERT_EQ(file.tensors.size(), 4U);
  for (const auto& [name, tensor] : sample().tensors) {
    EXPECT_EQ(file.tensors.at(name).dtype, tensor.dtype) << name;
    EXPECT_EQ(file.tensors.at(name).shape, tensor.shape) << name;
    EXPECT_EQ(file.tensors.at(name).bytes, tensor.bytes) << name;
  }
}

TEST(Safetensors, Encoding_IsAlignedAndFixed) {
  const std::vector<std::uint8_t> bytes = encode_safetensors(sample());
  EXPECT_EQ(encode_safetensors(sample()), bytes);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  EXPECT_EQ(header_bytes % 8, 0U);
  const std::string header(bytes.begin() + 8,
                           bytes.begin() + 8 + static_cast<std::ptrdiff_t>(header_bytes));
  EXPECT_THAT(
      header,
      HasSubstr(R"("bn.num_batches_tracked":{"data_offsets":[0,8],"dtype":"I64","shape":[]})"));
  EXPECT_THAT(header, HasSubstr(R"("__metadata__":{"bitrung.kind":"checkpoint","format":"pt"})"));
}

TEST(Safetensors, WriteAndRead_GoThroughADisk) {
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "model.safetensors", sample());
  EXPECT_EQ(read_safetensors(folder.path() / "model.safetensors").tensors.size(), 4U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}),
            1);  // No temporary file stays.
  EXPECT_THROW(read_safetensors(folder.path() / "missing"), SafetensorsError);
  EXPECT_THROW(read_safetensors(folder.path()), SafetensorsError);
}

TEST(Safetensors, EveryTruncation_IsRefused) {
  const std::vector<std::uint8_t> bytes = encode_safetensors(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(refusal({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}),
              "accepted")
        << size;
  }
}

TEST(Safetensors, EveryFlippedHeaderBit_IsAcceptedOrRefusedButHarmless) {
  const std::vector<std::uint8_t> bytes = encode_safetensors(sample());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::vector<std::uint8_t> changed = bytes;
      changed[i] = static_cast<std::uint8_t>(changed[i] ^ (1 << bit));
      refusal(changed);
    }
  }
}

TEST(Safetensors, HostileHeaders_AreRefusedWithTheReason) {
  EXPECT_THAT(refusal(std::vector<std::uint8_t>(7)), HasSubstr("at least 8"));
  EXPECT_THAT(refusal(std::vector<std::uint8_t>(8, 0xff)), HasSubstr("the limit is 1048576"));
  EXPECT_THAT(refusal("", 0), HasSubstr("does not begin with {"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("does not begin with {"));
  EXPECT_THAT(refusal("{", 0), HasSubstr("not JSON"));
  EXPECT_THAT(refusal("{}", 1), HasSubstr("1 bytes of tensors, its header describes 0"));
  EXPECT_EQ(refusal("{}", 0), "accepted");
  EXPECT_EQ(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   )", 4), "accepted");
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}x)", 4),
              HasSubstr("not JSON"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8),
              HasSubstr("need 4"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 8),
              HasSubstr("claims bytes 4 to 0"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 8),
              HasSubstr("claims bytes"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("unknown dtype"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
              HasSubstr("two data_offsets"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1]}})", 4), HasSubstr("lacks"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
              HasSubstr("negative"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4),
              HasSubstr("no integer"));
  EXPECT_THAT(
      refusal(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}})", 0),
      HasSubstr("overflows"));
  EXPECT_THAT(
      refusal(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0),
      HasSubstr("overflows"));
  EXPECT_THAT(
      refusal(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1),
      HasSubstr("more than 8 dimensions"));
  EXPECT_THAT(refusal(R"({"a/b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("tensor name"));
  EXPECT_THAT(refusal(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("tensor name"));
  EXPECT_THAT(refusal("{\"" + std::string(257, 'a') +
                          R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                      1),
              HasSubstr("tensor name"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("where none may be"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":[1]}})", 1),
              HasSubstr("where none may be"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1),
              HasSubstr("an array"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":null,"shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("null"));
  EXPECT_THAT(refusal(R"({"a":{"b":{"c":1}}})", 0), HasSubstr("an object"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("a number"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":"1","a":"2"}})", 0), HasSubstr("occurs twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{},"__metadata__":{}})", 0), HasSubstr("occurs twice"));
  EXPECT_THAT(refusal(std::string(R"({"a":)") + std::string(100'000, '['), 0),
              HasSubstr("an array"));
}

TEST(Safetensors, Ranges_MustTouchAndNotOverlap) {
  const auto two = [](const char* first, const char* second) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + std::string(first) +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(refusal(two("[2,4]", "[0,2]"), 4), "accepted");
  EXPECT_THAT(refusal(two("[0,2]", "[1,3]"), 4), HasSubstr("overlap or leave a gap"));
  EXPECT_THAT(refusal(two("[0,2]", "[0,2]"), 2), HasSubstr("overlap or leave a gap"));
  EXPECT_THAT(refusal(two("[0,2]", "[3,5]"), 5), HasSubstr("overlap or leave a gap"));
  EXPECT_THAT(refusal(two("[0,2]", "[2,4]"), 5), HasSubstr("header describes 4"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                      2),
              HasSubstr("occurs twice"));
}

}  // namespace
}  // namespace bitrung::train
