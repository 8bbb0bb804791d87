#include "client/experiment/options.h"

#include "client/experiment/text.h"
#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

TEST(OptionReference, NamesEveryOptionWithDefaultAndLimits) {
  const std::string text = option_reference();
  for (const OptionInfo& row : option_table()) {
    EXPECT_THAT(text, testing::HasSubstr(std::string(row.name) + " (default " +
                                         std::string(row.default_text) + ")\n    " +
                                         std::string(row.help) + "\n    Allowed: "));
  }
  EXPECT_THAT(text, testing::HasSubstr("epochs (default 160)\n"
                                       "    Passes over the training images.\n"
                                       "    Allowed: an integer from 1 to 1,000,000.\n"));
}

TEST(OptionReference, HasEveryMethodWithItsOptionsAndLimits) {
  const std::string text = option_reference();
  for (const train::MethodInfo& method : train::methods()) {
    EXPECT_THAT(text, testing::HasSubstr("\n" + std::string(method.name) + "\n    " +
                                         std::string(method.summary) + ".\n"));
  }
  EXPECT_THAT(
      text, testing::HasSubstr("Options: method.range, method.granularity and method.ema_decay."));
  EXPECT_THAT(text, testing::HasSubstr("    For weights only.\n    Not for 1-bit weights: "));
  EXPECT_THAT(text, testing::HasSubstr("search: best-path\n"));
}

TEST(OptionTable, Help_IsOneSentence) {
  for (const OptionInfo& row : option_table()) {
    EXPECT_TRUE(row.help.ends_with('.')) << row.name;
    EXPECT_EQ(row.help.find('\n'), std::string_view::npos) << row.name;
  }
}

TEST(Nearest, FindsTypingErrorsOnly) {
  const std::vector<std::string> words = {"epochs", "batch_size", "bits", "seed"};
  EXPECT_EQ(nearest("epoch", words), "epochs");
  EXPECT_EQ(nearest("epohcs", words), "epochs");
  EXPECT_EQ(nearest("batchsize", words), "batch_size");
  EXPECT_EQ(nearest("bit", words), "bits");
  EXPECT_EQ(nearest("lr", words), std::nullopt);
  EXPECT_EQ(nearest("", words), std::nullopt);
  EXPECT_EQ(nearest(std::string(1'000'000, 'e'), words), std::nullopt);
}

TEST(Text, QuotesAreReadableAndShort) {
  EXPECT_EQ(in_quotes("four"), "\"four\"");
  EXPECT_EQ(in_quotes("a\"b\\c\n\x01"), R"("a\"b\\c\n\x01")");
  // The cut does not fall into the middle of a letter.
  EXPECT_EQ(in_quotes(std::string(79, 'a') + "éé"), "\"" + std::string(79, 'a') + "…\"");
}

TEST(Text, ListsAndNumbers) {
  EXPECT_EQ(listed({}, "and"), "");
  EXPECT_EQ(listed(std::vector<std::string>{"a"}, "and"), "a");
  EXPECT_EQ(listed(std::vector<std::string>{"a", "b", "c"}, "or"), "a, b or c");
  EXPECT_EQ(with_separators(0), "0");
  EXPECT_EQ(with_separators(999), "999");
  EXPECT_EQ(with_separators(1'048'576), "1,048,576");
}

}  // namespace
}  // namespace bitrung::client
