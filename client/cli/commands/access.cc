// Commands about who may use a server: login, token, enrol, audit.
#include <chrono>
#include <filesystem>
#include <ostream>

#include <fmt/format.h>

#include "client/cli/commands/commands.h"
#include "client/cli/json_shapes.h"
#include "client/cli/login.h"
#include "client/cli/render_access.h"
#include "client/cli/session.h"
#include "db/base/login_file.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kDaysMax = 366;
constexpr std::size_t kAuditDefault = 50;
constexpr std::size_t kAuditMax = 1'000'000;

void print_login(const v1::WhoAmIResponse& who, const std::string& server, OutputMode mode,
                 Streams& streams) {
  switch (mode) {
    case OutputMode::kText: {
      const auto left = who.expires_at_ms() - wall_clock_ms();
      streams.out << fmt::format(
          "logged in at {} as {} ({}{})\n", server, printable(who.name()), who.role(),
          who.expires_at_ms() == 0
              ? std::string()
              : fmt::format(", for {}", format_duration(static_cast<double>(left) / 1000)));
      break;
    }
    case OutputMode::kTsv:
      streams.out << tsv_line({"server", "name", "role", "expires_at_ms"})
                  << tsv_line(
                         {server, who.name(), who.role(), fmt::format("{}", who.expires_at_ms())});
      break;
    case OutputMode::kJson: {
      Json json;
      json["server"] = server;
      json["name"] = who.name();
      json["role"] = who.role();
      json["expires_at_ms"] = who.expires_at_ms() == 0 ? Json(nullptr) : Json(who.expires_at_ms());
      streams.out << json_text(json);
      break;
    }
  }
}

// The file to write a secret to: --out, or NAME with the ending, never one that is there.
absl::StatusOr<fs::path> secret_file(const Arguments& arguments, const std::string& name,
                                     std::string_view ending) {
  const fs::path file = arguments.value("--out").value_or(fmt::format("{}.{}", name, ending));
  std::error_code error;
  if (!fs::exists(file, error)) return file;
  return absl::AlreadyExistsError(
      fmt::format("{} is there already; name another file with --out", file.string()));
}

absl::StatusOr<ExitCode> create_token(const Arguments& arguments, Streams& streams) {
  if (arguments.positionals.size() < 2)
    return absl::InvalidArgumentError("token create needs a NAME, e.g. bitrung token create anna");
  const std::string& name = arguments.positionals[1];
  BITRUNG_ASSIGN_OR_RETURN(const auto days, arguments.number("--days", 1, kDaysMax));
  BITRUNG_ASSIGN_OR_RETURN(const fs::path file, secret_file(arguments, name, "login"));
  v1::CreateTokenRequest request;
  request.set_name(name);
  request.set_role(arguments.value("--role").value_or("submitter"));
  if (days) request.set_lifetime_seconds(static_cast<std::uint32_t>(*days * 86'400));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const v1::CreateTokenResponse made,
                           session->connection().create_token(request));
  BITRUNG_RETURN_IF_ERROR(local_error(write_login_file(file, {.kind = LoginFile::Kind::kLogin,
                                                              .server = made.address(),
                                                              .authority_pem = made.authority_pem(),
                                                              .token = made.token()})));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  if (mode != OutputMode::kText) {
    streams.out << render_tokens({made.facts()}, mode, streams.out_terminal.style, wall_clock_ms());
    return ExitCode::kDone;
  }
  streams.out << fmt::format(
      "{} may use {} as {} for {}; the token is in {} and nowhere else\n"
      "next: give {} the file by a safe way, then: bitrung login {}\n",
      name, made.address(), made.facts().role(),
      format_duration(
          static_cast<double>(made.facts().expires_at_ms() - made.facts().created_at_ms()) / 1000),
      file.string(), name, file.filename().string());
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> revoke_token(const Arguments& arguments, Streams& streams) {
  if (arguments.positionals.size() < 2) {
    return absl::InvalidArgumentError(
        "token revoke needs the ID of a token; \"bitrung token list\" shows them");
  }
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const v1::Token token,
                           session->connection().revoke_token(arguments.positionals[1]));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  if (mode != OutputMode::kText) {
    streams.out << render_tokens({token}, mode, streams.out_terminal.style, wall_clock_ms());
    return ExitCode::kDone;
  }
  streams.out << fmt::format("token {} of {} is revoked\n", token.id(), printable(token.name()));
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> revoke_worker(const Arguments& arguments, Streams& streams) {
  const std::string& worker = arguments.positionals.front();
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const std::uint32_t revoked,
                           session->connection().revoke_worker(worker));
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kText:
      streams.out << (revoked == 0
                          ? fmt::format("worker {} had no valid certificate\n", worker)
                          : fmt::format("worker {} is let in no more; its jobs go to others when "
                                        "their leases end\n",
                                        worker));
      break;
    case OutputMode::kTsv:
      streams.out << tsv_line({"revoked"}) << tsv_line({fmt::format("{}", revoked)});
      break;
    case OutputMode::kJson: {
      Json json;
      json["revoked"] = revoked;
      streams.out << json_text(json);
      break;
    }
  }
  return ExitCode::kDone;
}

}  // namespace

absl::StatusOr<ExitCode> login_command(const Arguments& arguments, Streams& streams) {
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  if (arguments.has("--forget")) {
    BITRUNG_RETURN_IF_ERROR(forget_login());
    if (mode == OutputMode::kText) {
      streams.out << fmt::format(
          "{} is removed; the token itself is valid until it is revoked or expires\n",
          saved_login_file().string());
    }
    return ExitCode::kDone;
  }
  LoginFile login;
  const bool is_new = !arguments.positionals.empty();
  if (is_new) {
    const absl::StatusOr<LoginFile> file =
        read_login_file(arguments.positionals.front(), LoginFile::Kind::kLogin);
    if (!file.ok()) return local_error(file.status());
    login = *file;
  } else {
    BITRUNG_ASSIGN_OR_RETURN(const std::optional<LoginFile> saved, load_saved_login());
    if (!saved) {
      return absl::UnauthenticatedError(
          "not logged in; an admin makes a file for you with \"bitrung token create NAME\", then: "
          "bitrung login FILE");
    }
    login = *saved;
  }
  if (const auto server = arguments.value("--server")) login.server = *server;
  BITRUNG_ASSIGN_OR_RETURN(const std::shared_ptr<Connection> connection,
                           Connection::make(login.server, login));
  BITRUNG_ASSIGN_OR_RETURN(const v1::WhoAmIResponse who, connection->who_am_i());
  if (is_new) BITRUNG_RETURN_IF_ERROR(save_login(login));
  print_login(who, login.server, mode, streams);
  if (is_new && mode == OutputMode::kText) {
    streams.out << fmt::format(
        "saved in {}; {} can be removed\nnext: bitrung submit FILE   bitrung list\n",
        saved_login_file().string(), arguments.positionals.front());
  }
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> token_command(const Arguments& arguments, Streams& streams) {
  const std::string& action = arguments.positionals.front();
  if (action == "create") return create_token(arguments, streams);
  if (action == "revoke") return revoke_token(arguments, streams);
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::Token> tokens,
                           session->connection().list_tokens());
  streams.out << render_tokens(tokens, arguments.output_mode(streams.out_terminal.interactive),
                               streams.out_terminal.style, wall_clock_ms());
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> enrol_command(const Arguments& arguments, Streams& streams) {
  if (arguments.has("--revoke")) return revoke_worker(arguments, streams);
  const std::string& worker = arguments.positionals.front();
  BITRUNG_ASSIGN_OR_RETURN(const fs::path file, secret_file(arguments, worker, "enrolment"));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const v1::CreateEnrolmentResponse made,
                           session->connection().create_enrolment(worker));
  BITRUNG_RETURN_IF_ERROR(local_error(write_login_file(file, {.kind = LoginFile::Kind::kEnrolment,
                                                              .server = made.address(),
                                                              .authority_pem = made.authority_pem(),
                                                              .token = made.token()})));
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kText:
      streams.out << fmt::format(
          "{0} is good for one worker within {1}\n"
          "next, on the worker's host: bitrung-worker enrol {2} --state-dir DIR\n",
          file.string(),
          format_duration(static_cast<double>(made.expires_at_ms() - wall_clock_ms()) / 1000),
          file.filename().string());
      break;
    case OutputMode::kTsv:
      streams.out << tsv_line({"worker", "file", "expires_at_ms"})
                  << tsv_line({worker, file.string(), fmt::format("{}", made.expires_at_ms())});
      break;
    case OutputMode::kJson: {
      Json json;
      json["worker"] = worker;
      json["file"] = file.string();
      json["expires_at_ms"] = made.expires_at_ms();
      streams.out << json_text(json);
      break;
    }
  }
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> audit_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto limit, arguments.number("--limit", 0, kAuditMax));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::AuditEntry> entries,
                           session->connection().list_audit(limit.value_or(kAuditDefault)));
  streams.out << render_audit(entries, arguments.output_mode(streams.out_terminal.interactive),
                              streams.out_terminal.style, wall_clock_ms());
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
