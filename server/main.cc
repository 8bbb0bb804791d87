// bitrung-server: the coordinator. This file alone names concrete classes and puts them together.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>
#include <boost/asio/signal_set.hpp>

#include "db/artifacts.h"
#include "db/backup.h"
#include "db/base/allocator.h"
#include "db/base/disk_reserve.h"
#include "db/base/parent_process.h"
#include "db/base/status.h"
#include "db/base/tls13.h"
#include "db/store.h"
#include "server/auth/authority.h"
#include "server/backup_command.h"
#include "server/engine/engine.h"
#include "server/engine/publisher.h"
#include "server/init_command.h"
#include "server/listen_address.h"
#include "server/rpc/context.h"
#include "server/rpc/services.h"

namespace bitrung {
namespace {

constexpr std::chrono::milliseconds kHeartbeatInterval{1000};
constexpr std::chrono::milliseconds kDrainOnStop{2000};
constexpr std::size_t kReaderThreads = 2;
// It served, and then the disk failed, became full or gave damaged data (EX_IOERR of sysexits.h).
constexpr int kExitStorage = 74;
// Above the largest legal submit; the limit that people meet is the one on jobs.
constexpr int kMessageBytesMax = 64 << 20;
constexpr int kStreamsPerConnectionMax = 100;

struct Options {
  std::filesystem::path state_directory;
  std::vector<std::string> listen;
  bool die_with_parent = false;
  std::string log_level = "info";
  double lease_seconds = 60;
};

// Two servers on one directory would both believe themselves: the second is refused.
absl::StatusOr<FileDescriptor> lock_state_directory(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "server.lock";
  FileDescriptor fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return errno_status("open", file, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        fmt::format("another bitrung-server works on {}; stop it, or choose another --state-dir",
                    directory.string()));
  }
  return fd;
}

std::unique_ptr<grpc::Server> start_grpc(
    const std::vector<ListenAddress>& addresses,
    const std::shared_ptr<grpc::ServerCredentials>& tls,
    const std::vector<std::unique_ptr<grpc::Service>>& services,
    std::vector<std::string>& listening, absl::Status& status) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // Else two servers can share a port without an error.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnectionMax);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  std::vector<int> ports(addresses.size(), 0);
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    builder.AddListeningPort(addresses[i].grpc_address(),
                             addresses[i].is_unix() ? grpc::InsecureServerCredentials() : tls,
                             &ports[i]);
  }
  for (const auto& service : services) builder.RegisterService(service.get());
  const mode_t old_mask = ::umask(0177);  // The socket is for this user alone.
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ::umask(old_mask);
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    if (server == nullptr || ports[i] == 0) {
      status = absl::UnavailableError(
          fmt::format("cannot listen on {}: the port is in use or the address is not this "
                      "machine's; choose another --listen",
                      addresses[i].text()));
      return nullptr;
    }
    listening.push_back(addresses[i].text_with_port(ports[i]));
  }
  return server;
}

// The error that ended the service, told from any thread. The first one counts: from then on the
// engine does nothing more, so nothing is acknowledged.
class Failure {
 public:
  explicit Failure(boost::asio::io_context& waiting) : waiting_(waiting) {}
  // Before the first thread that may fail.
  void stops(engine::Engine& engine) { engine_ = &engine; }

  void operator()(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (status_.ok()) status_ = status;
    }
    if (engine_ != nullptr) engine_->stop();
    waiting_.stop();
  }
  absl::Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  boost::asio::io_context& waiting_;
  engine::Engine* engine_ = nullptr;
  mutable std::mutex mutex_;
  absl::Status status_;
};

// Null for a server that knows its owner only; one that listens on TCP must know more.
absl::StatusOr<std::unique_ptr<auth::AccessControl>> open_access(
    const std::filesystem::path& state_directory, bool needed,
    std::function<void(const absl::Status&)> on_fault) {
  auto access =
      auth::AccessControl::open(state_directory, auth::system_clocks(), std::move(on_fault));
  if (!absl::IsNotFound(access.status())) return access;
  if (!needed) return std::unique_ptr<auth::AccessControl>();
  return absl::FailedPreconditionError(
      fmt::format("--listen HOST:PORT wants certificates and tokens, and {0} has none; make them "
                  "with: bitrung-server init --state-dir {0} --address HOST:PORT",
                  state_directory.string()));
}

// The exit code, if it could begin to serve.
absl::StatusOr<int> serve(const Options& options) {
  std::vector<ListenAddress> addresses;
  bool needs_tls = false;
  for (const std::string& text : options.listen) {
    BITRUNG_ASSIGN_OR_RETURN(ListenAddress address, parse_listen_address(text));
    needs_tls |= !address.is_unix();
    addresses.push_back(std::move(address));
  }
  BITRUNG_RETURN_IF_ERROR(make_directories(options.state_directory, 0700));
  BITRUNG_ASSIGN_OR_RETURN(const FileDescriptor lock,
                           lock_state_directory(options.state_directory));
  for (const ListenAddress& address : addresses)
    BITRUNG_RETURN_IF_ERROR(address.remove_stale_socket());

  BITRUNG_ASSIGN_OR_RETURN(const auto reserve, DiskReserve::open(options.state_directory));
  BITRUNG_ASSIGN_OR_RETURN(const auto store,
                           db::Store::open(options.state_directory, {.reserve = reserve.get()}));
  reserve->keep_up();
  boost::asio::io_context signals;
  Failure failure(signals);
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<auth::AccessControl> access,
                           open_access(options.state_directory, needs_tls, std::ref(failure)));
  const auth::Authority authority(access.get());
  std::shared_ptr<grpc::ServerCredentials> tls;
  if (needs_tls) {
    BITRUNG_ASSIGN_OR_RETURN(
        const auth::ServerIdentity identity,
        auth::load_server_identity(options.state_directory, auth::system_clocks()));
    tls = auth::make_server_credentials(identity, authority);
  }
  BITRUNG_ASSIGN_OR_RETURN(const auto reader,
                           db::StoreReader::open(options.state_directory, std::ref(failure)));
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t restored_term,
                           db::restored_term(options.state_directory));
  BITRUNG_ASSIGN_OR_RETURN(db::ArtifactStore artifacts,
                           db::ArtifactStore::open(options.state_directory / "artifacts"));

  const auto clock = engine::make_system_clock();
  engine::Publisher publisher;
  core::Settings settings;
  settings.term = store->term();
  settings.lease =
      std::chrono::milliseconds(static_cast<std::int64_t>(options.lease_seconds * 1000));
  settings.lease_margin = core::lease_margin_for(settings.lease);
  engine::Engine engine(*store, settings, *clock, publisher, std::ref(failure));
  failure.stops(engine);
  BITRUNG_RETURN_IF_ERROR(engine.load());

  boost::asio::thread_pool pool(kReaderThreads);
  const rpc::Context context{.engine = engine,
                             .publisher = publisher,
                             .reader = *reader,
                             .artifacts = artifacts,
                             .disk = *reserve,
                             .authority = authority,
                             .pool = pool,
                             .version = BITRUNG_VERSION,
                             .term = store->term(),
                             .lease = settings.lease,
                             .heartbeat_interval = kHeartbeatInterval,
                             .restored_term = restored_term};
  std::vector<std::unique_ptr<grpc::Service>> services;
  services.push_back(rpc::make_access_service(context));
  services.push_back(rpc::make_artifact_service(context));
  services.push_back(rpc::make_experiment_service(context));
  services.push_back(rpc::make_fleet_service(context));
  services.push_back(rpc::make_job_service(context));
  services.push_back(rpc::make_results_service(context));
  services.push_back(rpc::make_worker_service(context));

  // The engine's thread serves from here on; this thread waits for a signal.
  std::thread engine_thread([&engine] { engine.run(); });
  boost::asio::signal_set stop_signals(signals, SIGINT, SIGTERM);
  stop_signals.async_wait([&signals](const boost::system::error_code&, int) { signals.stop(); });

  absl::Status status;
  std::vector<std::string> listening;
  const auto server = start_grpc(addresses, tls, services, listening, status);
  if (status.ok()) {
    for (const std::string& address : listening) {
      spdlog::info("listening on {} (term {}, state in {})", address, store->term(),
                   options.state_directory.string());
      fmt::print("listening on {}\n", address);
    }
    std::fflush(stdout);
    signals.run();
    spdlog::info("stopping");
    server->Shutdown(std::chrono::system_clock::now() + kDrainOnStop);
  }
  engine.stop();
  engine_thread.join();
  pool.join();
  BITRUNG_RETURN_IF_ERROR(status);
  if (failure.status().ok()) return 0;
  fmt::print(stderr, "bitrung-server: stopped, nothing is acknowledged any more: {}\n",
             message(failure.status()));
  return kExitStorage;
}

}  // namespace
}  // namespace bitrung

int main(int argc, char** argv) {
  const pid_t parent = ::getppid();
  bitrung::use_huge_pages();
  bitrung::require_tls13();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // A file that may not grow is an error of the write.
  bitrung::Options options;
  CLI::App app{"bitrung-server: schedules experiments and keeps their results.", "bitrung-server"};
  app.footer(
      "Examples:\n"
      "  bitrung-server --state-dir /srv/bitrung --listen unix:/srv/bitrung/server.sock\n"
      "  bitrung-server init --state-dir /srv/bitrung --address lab.example.org:7420\n"
      "  bitrung-server --state-dir /srv/bitrung --listen 0.0.0.0:7420\n\n"
      "A unix socket admits its owner. TCP is TLS 1.3: people show tokens (bitrung login), workers "
      "certificates\n(bitrung-worker enrol); init makes what both need.\n\n"
      "Below 256 MiB of free disk (5 % on a disk below 5 GiB) no new experiment is accepted, so "
      "that running jobs can\nfinish; a preallocated file in the state directory keeps 64 MiB for "
      "them.\n\n"
      "Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong use, 74 the disk failed or "
      "is full, or the database is damaged.");
  app.set_version_flag("--version", std::string("bitrung-server ") + BITRUNG_VERSION);
  app.add_option("--state-dir", options.state_directory,
                 "Where the database and the artifacts lie; created if missing");
  app.add_option("--listen", options.listen,
                 "unix:PATH or HOST:PORT (port 0 picks a free one); repeatable");
  app.add_option("--lease", options.lease_seconds,
                 "Seconds until the jobs of a silent worker are given to another")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_flag("--die-with-parent", options.die_with_parent, "Stop when the starting process ends");
  std::function<int()> chosen;
  bitrung::add_init_command(app, chosen);
  bitrung::add_backup_commands(app, chosen);
  try {
    app.parse(argc, argv);
    if (chosen == nullptr) {
      for (const char* needed : {"--state-dir", "--listen"}) {
        if (app.count(needed) == 0) throw CLI::RequiredError(needed);
      }
    }
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  if (chosen != nullptr) return chosen();
  spdlog::set_default_logger(spdlog::stderr_color_mt("server"));
  spdlog::set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(options.log_level));

  if (options.die_with_parent && !bitrung::end_with_parent(parent)) return 1;
  const absl::StatusOr<int> code = bitrung::serve(options);
  if (!code.ok()) {
    fmt::print(stderr, "bitrung-server: {}\n", bitrung::message(code.status()));
    return 1;
  }
  return *code;
}
