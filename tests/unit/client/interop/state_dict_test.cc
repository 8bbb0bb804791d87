#include "client/interop/state_dict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/interop/zip.h"
#include "db/base/status.h"
#include "tests/unit/client/interop/testing.h"

namespace bitrung::interop {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using train::Dtype;

StateDict read(std::string bytes) {
  auto dict = read_state_dict(std::move(bytes));
  EXPECT_TRUE(dict.ok()) << dict.status();
  return dict.ok() ? *std::move(dict) : StateDict{};
}

std::string refusal(std::string bytes) {
  const auto dict = read_state_dict(std::move(bytes));
  return dict.ok() ? "accepted" : std::string(message(dict.status()));
}

template <typename T>
std::vector<T> values(const StateDict& dict, const std::string& name) {
  return values_of<T>(to_rows(dict.tensors.at(name)));
}

// What PyTorch wrote in three formats; see fixtures/make_fixtures.py.
class TorchFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(TorchFiles, EveryTensor_HasItsElementsInRows) {
  const StateDict dict = read(fixture(GetParam()));
  ASSERT_EQ(dict.tensors.size(), 16U);
  EXPECT_TRUE(dict.notes.empty());
  EXPECT_THAT(values<float>(dict, "rows"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_THAT(dict.tensors.at("transposed").shape, ElementsAre(4, 3));
  EXPECT_THAT(values<float>(dict, "transposed"), ElementsAre(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11));
  EXPECT_THAT(values<float>(dict, "column"), ElementsAre(1, 5, 9));
  EXPECT_THAT(values<float>(dict, "expanded"), ElementsAre(2.5, 2.5, 2.5, 2.5, 2.5, 2.5));
  EXPECT_TRUE(dict.tensors.at("scalar").shape.empty());
  EXPECT_THAT(values<std::int64_t>(dict, "scalar"), ElementsAre(7));
  EXPECT_THAT(dict.tensors.at("empty").shape, ElementsAre(0, 3));
  EXPECT_TRUE(values<float>(dict, "empty").empty());
  EXPECT_EQ(dict.tensors.at("half").dtype, Dtype::kF16);
  EXPECT_THAT(values<std::uint16_t>(dict, "half"), ElementsAre(0, 0x3E00, 0xC000, 0x7BFF, 1));
  EXPECT_EQ(dict.tensors.at("brain").dtype, Dtype::kBF16);
  EXPECT_THAT(values<std::uint16_t>(dict, "brain"), ElementsAre(0x3F80, 0xC060));
  EXPECT_THAT(values<double>(dict, "double"), ElementsAre(0.1));
  EXPECT_THAT(values<std::uint8_t>(dict, "bytes"), ElementsAre(0, 255));
  EXPECT_THAT(values<std::int8_t>(dict, "chars"), ElementsAre(-1));
  EXPECT_THAT(values<std::int16_t>(dict, "shorts"), ElementsAre(-2));
  EXPECT_THAT(values<std::int32_t>(dict, "ints"), ElementsAre(-3));
  EXPECT_EQ(dict.tensors.at("truths").dtype, Dtype::kBool);
  EXPECT_THAT(values<std::uint8_t>(dict, "truths"), ElementsAre(1, 0));
  EXPECT_THAT(dict.tensors.at("last").shape, ElementsAre(1, 2, 2, 4));
  EXPECT_THAT(values<float>(dict, "last"),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  EXPECT_NE(dict.tensors.at("last").strides.back(), 1);  // Else nothing was reordered.
  EXPECT_THAT(values<float>(dict, "parameter"), ElementsAre(1, 1));
}

TEST_P(TorchFiles, EveryTruncation_IsRefused) {
  const std::string bytes = fixture(GetParam());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(read_state_dict(bytes.substr(0, size)).ok()) << size;
  }
}

// No flipped bit leads outside the bytes (the sanitizers' build sees it), whatever it means.
TEST_P(TorchFiles, EveryFlippedBit_IsSurvived) {
  const std::string whole = fixture(GetParam());
  for (std::size_t i = 0; i < whole.size() * 8; ++i) {
    std::string bytes = whole;
    bytes[i / 8] = static_cast<char>(bytes[i / 8] ^ (1 << (i % 8)));
    const auto dict = read_state_dict(std::move(bytes));
    if (!dict.ok()) continue;
    for (const auto& [name, view] : dict->tensors) {
      EXPECT_LE(to_rows(view).bytes.size(), train::kFileBytesMax);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, TorchFiles,
                         ::testing::Values("tensors.pt", "tensors_legacy.pt",
                                           "tensors_protocol4.pt"));

TEST(StateDict, WrappedCheckpoint_IsUnwrappedAndSaysSo) {
  const StateDict dict = read(fixture("wrapped.pt"));
  EXPECT_THAT(dict.notes, ElementsAre("took the state dict from its entry \"model_state_dict\"",
                                      "removed \"module.\" from the front of all names"));
  EXPECT_EQ(dict.tensors.size(), 6U);
  EXPECT_THAT(values<float>(dict, "conv.weight"), ElementsAre(0.5, -0.5));
  EXPECT_THAT(values<std::int64_t>(dict, "bn.num_batches_tracked"), ElementsAre(1));
}

TEST(StateDict, WholeModule_IsRefusedWithTheRemedy) {
  EXPECT_THAT(refusal(fixture("module.pt")),
              HasSubstr("\"torch.nn.modules.container.Sequential\", which no state dict of tensors "
                        "needs; nothing of the file was run; save the weights alone in Python: "
                        "torch.save(model.state_dict(), FILE)"));
}

TEST(StateDict, HostileFile_IsRefusedByTheNameOfWhatItWouldCall) {
  EXPECT_THAT(refusal(fixture("hostile.pt")), HasSubstr("it wants \"posix.system\""));
}

// ---- files made here

constexpr std::string_view kDictionary = "ccollections\nOrderedDict\n)R(";

std::string text(std::string_view content) {
  std::string result = "X";
  result += static_cast<char>(content.size());
  return result + std::string(3, '\0') + std::string(content);
}

std::string number(std::uint32_t value) {
  std::string result = "J    ";
  put_u32(result, 1, value);
  return result;
}

std::string tuple(const std::vector<std::uint32_t>& numbers) {
  std::string result = "(";
  for (const std::uint32_t value : numbers) result += number(value);
  return result + "t";
}

std::string tensor(std::uint32_t elements, std::uint32_t offset, const std::string& shape,
                   const std::string& strides, std::string_view type = "FloatStorage") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" +
         std::string(type) + "\n" + text("0") + text("cpu") + number(elements) + "tQ" +
         number(offset) + shape + strides + "\x89)tR";
}

std::string file_of(const std::string& entries, const std::string& storage = std::string(16, 'x')) {
  const std::string pickle = "\x80\x02" + std::string(kDictionary) + entries + "u.";
  return encode_zip({{"a/data.pkl", pickle}, {"a/data/0", storage}});
}

TEST(StateDict, ViewsThatFit_AreAccepted) {
  const StateDict dict = read(file_of(text("w") + tensor(4, 1, tuple({3}), tuple({1}))));
  EXPECT_EQ(to_rows(dict.tensors.at("w")).bytes.size(), 12U);
  // An empty tensor needs no storage, whatever its strides say.
  read(file_of(text("w") + tensor(0, 0, tuple({0, 5}), tuple({1000, 1000})), ""));
}

TEST(StateDict, ViewsOutsideTheirStorage_AreRefused) {
  const auto outside = [](const std::string& described) {
    return refusal(file_of(text("w") + described));
  };
  EXPECT_THAT(outside(tensor(4, 2, tuple({3}), tuple({1}))),
              HasSubstr("does not lie in its storage"));
  EXPECT_THAT(outside(tensor(4, 0, tuple({2}), tuple({4}))),
              HasSubstr("tensor \"w\": its shape (2) with strides (4) from element 0 on"));
  EXPECT_THAT(outside(tensor(4, 4, tuple({}), tuple({}))), HasSubstr("does not lie"));
  EXPECT_THAT(outside(tensor(5, 0, tuple({1}), tuple({1}))),
              HasSubstr("its storage has 16 bytes, 5 elements of F32 do not fit"));
  EXPECT_THAT(outside(tensor(4, 0, tuple({2}), tuple({1, 1}))), HasSubstr("more or fewer strides"));
  const std::uint32_t huge = 0x7FFFFFFF;
  EXPECT_THAT(outside(tensor(4, 0, tuple({huge, huge, huge}), tuple({huge, huge, huge}))),
              HasSubstr("does not lie"));
  // Strides of zero repeat an element; the result would be 8 GiB.
  EXPECT_THAT(outside(tensor(4, 0, tuple({huge}), tuple({0}))), HasSubstr("larger than"));
  EXPECT_THAT(outside(tensor(4, 0, tuple({0xFFFFFFFF}), tuple({1}))), HasSubstr("no size"));
  EXPECT_THAT(outside(tensor(4, 0, tuple(std::vector<std::uint32_t>(9, 1)), tuple({1}))),
              HasSubstr("at most 8 numbers"));
}

TEST(StateDict, OtherContents_AreRefused) {
  EXPECT_THAT(refusal(file_of(text("epoch") + number(3))),
              HasSubstr("its entry \"epoch\" is a number, expected a tensor"));
  EXPECT_THAT(refusal(file_of(number(1) + tensor(4, 0, tuple({4}), tuple({1})))),
              HasSubstr("a key of its state dict is a number"));
  const std::string entry = text("w") + tensor(4, 0, tuple({4}), tuple({1}));
  EXPECT_THAT(refusal(file_of(entry + entry)), HasSubstr("its entry \"w\" occurs twice"));
  EXPECT_THAT(refusal(file_of("")), HasSubstr("it holds no tensor"));
  EXPECT_THAT(refusal(encode_zip({{"a/data.pkl", "\x80\x02]."}})),
              HasSubstr("it holds a list, expected a state dict"));
  EXPECT_THAT(refusal(encode_zip({{"a/x", ""}})), HasSubstr("without data.pkl"));
  EXPECT_THAT(refusal(encode_zip({{"a/constants.pkl", ""}, {"a/data.pkl", ""}})),
              HasSubstr("TorchScript"));
  EXPECT_THAT(refusal(encode_zip({{"a/byteorder", "big"}, {"a/data.pkl", ""}})),
              HasSubstr("byte order \"big\""));
  EXPECT_THAT(
      refusal(encode_zip({{"a/data.pkl", "\x80\x02" + std::string(kDictionary) + entry + "u."}})),
      HasSubstr("its storage \"0\" is missing"));
  EXPECT_THAT(refusal("hello"), HasSubstr("neither a file of torch.save nor a safetensors file"));
  EXPECT_THAT(refusal(""), HasSubstr("neither"));
}

TEST(StateDict, Safetensors_IsReadToo) {
  train::SafetensorsFile file;
  file.tensors["module.a"] = tensor_of<float>(Dtype::kF32, {2}, {1, 2});
  file.metadata["format"] = "pt";
  const std::vector<std::uint8_t> bytes = encode_safetensors(file);
  const StateDict dict = read(std::string(bytes.begin(), bytes.end()));
  EXPECT_EQ(dict.form, "safetensors");
  EXPECT_THAT(values<float>(dict, "a"), ElementsAre(1, 2));
  EXPECT_EQ(dict.metadata.at("format"), "pt");
  EXPECT_THAT(refusal(std::string(bytes.begin(), bytes.end() - 1)), HasSubstr("claims bytes"));
}

TEST(StateDict, OwnFile_ReadsBackEqual) {
  std::map<std::string, train::TensorBytes> tensors;
  tensors["a.weight"] = tensor_of<float>(Dtype::kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
  tensors["b"] = tensor_of<std::int64_t>(Dtype::kI64, {}, {-9});
  tensors["c"] = tensor_of<double>(Dtype::kF64, {0, 4}, {});
  tensors["d"] = tensor_of<std::uint8_t>(Dtype::kU8, {3}, {1, 2, 3});
  EXPECT_EQ(encode_torch_file(tensors), encode_torch_file(tensors));
  const StateDict dict = read(encode_torch_file(tensors));
  ASSERT_EQ(dict.tensors.size(), tensors.size());
  for (const auto& [name, expected] : tensors) {
    const train::TensorBytes found = to_rows(dict.tensors.at(name));
    EXPECT_EQ(found.dtype, expected.dtype) << name;
    EXPECT_EQ(found.shape, expected.shape) << name;
    EXPECT_EQ(found.bytes, expected.bytes) << name;
  }
}

}  // namespace
}  // namespace bitrung::interop
