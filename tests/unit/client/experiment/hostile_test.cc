#include <ctime>
#include <fstream>

#include "client/experiment/yaml_tree.h"
#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

constexpr std::size_t kMiB = 1 << 20;

std::string repeated(std::string_view text, std::size_t count) {
  std::string result;
  result.reserve(text.size() * count);
  for (std::size_t i = 0; i < count; ++i) result += text;
  return result;
}

TEST(HostileYaml, AnchorsAliasesAndMergeKeys_AreRefused) {
  constexpr std::string_view kMessage =
      "anchors and aliases (&name, *name) are not allowed; write the value out, or move it to "
      "\"defaults\"";
  EXPECT_EQ(error_of("experiment: e\ndefaults: &d {epochs: 1}\njobs: {a: *d}\n"),
            "ladder.yaml:2: " + std::string(kMessage));
  EXPECT_EQ(error_of("experiment: &x e\n"), "ladder.yaml:1: " + std::string(kMessage));
  EXPECT_EQ(error_of("experiment: *x\n"), "ladder.yaml:1: " + std::string(kMessage));
  EXPECT_EQ(error_of("jobs: &x [1]\n"), "ladder.yaml:1: " + std::string(kMessage));
  EXPECT_EQ(error_of("&x jobs: 1\n"), "ladder.yaml:1: " + std::string(kMessage));
  EXPECT_EQ(error_of("jobs: &x\n"), "ladder.yaml:1: " + std::string(kMessage));
  // Text that only looks like them.
  EXPECT_EQ(
      error_of("experiment: 'a&b *c'\njobs: {a: }"),
      "ladder.yaml:1: experiment is \"a&b *c\"; expected a name: a name has 1 to 128 characters "
      "out of letters, digits and . _ = -");

  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string below = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + below +
            repeated(", " + below, 9) + "]\n";
  }
  EXPECT_EQ(error_of(bomb), "ladder.yaml:1: " + std::string(kMessage));
}

TEST(HostileYaml, Tags_AreRefused) {
  EXPECT_EQ(error_of("experiment: !!str e\n"),
            "ladder.yaml:1: tag \"tag:yaml.org,2002:str\" is not allowed; remove it");
  EXPECT_EQ(
      error_of("experiment: e\njobs: !!python/object:os.system {}\n"),
      "ladder.yaml:2: tag \"tag:yaml.org,2002:python/object:os.system\" is not allowed; remove it");
  EXPECT_EQ(error_of("jobs: !mine [1]\n"),
            "ladder.yaml:1: tag \"!mine\" is not allowed; remove it");
  EXPECT_EQ(error_of("jobs: !!null\n"),
            "ladder.yaml:1: tag \"tag:yaml.org,2002:null\" is not allowed; remove it");
}

TEST(HostileYaml, DuplicateKeys_AreRefusedAtEveryLevel) {
  EXPECT_EQ(error_of("experiment: e\njobs: {a: }\nexperiment: f\n"),
            "ladder.yaml:3: key \"experiment\" is given twice, first in line 1; remove one");
  EXPECT_EQ(error_of("experiment: e\njobs:\n  a:\n    epochs: 1\n    epochs: 2\n"),
            "ladder.yaml:5: key \"epochs\" is given twice, first in line 4; remove one");
  EXPECT_EQ(error_of("experiment: e\njobs: {a: {sweep: {bits: [{weights: 1, \"weights\": 2}]}}}"),
            "ladder.yaml:2: key \"weights\" is given twice, first in line 2; remove one");
}

TEST(HostileYaml, OtherDocuments_AreRefused) {
  const std::string message =
      "a second document starts here; an experiment file is one mapping, remove the \"---\" or the "
      "text "
      "behind its end";
  EXPECT_EQ(error_of("experiment: e\njobs: {a: }\n---\nexperiment: f\n"),
            "ladder.yaml:3: " + message);
  EXPECT_EQ(error_of("---\nexperiment: e\n---\n"), "ladder.yaml:3: " + message);
  EXPECT_EQ(drawn(graph_of("---\nexperiment: e\njobs: {a: }\n...\n")), "a\n");
}

TEST(HostileYaml, EmptyOrOtherThanAMapping_IsRefused) {
  const std::string empty =
      "ladder.yaml: the file is empty; it needs \"experiment: NAME\" and \"jobs:\"";
  EXPECT_EQ(error_of(""), empty);
  EXPECT_EQ(error_of("\n\n"), empty);
  EXPECT_EQ(error_of("# only a comment\n"), empty);
  EXPECT_EQ(
      error_of("- a\n- b\n"),
      "ladder.yaml:1: the file is a list; expected a mapping with the keys experiment, defaults, "
      "replicate and jobs");
  EXPECT_EQ(error_of("\nhello\n"),
            "ladder.yaml:2: the file is \"hello\"; expected a mapping with the keys experiment, "
            "defaults, replicate and jobs");
  EXPECT_EQ(error_of("experiment: e\njobs: [a\n"),
            "ladder.yaml:3: not YAML: end of sequence flow not found (column 1)");
  EXPECT_EQ(
      error_of("? [a, b]\n: c\n"),
      "ladder.yaml:1: a list or a mapping stands where a key is expected; is a bracket or a colon "
      "missing?");
  EXPECT_EQ(error_of("~: c\n"), "ladder.yaml:1: a key is empty; keys are names");
}

TEST(HostileYaml, BytesThatAreNoText_AreRefused) {
  EXPECT_EQ(error_of(std::string_view("\x7f"
                                      "ELF\x02\x01",
                                      6)),
            "ladder.yaml:1: not a text file: byte 0 is control character 0x7f");
  EXPECT_EQ(error_of(std::string_view("experiment: e\njobs\0: 1", 22)),
            "ladder.yaml:2: not a text file: byte 18 is control character 0x00");
  // yaml-cpp would take this byte for the end of the file and accept the rest unread.
  EXPECT_EQ(error_of("experiment: e\njobs: {a: }\n\x04 junk"),
            "ladder.yaml:3: not a text file: byte 26 is control character 0x04");
  EXPECT_EQ(error_of("experiment: \xff\xfe\n"),
            "ladder.yaml:1: not a text file: byte 12 (0xff) is not UTF-8");
  for (const std::string_view wrong :
       {"\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf8",
        "\xc3", "\xe2\x82", "\x80"}) {
    EXPECT_THAT(error_of(wrong), testing::EndsWith("is not UTF-8")) << wrong;
  }
  // Byte order mark, carriage returns and letters of other languages are text.
  EXPECT_EQ(drawn(graph_of("\xef\xbb\xbf# für später 💡\r\nexperiment: e\r\njobs: {a: }\r\n")),
            "a\n");
}

TEST(HostileYaml, Nesting_HasALimit) {
  const auto nested = [](std::size_t levels) {
    return "experiment: e\njobs: {a: " + repeated("[", levels) + repeated("]", levels) + "}\n";
  };
  EXPECT_EQ(error_of(nested(30)), "ladder.yaml:2: job a is a list; expected a mapping of options");
  EXPECT_EQ(error_of(nested(31)), "ladder.yaml:2: nested deeper than 32 levels");
  EXPECT_EQ(
      error_of(repeated("[", 100'000)),
      "ladder.yaml:1: more than 1000 brackets are open; nesting may be at most 32 levels deep");
  EXPECT_EQ(
      error_of(repeated("{a: ", 100'000)),
      "ladder.yaml:1: more than 1000 brackets are open; nesting may be at most 32 levels deep");
  EXPECT_EQ(error_of(repeated("- ", 100'000) + "x"), "ladder.yaml:1: nested deeper than 32 levels");
  std::string indented;
  for (std::size_t i = 0; i < 1000; ++i) indented += repeated(" ", i) + "a:\n";
  EXPECT_EQ(error_of(indented), "ladder.yaml:33: nested deeper than 32 levels");
}

TEST(HostileYaml, Size_HasALimit) {
  const absl::Status status = parse(repeated("a", 4 * kMiB + 1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      message(status),
      "ladder.yaml: 4,194,305 bytes, the limit is 4,194,304; a sweep or a ladder says the same in "
      "a few lines");
}

TEST(HostileYaml, HugeFile_IsRefusedUnread) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "huge.yaml";
  std::ofstream(file).put('a');
  std::filesystem::resize_file(file, 100'000'000);
  const std::clock_t start = std::clock();
  const absl::Status status = load_experiment(file, {}).status();
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 0.05);
  std::filesystem::remove(file);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(message(status),
            file.string() +
                ": the file has 100,000,000 bytes, the limit is 4,194,304; a sweep or a "
                "ladder says the same in a few lines");
}

TEST(HostileYaml, AMebibyteOfAnything_EndsInAMessage) {
  for (const std::string_view piece :
       {"a", "a,", "- \n", "? ", ":", "!", "&a ", "%YAML 1.2\n", "\t", "\"", "'", "---\n", "|\n",
        "{},", "[],", "a: b\n", "# ", "*a\n"}) {
    const std::string text = repeated(piece, kMiB / piece.size());
    const absl::Status status = parse(text).status();
    EXPECT_FALSE(status.ok()) << piece;
    EXPECT_LT(message(status).size(), 1000U) << piece;
  }
  const absl::Status status = parse("[" + repeated(",", 4 * kMiB - 2) + "]").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(message(status),
            "ladder.yaml:1: more than 1,000,000 values; a sweep says the same in fewer");
}

}  // namespace
}  // namespace bitrung::client
