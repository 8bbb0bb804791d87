// What touches this machine only: state directories, login files, exit codes, restarts, child
// processes.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "client/cli/child_process.h"
#include "client/cli/connection.h"
#include "client/cli/exit_code.h"
#include "client/cli/login.h"
#include "client/cli/private_programs.h"
#include "client/cli/session.h"
#include "client/cli/state_directory.h"
#include "db/base/certificates.h"
#include "db/base/digest.h"
#include "db/base/login_file.h"
#include "db/base/secret.h"
#include "db/base/status.h"
#include "tests/unit/client/cli/temporary.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(StateDirectory, ShortPath_KeepsTheSocketInside) {
  const TemporaryFolder folder;
  const StateDirectory directory(folder.path() / "state" / ".." / "state/");
  EXPECT_EQ(directory.path, folder.path() / "state");
  EXPECT_EQ(directory.socket(), folder.path() / "state" / "server.sock");
  EXPECT_FALSE(directory.socket_answers());
  EXPECT_TRUE(directory.create().ok());
  EXPECT_TRUE(fs::is_directory(folder.path() / "state" / "logs"));
}

TEST(StateDirectory, LongPath_GetsAShortSocketOfItsOwn) {
  const TemporaryFolder folder;
  const EnvironmentVariable runtime("XDG_RUNTIME_DIR", folder.path().string());
  const StateDirectory directory(folder.path() / std::string(120, 'x'));
  const fs::path parent = folder.path() / ("bitrung-" + std::to_string(::getuid()));
  EXPECT_EQ(directory.socket(),
            parent / (sha256(directory.path.string()).hex().substr(0, 16) + ".sock"));
  ASSERT_TRUE(directory.create().ok());
  struct stat info {};
  ASSERT_EQ(::stat(parent.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);

  // Somebody else could have made it to listen in our place.
  fs::permissions(parent, fs::perms::all);
  const absl::Status status = directory.create();
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
  EXPECT_EQ(exit_code(status), ExitCode::kRefused);
}

TEST(StateDirectory, RelativePath_NamesTheSameBeforeAndAfterItExists) {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  const StateDirectory absent(std::string(120, 'r'));
  EXPECT_TRUE(absent.create().ok());
  const StateDirectory present(std::string(120, 'r'));
  EXPECT_TRUE(absent.path.is_absolute());
  EXPECT_EQ(absent.path, present.path);
  EXPECT_EQ(absent.socket(), present.socket());
  fs::current_path(before);
}

LoginFile sample_login() {
  const auto authority = make_issuing_authority(
      "test", {.from_ms = 1'800'000'000'000, .lifetime = std::chrono::hours(1)});
  return {.kind = LoginFile::Kind::kLogin,
          .server = "lab:7420",
          .authority_pem = authority->certificate_pem,
          .token = make_secret().text};
}

TEST(LoginFile, IsTakenOnlyWhenItIsPrivateAndWhole) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "anna.login";
  const LoginFile login = sample_login();
  ASSERT_TRUE(write_login_file(file, login).ok());
  const absl::StatusOr<LoginFile> read = read_login_file(file, LoginFile::Kind::kLogin);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->server, login.server);
  EXPECT_EQ(read->authority_pem, login.authority_pem);
  EXPECT_EQ(read->token, login.token);
  const absl::Status other = read_login_file(file, LoginFile::Kind::kEnrolment).status();
  EXPECT_TRUE(absl::IsInvalidArgument(other));
  EXPECT_NE(message(other).find("used by \"bitrung login FILE\""), std::string_view::npos) << other;

  fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read);
  const absl::Status open = read_login_file(file, LoginFile::Kind::kLogin).status();
  EXPECT_TRUE(absl::IsPermissionDenied(open));
  EXPECT_NE(message(open).find("has mode 0640"), std::string_view::npos) << open;
  EXPECT_TRUE(
      absl::IsNotFound(read_login_file(folder.path() / "none", LoginFile::Kind::kLogin).status()));
  for (const char* bad : {"", "{}", "[1]", R"({"bitrung":"login"})",
                          R"({"bitrung":"login","server":"a:1","authority":"x","token":"y"})"}) {
    const fs::path wrong = folder.path() / "wrong";
    std::ofstream(wrong) << bad;
    fs::permissions(wrong, fs::perms::owner_read | fs::perms::owner_write);
    const absl::Status status = read_login_file(wrong, LoginFile::Kind::kLogin).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad << status;
  }
}

TEST(ChooseServer, NamedThenLocalThenSaved) {
  const TemporaryFolder folder;
  const EnvironmentVariable config("XDG_CONFIG_HOME", folder.path().string());
  const EnvironmentVariable server("BITRUNG_SERVER", "");
  const EnvironmentVariable file("BITRUNG_LOGIN", "");
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  EXPECT_FALSE(choose_server({})->address);
  LoginFile login = sample_login();
  ASSERT_TRUE(save_login(login).ok());
  EXPECT_EQ(choose_server({})->address, "lab:7420");
  EXPECT_FALSE(choose_server({}, SavedLogin::kMayNotChoose)->address);

  Arguments arguments;
  arguments.options["--server"] = {"other:1"};
  EXPECT_EQ(choose_server(arguments)->address, "other:1");
  EXPECT_EQ(choose_server(arguments)->login->token, login.token);
  const EnvironmentVariable named("BITRUNG_SERVER", "env:2");
  EXPECT_EQ(choose_server({})->address, "env:2");
  arguments.options = {{"--state-dir", {"here"}}};
  EXPECT_FALSE(choose_server(arguments)->address);

  login.server = "third:3";
  ASSERT_TRUE(write_login_file(folder.path() / "third.login", login).ok());
  arguments.options = {{"--login", {(folder.path() / "third.login").string()}}};
  EXPECT_EQ(choose_server(arguments)->address, "third:3");
  {
    const EnvironmentVariable unset("BITRUNG_SERVER", "");
    EXPECT_EQ(choose_server({})->address, "lab:7420");
    fs::create_directory(".bitrung");  // What runs here is nearer than a saved login.
    EXPECT_FALSE(choose_server({})->address);
  }
  ASSERT_TRUE(forget_login().ok());
  ASSERT_TRUE(forget_login().ok());
  fs::current_path(before);
}

TEST(Address, OnlyUnixAndHostWithPort) {
  const LoginFile login = sample_login();
  for (const char* good :
       {"unix:/run/x.sock", "unix:rel.sock", "127.0.0.1:7410", "[::1]:80", "host:1"}) {
    EXPECT_TRUE(Connection::make(good, login).ok()) << good;
  }
  for (const char* bad : {"", "unix:", "host", "host:", ":80", "host:0", "host:65536", "host:8o",
                          "http://host:80", "host:123456"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Connection::make(bad, login).status())) << bad;
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(Connection::make("unix:/" + std::string(107, 'x'), login).status()));
}

TEST(ServerChoice, CommandLineBeforeEnvironment) {
  const EnvironmentVariable server("BITRUNG_SERVER", "unix:/from/environment");
  EXPECT_EQ(choose_server({})->address, "unix:/from/environment");
  Arguments named;
  named.options["--server"] = {"host:1"};
  EXPECT_EQ(choose_server(named)->address, "host:1");
  Arguments directory;
  directory.options["--state-dir"] = {"/tmp"};
  EXPECT_EQ(choose_server(directory)->address, std::nullopt);
}

TEST(ExitCode, EveryStatusHasOne) {
  EXPECT_EQ(exit_code(absl::OkStatus()), ExitCode::kDone);
  EXPECT_EQ(exit_code(absl::InvalidArgumentError("")), ExitCode::kUsage);
  EXPECT_EQ(exit_code(absl::NotFoundError("")), ExitCode::kNotFound);
  EXPECT_EQ(exit_code(absl::UnauthenticatedError("")), ExitCode::kNotAuthenticated);
  EXPECT_EQ(exit_code(absl::PermissionDeniedError("")), ExitCode::kRefused);
  EXPECT_EQ(exit_code(absl::ResourceExhaustedError("")), ExitCode::kRefused);
  EXPECT_EQ(exit_code(absl::UnavailableError("")), ExitCode::kUnreachable);
  EXPECT_EQ(exit_code(absl::DeadlineExceededError("")), ExitCode::kUnreachable);
  EXPECT_EQ(exit_code(absl::CancelledError("")), ExitCode::kInterrupted);
  EXPECT_EQ(exit_code(absl::InternalError("")), ExitCode::kFailed);
  // A full or forbidden disk is neither "unreachable" nor "refused".
  EXPECT_EQ(exit_code(local_error(absl::UnavailableError(""))), ExitCode::kFailed);
  EXPECT_EQ(exit_code(local_error(absl::PermissionDeniedError(""))), ExitCode::kFailed);
  EXPECT_EQ(exit_code(local_error(absl::NotFoundError(""))), ExitCode::kNotFound);
}

TEST(RestartPolicy, FirstAtOnceThenLaterThenNever) {
  RestartPolicy policy;
  const RestartPolicy::Clock::time_point start{seconds(1000)};
  EXPECT_EQ(policy.died(start), start);
  EXPECT_EQ(policy.died(start + seconds(1)), start + milliseconds(1500));
  EXPECT_EQ(policy.died(start + seconds(2)), start + seconds(3));
  EXPECT_EQ(policy.died(start + seconds(3)), start + seconds(5));
  EXPECT_EQ(policy.died(start + seconds(4)), std::nullopt);
}

TEST(RestartPolicy, OldDeathsAreForgotten) {
  RestartPolicy policy;
  RestartPolicy::Clock::time_point now{seconds(1000)};
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(policy.died(now), now) << i;
    now += RestartPolicy::kWindow;
  }
}

TEST(ChildProcess, LogsPipesAndEnds) {
  const TemporaryFolder folder;
  const fs::path log = folder.path() / "log";
  auto child = ChildProcess::start(
      {"/bin/sh", "-c", "echo out; echo words >&2; echo '  ' >&2; exit 3"}, log, true);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_TRUE(child->wait(seconds(20)));
  EXPECT_EQ(child->ended(), "exit code 3");
  char bytes[16] = {};
  EXPECT_EQ(::read(child->output(), bytes, sizeof bytes), 4);
  EXPECT_EQ(last_line(log), "words");
  EXPECT_EQ(last_line(folder.path() / "none"), "");
}

TEST(ChildProcess, StopAsksFirstAndKillsAfterwards) {
  const TemporaryFolder folder;
  const fs::path log = folder.path() / "log";
  auto polite = ChildProcess::start(
      {"/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"}, log, true);
  ASSERT_TRUE(polite.ok());
  char bytes[16] = {};
  EXPECT_EQ(::read(polite->output(), bytes, sizeof bytes), 6);
  polite->stop(seconds(20));
  EXPECT_EQ(polite->ended(), "exit code 0");

  auto stubborn = ChildProcess::start(
      {"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"}, log, true);
  ASSERT_TRUE(stubborn.ok());
  EXPECT_EQ(::read(stubborn->output(), bytes, sizeof bytes), 6);
  stubborn->stop(milliseconds(100));
  EXPECT_EQ(stubborn->ended(), "signal 9");
}

TEST(ChildProcess, AMissingProgramIsAnError) {
  const TemporaryFolder folder;
  const auto child = ChildProcess::start({"/no/such/program"}, folder.path() / "log", false);
  EXPECT_TRUE(absl::IsNotFound(child.status())) << child.status();
  const auto found = find_program("bitrung-no-such-program");
  EXPECT_TRUE(absl::IsNotFound(found.status()));
}

}  // namespace
}  // namespace bitrung::cli
