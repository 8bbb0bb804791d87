// Which server a command talks to, and for how long that server lives.
//
// --server or --login (or BITRUNG_SERVER, BITRUNG_LOGIN) wins. Otherwise the state directory
// decides, if one was named or one is there: its socket if somebody answers there, else a private
// server for the duration of the command if the directory holds a database. Otherwise the saved
// login names the server, else there is none. Main thread only.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/child_process.h"
#include "client/cli/connection.h"
#include "client/cli/signals.h"
#include "client/cli/state_directory.h"
#include "db/base/login_file.h"

namespace bitrung::cli {

struct ServerChoice {
  std::optional<std::string> address;  // Set when a server is named.
  std::optional<LoginFile> login;      // For a server over TLS.
  StateDirectory state_directory;
};

// Whether a saved login may choose the server where nothing names one.
enum class SavedLogin { kMayChoose, kMayNotChoose };

// From the options, the environment and what is there; reads the login file.
absl::StatusOr<ServerChoice> choose_server(const Arguments& arguments,
                                           SavedLogin saved = SavedLogin::kMayChoose);

class Session {
 public:
  // Connects, starting a private server if the rule says so, and makes sure that a bitrung server
  // answers: UNAVAILABLE within kProbeDeadline if not; NOT_FOUND if there is neither a server nor a
  // state directory.
  static absl::StatusOr<std::unique_ptr<Session>> open(const ServerChoice& choice);

  // As open, but nothing (null) where open would say NOT_FOUND.
  static absl::StatusOr<std::unique_ptr<Session>> open_if_any(const ServerChoice& choice);

  ~Session();

  Connection& connection() { return *connection_; }
  std::shared_ptr<Connection> shared_connection() { return connection_; }

 private:
  Session() = default;

  std::shared_ptr<Connection> connection_;
  std::optional<ChildProcess> server_;  // Ours alone; stopped with the session.
};

// A connection to the socket of the directory after checking that a bitrung server answers.
absl::StatusOr<std::shared_ptr<Connection>> connect_to_socket(const StateDirectory& directory);

}  // namespace bitrung::cli
