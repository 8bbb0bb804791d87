#include "server/init_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "db/base/address.h"
#include "db/base/certificates.h"
#include "db/base/login_file.h"
#include "db/base/status.h"
#include "server/auth/access_control.h"

namespace bitrung {
namespace {

struct Options {
  std::filesystem::path state_directory;
  std::string address;
  std::vector<std::string> hosts;
};

absl::Status init(const Options& options) {
  BITRUNG_ASSIGN_OR_RETURN(const Address address, parse_address(options.address));
  if (address.is_unix()) {
    return absl::InvalidArgumentError(fmt::format(
        "--address {}: name the host and the port that clients and workers connect to, as in "
        "lab.example.org:7420; the unix socket needs no authority",
        options.address));
  }
  std::vector<std::string> hosts{address.host};
  for (const std::string& host : options.hosts) hosts.push_back(host);
  for (const char* local : {"localhost", "127.0.0.1", "::1"}) hosts.emplace_back(local);
  std::vector<std::string> unique;
  for (std::string& host : hosts) {
    if (std::ranges::find(unique, host) == unique.end()) unique.push_back(std::move(host));
  }

  const auth::Clocks clocks = auth::system_clocks();
  BITRUNG_ASSIGN_OR_RETURN(
      const auth::NewToken token,
      auth::make_authority(options.state_directory, options.address, unique, clocks));
  BITRUNG_ASSIGN_OR_RETURN(const auth::ServerIdentity identity,
                           auth::load_server_identity(options.state_directory, clocks));
  const std::filesystem::path login = options.state_directory / "admin.login";
  BITRUNG_RETURN_IF_ERROR(write_login_file(login, {.kind = LoginFile::Kind::kLogin,
                                                   .server = options.address,
                                                   .authority_pem = identity.authority_pem,
                                                   .token = token.text}));
  BITRUNG_ASSIGN_OR_RETURN(const std::string fingerprint,
                           certificate_fingerprint(identity.authority_pem));
  fmt::print(
      "made an authority in {}\n"
      "  its certificate has SHA-256 fingerprint {}\n"
      "  the server is known as {}\n"
      "start it:       bitrung-server --state-dir {} --listen 0.0.0.0:{}\n"
      "log in:         bitrung login {}\n"
      "                (a token of an admin, valid for 90 days; keep the file secret or remove "
      "it)\n"
      "let people in:  bitrung token create NAME --role submitter\n"
      "add workers:    bitrung enrol NAME\n",
      auth::AuthorityFiles(options.state_directory).directory.string(), fingerprint,
      fmt::join(unique, ", "), options.state_directory.string(), address.port, login.string());
  return absl::OkStatus();
}

}  // namespace

void add_init_command(CLI::App& app, std::function<int()>& chosen) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "init",
      "Makes a private certificate authority, the server's certificate and the first token, of an "
      "admin.\nA server that listens on TCP needs them; a unix socket does not.");
  command->add_option("--state-dir", options->state_directory, "The server's state directory")
      ->required();
  command
      ->add_option("--address", options->address,
                   "HOST:PORT by which clients and workers reach the server")
      ->required();
  command
      ->add_option("--host", options->hosts,
                   "Another name or address of the server; repeatable (localhost, 127.0.0.1 and "
                   "::1 always are)")
      ->allow_extra_args(false);
  command->footer(
      "Examples:\n"
      "  bitrung-server init --state-dir /srv/bitrung --address lab.example.org:7420\n"
      "  bitrung-server init --state-dir /srv/bitrung --address lab:7420 --host 10.0.0.5\n\n"
      "The token lies in STATE_DIR/admin.login (mode 0600), to be used once by \"bitrung login\". "
      "If every admin's token\nis lost, make one through the unix socket: bitrung token create "
      "NAME --role admin --server unix:PATH.");
  command->callback([&chosen, options] {
    chosen = [options] {
      const absl::Status status = init(*options);
      if (status.ok()) return 0;
      fmt::print(stderr, "bitrung-server: {}\n", message(status));
      return absl::IsInvalidArgument(status) ? 2 : 1;
    };
  });
}

}  // namespace bitrung
