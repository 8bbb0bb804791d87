#include "client/cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "client/cli/environment.h"
#include "client/cli/login.h"
#include "client/cli/private_programs.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::chrono::seconds kServerStopPatience{10};

absl::StatusOr<std::shared_ptr<Connection>> connect(const std::string& address,
                                                    const std::optional<LoginFile>& login) {
  BITRUNG_ASSIGN_OR_RETURN(std::shared_ptr<Connection> connection,
                           Connection::make(address, login));
  const absl::StatusOr<v1::GetServerResponse> server = connection->get_server();
  if (!server.ok()) return server.status();
  return connection;
}

}  // namespace

absl::StatusOr<ServerChoice> choose_server(const Arguments& arguments, SavedLogin saved) {
  ServerChoice choice{
      .address = arguments.value("--server"),
      .login = {},
      .state_directory = StateDirectory(arguments.value("--state-dir").value_or(".bitrung"))};
  std::optional<std::string> file = arguments.value("--login");
  // A state directory named on the command line is nearer than a server named in the environment.
  if (!arguments.has("--state-dir")) {
    if (!choice.address && !file) choice.address = environment("BITRUNG_SERVER");
    if (!file) file = environment("BITRUNG_LOGIN");
  }
  if (file) {
    const absl::StatusOr<LoginFile> login = read_login_file(*file, LoginFile::Kind::kLogin);
    if (!login.ok()) return login.status();
    choice.login = *login;
    if (!choice.address) choice.address = login->server;
    return choice;
  }
  std::error_code error;
  const bool is_local =
      arguments.has("--state-dir") || std::filesystem::exists(choice.state_directory.path, error);
  const bool is_unix = choice.address && choice.address->starts_with("unix:");
  if (is_unix || (!choice.address && (is_local || saved == SavedLogin::kMayNotChoose)))
    return choice;
  BITRUNG_ASSIGN_OR_RETURN(choice.login, load_saved_login());
  if (!choice.address && choice.login) choice.address = choice.login->server;
  return choice;
}

absl::StatusOr<std::shared_ptr<Connection>> connect_to_socket(const StateDirectory& directory) {
  return connect("unix:" + directory.socket().string(), {});
}

absl::StatusOr<std::unique_ptr<Session>> Session::open_if_any(const ServerChoice& choice) {
  auto session = std::unique_ptr<Session>(new Session);
  if (choice.address) {
    BITRUNG_ASSIGN_OR_RETURN(session->connection_, connect(*choice.address, choice.login));
    return session;
  }
  const StateDirectory& directory = choice.state_directory;
  if (!directory.socket_answers()) {
    std::error_code error;
    if (!std::filesystem::exists(directory.database(), error)) return std::unique_ptr<Session>();
    absl::StatusOr<ChildProcess> server = start_private_server(directory, nullptr);
    if (server.ok()) {
      session->server_ = *std::move(server);
    } else if (!directory.socket_answers()) {  // Else another command was faster: its server does.
      return server.status();
    }
  }
  BITRUNG_ASSIGN_OR_RETURN(session->connection_,
                           connect("unix:" + directory.socket().string(), {}));
  return session;
}

absl::StatusOr<std::unique_ptr<Session>> Session::open(const ServerChoice& choice) {
  BITRUNG_ASSIGN_OR_RETURN(std::unique_ptr<Session> session, open_if_any(choice));
  if (session == nullptr) {
    return absl::NotFoundError(fmt::format(
        "no server and no state directory: {} holds no bitrung.db; start with "
        "\"bitrung run FILE\", or name a directory "
        "with --state-dir DIR, a server with --server ADDRESS, or log in with \"bitrung "
        "login FILE\"",
        choice.state_directory.path.string()));
  }
  return session;
}

Session::~Session() {
  if (server_) server_->stop(kServerStopPatience);
}

}  // namespace bitrung::cli
