#include "client/interop/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"

namespace bitrung::interop {
namespace {

using namespace std::string_view_literals;
using ::testing::HasSubstr;

// "\x80\x02" begins, "." ends.
std::string pickle_of(std::string_view instructions) {
  return "\x80\x02" + std::string(instructions) + ".";
}

std::string refusal(std::string_view instructions) {
  const auto pickle = read_pickle(pickle_of(instructions));
  return pickle.ok() ? "accepted" : std::string(message(pickle.status()));
}

TEST(Pickle, PlainValues_AreRead) {
  // {"a": (1, -2, None, True), "b": [0.5, {}]}
  const std::string bytes =
      pickle_of("}q\0(X\1\0\0\0aq\1(K\1J\xFE\xFF\xFF\xFFN\x88tX\1\0\0\0b](G?\xE0\0\0\0\0\0\0}eu"sv);
  const auto pickle = read_pickle(bytes + "rest");
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  EXPECT_EQ(pickle->bytes, bytes.size());
  const PickleValue& root = pickle->at(pickle->root);
  ASSERT_EQ(root.kind, ValueKind::kDictionary);
  ASSERT_EQ(root.items.size(), 4U);
  EXPECT_EQ(pickle->at(root.items[0]).text, "a");
  const PickleValue& tuple = pickle->at(root.items[1]);
  ASSERT_EQ(tuple.items.size(), 4U);
  EXPECT_EQ(pickle->at(tuple.items[1]).integer, -2);
  EXPECT_EQ(pickle->at(tuple.items[3]).kind, ValueKind::kBool);
  EXPECT_EQ(pickle->at(root.items[3]).kind, ValueKind::kList);
}

TEST(Pickle, LongIntegers_KeepTheirSign) {
  const auto value = [](std::string_view instructions) {
    const auto pickle = read_pickle(pickle_of(instructions));
    return pickle.ok() ? pickle->at(pickle->root).integer : -12345;
  };
  EXPECT_EQ(value("\x8a\0"sv), 0);
  EXPECT_EQ(value("\x8a\1\xFF"), -1);
  EXPECT_EQ(value("\x8a\2\x80\0"sv), 128);
  EXPECT_EQ(value("\x8a\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), -1);
}

TEST(Pickle, Functions_AreRefusedByName) {
  EXPECT_THAT(
      refusal("cposix\nsystem\n(X\4\0\0\0exittR"),
      HasSubstr("it wants \"posix.system\", which no state dict of tensors needs; nothing of "
                "the file was run"));
  EXPECT_THAT(refusal("c__builtin__\neval\n"), HasSubstr("\"__builtin__.eval\""));
  EXPECT_THAT(refusal("ctorch\nload\n"), HasSubstr("\"torch.load\""));
  EXPECT_THAT(refusal("ctorch\nFloatStorages\n"), HasSubstr("\"torch.FloatStorages\""));
  // The same through texts on the stack (protocol 4).
  EXPECT_THAT(refusal("\x8c\2os\x8c\6system\x93"), HasSubstr("\"os.system\""));
  // What a terminal would obey is not printed.
  EXPECT_THAT(refusal("c\x1b[2J\nx\n"), HasSubstr("\"?[2J.x\""));
}

TEST(Pickle, OtherInstructions_AreRefusedByName) {
  EXPECT_THAT(refusal("(ios\nsystem\n"), HasSubstr("instruction INST (0x69)"));
  EXPECT_THAT(refusal("ccollections\nOrderedDict\n)\x81"), HasSubstr("NEWOBJ (0x81)"));
  EXPECT_THAT(refusal("\x82\1"), HasSubstr("EXT1"));
  EXPECT_THAT(refusal("\xFF"), HasSubstr("instruction 0xff"));
}

TEST(Pickle, KnownFunctionsWithOtherArguments_AreRefused) {
  EXPECT_THAT(refusal("ccollections\nOrderedDict\n(K\1tR"), HasSubstr("in a way unknown"));
  EXPECT_THAT(refusal("ctorch._utils\n_rebuild_tensor_v2\n)R"), HasSubstr("tensor is described"));
  EXPECT_THAT(refusal("ctorch\nFloatStorage\n)R"), HasSubstr("calls torch.FloatStorage"));
  EXPECT_THAT(refusal("K\1)R"), HasSubstr("it calls a number with a tuple"));
  EXPECT_THAT(refusal("K\1Q"), HasSubstr("a storage is described"));
  EXPECT_THAT(refusal("K\1K\1b"), HasSubstr("attributes of what is no dictionary"));
}

TEST(Pickle, StackMisuse_IsRefused) {
  for (const std::string_view instructions :
       {"",      "a",    "t",   "R",      "b",     "Q",     "s",  "K\1K\1", "(K\1", "(a",
        "K\1(a", "\x85", "q\1", "]K\1(s", "]K\1s", "}K\1a", "(R", "}(K\1u", "h\5",  "K\1(s"}) {
    EXPECT_NE(refusal(instructions), "accepted") << instructions;
  }
}

TEST(Pickle, EveryTruncation_IsRefused) {
  const std::string bytes = pickle_of("}q\0(X\1\0\0\0aK\1u"sv);
  ASSERT_TRUE(read_pickle(bytes).ok());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(std::string(message(read_pickle(bytes.substr(0, size)).status())),
                HasSubstr("ends early"))
        << size;
  }
}

TEST(Pickle, HugeCounts_AreRefusedWithoutBeingAllocated) {
  EXPECT_THAT(refusal("X\xFF\xFF\xFF\xFF"), HasSubstr("ends early"));
  EXPECT_THAT(refusal("\x8d\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"), HasSubstr("ends early"));
  EXPECT_THAT(refusal("\x8a\xFF"), HasSubstr("ends early"));
  EXPECT_THAT(refusal(std::string(kPickleValuesMax + 1, ')')),
              HasSubstr("makes more than 1048576 values"));
  EXPECT_THAT(refusal(std::string(kPickleValuesMax + 1, '(')), HasSubstr("marks"));
  EXPECT_THAT(refusal(")" + std::string(kPickleValuesMax + 1, '\x94')), HasSubstr("notes"));
  EXPECT_THAT(std::string(message(read_pickle(std::string(kPickleBytesMax + 1, '\x95')).status())),
              HasSubstr("more than 16777216 bytes"));
}

TEST(Pickle, AListThatHoldsItself_IsReadOnce) {
  const auto pickle = read_pickle(pickle_of("]q\0h\0a"sv));
  ASSERT_TRUE(pickle.ok()) << pickle.status();
  EXPECT_EQ(pickle->at(pickle->root).items, std::vector<ValueId>{pickle->root});
}

}  // namespace
}  // namespace bitrung::interop
