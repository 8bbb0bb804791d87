// Words in, arguments or one clear message out; help and completion from the same table.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "client/cli/cli.h"
#include "client/cli/completion.h"
#include "client/cli/references.h"
#include "db/base/status.h"
#include "tests/unit/client/cli/golden.h"
#include "tests/unit/client/cli/sample.h"

namespace bitrung::cli {
namespace {

struct Output {
  int code = 0;
  std::string out;
  std::string err;
};

Output run_words(const std::vector<std::string>& words) {
  std::ostringstream out;
  std::ostringstream err;
  Streams streams{out, err, {}, {}};
  Output output;
  output.code = run_cli(words, streams);
  output.out = out.str();
  output.err = err.str();
  return output;
}

const CommandSpec& command_named(std::string_view name) {
  for (const CommandSpec& command : command_table()) {
    if (command.name == name) return command;
  }
  ADD_FAILURE() << "no command " << name;
  return command_table().front();
}

TEST(Parse, OptionsAndArgumentsInAnyOrder) {
  const auto parsed = parse_arguments(
      command_named("run"), {"--set", "a.b=1", "file.yaml", "--set=c=[32, 4]", "-o", "json", "-q"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const Arguments& arguments = **parsed;
  EXPECT_EQ(arguments.positionals, std::vector<std::string>{"file.yaml"});
  EXPECT_EQ(arguments.values("--set"), (std::vector<std::string>{"a.b=1", "c=[32, 4]"}));
  EXPECT_EQ(arguments.value("--output"), "json");
  EXPECT_TRUE(arguments.has("--quiet"));
  EXPECT_FALSE(arguments.has("--state-dir"));
  EXPECT_EQ(arguments.output_mode(true), OutputMode::kJson);
}

TEST(Parse, AFileWhoseNameBeginsWithADash) {
  const auto parsed = parse_arguments(command_named("plan"), {"--", "-file.yaml"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->positionals, std::vector<std::string>{"-file.yaml"});
}

TEST(Parse, DefaultForm_IsTextOnATerminalAndTsvOnAPipe) {
  const Arguments arguments;
  EXPECT_EQ(arguments.output_mode(true), OutputMode::kText);
  EXPECT_EQ(arguments.output_mode(false), OutputMode::kTsv);
}

TEST(Parse, EachMistake_GivesOneLineAndTheUsageCode) {
  struct Case {
    std::vector<std::string> words;
    std::string message;
  };
  const std::vector<Case> cases{
      {{"rnu", "x"}, "unknown command \"rnu\"; did you mean \"bitrung run\"?"},
      {{"frobnicate"}, "unknown command \"frobnicate\"; see bitrung --help"},
      {{"--server", "x", "list"},
       "unknown option --server; options come after the command: bitrung COMMAND --server"},
      {{"run"}, "FILE is missing: bitrung run FILE [OPTIONS]; see bitrung run --help"},
      {{"run", "a.yaml", "b.yaml"}, "unexpected argument \"b.yaml\"; see bitrung run --help"},
      {{"list", "--outptu", "json"},
       "unknown option --outptu; did you mean --output?; see bitrung list --help"},
      {{"list", "--zzzzzz"}, "unknown option --zzzzzz; see bitrung list --help"},
      {{"list", "--output", "xml"},
       "--output \"xml\" is none of text, tsv, json; see bitrung list --help"},
      {{"list", "--output", "jsn"},
       "--output \"jsn\" is none of text, tsv, json; did you mean json?; see bitrung list --help"},
      {{"list", "--output"}, "--output needs a value: --output FORM; see bitrung list --help"},
      {{"list", "--limit", "-1"}, "--limit -1: a whole number from 0 to 1000000 is expected"},
      {{"list", "--limit", "ten"}, "--limit ten: a whole number from 0 to 1000000 is expected"},
      {{"list", "--limit", "1", "--limit", "2"},
       "--limit is given 2 times, once is expected; see bitrung list --help"},
      {{"completion", "tcsh"},
       "SHELL \"tcsh\" is none of bash, zsh, fish; see bitrung completion --help"},
      {{"data", "fech", "cifar10"},
       "ACTION \"fech\" is none of fetch, list, check; did you mean fetch?; see bitrung data "
       "--help"},
      {{"data", "fetch"}, "which data set? bitrung data fetch cifar10, or cifar100"},
      {{"status", ""}, "an argument is empty; see bitrung status --help"},
      {{"list", "--server", "nonsense"},
       "address \"nonsense\": write unix:PATH or HOST:PORT, as in 10.0.0.5:7420"},
      {{"cancel", "3/a", "4/b", "--server", "127.0.0.1:1"},
       "jobs of two experiments, 3 and 4; one command takes jobs of one"},
  };
  for (const Case& one : cases) {
    const Output output = run_words(one.words);
    EXPECT_EQ(output.err, "bitrung: " + one.message + "\n");
    EXPECT_EQ(output.code, 2) << one.message;
    EXPECT_EQ(output.out, "");
  }
}

TEST(Parse, NoWords_ShowTheOverviewAsAMistake) {
  const Output output = run_words({});
  EXPECT_EQ(output.code, 2);
  EXPECT_EQ(output.out, "");
  EXPECT_EQ(output.err, overview(kPlainStyle));
}

TEST(Help, OverviewAndRun) {
  EXPECT_TRUE(matches_golden("help.txt", run_words({"--help"}).out));
  EXPECT_TRUE(matches_golden("help_run.txt", run_words({"run", "--help"}).out));
  EXPECT_EQ(run_words({"help", "run"}).out, run_words({"run", "-h"}).out);
  EXPECT_EQ(run_words({"help"}).code, 0);
}

TEST(Help, EveryCommandHasSummaryExamplesAndUniqueOptions) {
  const std::set<std::string_view> expected{
      "run",     "plan",   "submit",  "list",    "status",     "watch",   "wait",
      "results", "logs",   "metrics", "options", "explain",    "cancel",  "retry",
      "workers", "drain",  "data",    "version", "completion", "compare", "inspect",
      "export",  "import", "login",   "token",   "enrol",      "audit"};
  std::set<std::string_view> names;
  for (const CommandSpec& command : command_table()) {
    names.insert(command.name);
    EXPECT_FALSE(command.summary.empty());
    EXPECT_FALSE(command.examples.empty()) << command.name;
    EXPECT_NE(command.function, nullptr);
    std::set<std::string_view> options;
    std::set<char> letters;
    for (const OptionSpec& option : command.options) {
      EXPECT_TRUE(option.name.starts_with("--"));
      EXPECT_TRUE(options.insert(option.name).second) << command.name << option.name;
      EXPECT_TRUE(option.letter == '\0' || letters.insert(option.letter).second);
      EXPECT_FALSE(option.help.empty());
    }
    const std::string help = command_help(command, kPlainStyle);
    for (const Example& example : command.examples) {
      EXPECT_NE(help.find(example.line), std::string::npos);
    }
    EXPECT_EQ(run_words({std::string(command.name), "--help"}).code, 0);
  }
  EXPECT_EQ(names, expected);
}

TEST(Completion, ScriptsNameEveryCommandAndOption) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = completion_script(shell);
    for (const CommandSpec& command : command_table()) {
      EXPECT_NE(script.find(command.name), std::string::npos) << shell << command.name;
      for (const OptionSpec& option : command.options) {
        EXPECT_NE(script.find(option.name.substr(2)), std::string::npos) << shell << option.name;
      }
    }
  }
  EXPECT_EQ(completion_script("tcsh"), "");
  EXPECT_TRUE(matches_golden("completion.bash", completion_script("bash")));
  EXPECT_TRUE(matches_golden("completion.fish", completion_script("fish")));
  EXPECT_TRUE(matches_golden("completion.zsh", completion_script("zsh")));
}

// Runs the script in a bash and asks it for completions of the words.
std::string completed_by_bash(const std::string& words) {
  const std::string script = std::string(BITRUNG_GOLDEN_DIR) + "/completion.bash";
  const std::string command =
      "bash --norc -c 'source " + script + "; COMP_WORDS=(" + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _bitrung; echo \"${COMPREPLY[*]}\"' 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  std::string text;
  char buffer[512];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) text += buffer;
  ::pclose(pipe);
  return text;
}

TEST(Completion, BashOffersWhatFits) {
  EXPECT_EQ(completed_by_bash("bitrung re"), "results retry\n");
  EXPECT_EQ(completed_by_bash("bitrung run --s"), "--set --slots --server --state-dir\n");
  EXPECT_EQ(completed_by_bash("bitrung list --output \"\""), "text tsv json\n");
  EXPECT_EQ(completed_by_bash("bitrung list -o j"), "json\n");
  EXPECT_EQ(completed_by_bash("bitrung data f"), "fetch\n");
  EXPECT_EQ(completed_by_bash("bitrung completion \"\""), "bash zsh fish\n");
  EXPECT_EQ(completed_by_bash("bitrung run --set \"\""), "\n");
}

TEST(References, JobsAsPeopleNameThem) {
  const auto text = [](const std::vector<std::string>& words,
                       const std::optional<std::string>& experiment = {}) {
    const auto references = parse_job_references(words, experiment);
    if (!references.ok()) return std::string(message(references.status()));
    std::string joined;
    for (const v1::JobReference& reference : *references) {
      joined += "<" + reference.experiment() + "|" + reference.job() + ">";
    }
    return joined;
  };
  EXPECT_EQ(text({"3/alone.bits=4"}), "<3|alone.bits=4>");
  EXPECT_EQ(text({"ladder", "alone.bits=4"}), "<ladder|alone.bits=4>");
  EXPECT_EQ(text({"alone.bits=4"}), "<|alone.bits=4>");  // Of the newest.
  EXPECT_EQ(text({"a", "b"}, "3"), "<3|a><3|b>");
  EXPECT_EQ(text({"3/a", "3/b", "4/c"}), "<3|a><3|b><4|c>");
  EXPECT_EQ(text({"3/a", "b"}, "5"), "<3|a><5|b>");
  EXPECT_EQ(text({"/a"}), "\"/a\" names no job; EXPERIMENT/JOB is expected, e.g. 3/alone.bits=4");
  EXPECT_EQ(text({"3/"}), "\"3/\" names no job; EXPERIMENT/JOB is expected, e.g. 3/alone.bits=4");
  EXPECT_EQ(text({"1/2/3"}),
            "\"1/2/3\" names no job; EXPERIMENT/JOB is expected, e.g. 3/alone.bits=4");
}

TEST(References, SelectionsForCancelAndRetry) {
  const auto all = parse_selection({"ladder"});
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->experiment, "ladder");
  EXPECT_TRUE(all->jobs.empty());
  const auto some = parse_selection({"3", "a", "3/b"});
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(some->experiment, "3");
  EXPECT_EQ(some->jobs, (std::vector<std::string>{"a", "b"}));
}

}  // namespace
}  // namespace bitrung::cli
