#include "server/backup_command.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "db/backup.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"

namespace bitrung {
namespace {

constexpr std::chrono::seconds kProgressInterval{1};

struct Paths {
  std::filesystem::path state_directory;
  std::filesystem::path backup;
  bool without_damaged = false;
};

double mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

std::string time_text(std::int64_t ms) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(ms / 1000)));
}

// A line on standard error for every second that it takes.
db::BackupOptions options_of(const Paths& paths) {
  using Clock = std::chrono::steady_clock;
  auto last = std::make_shared<Clock::time_point>(Clock::now());
  return {.now_ms = wall_clock_ms(),
          .program_version = BITRUNG_VERSION,
          .without_damaged = paths.without_damaged,
          .on_progress = [last](const db::BackupProgress& progress) {
            const Clock::time_point now = Clock::now();
            if (now - *last < kProgressInterval) return;
            *last = now;
            fmt::print(stderr, "{}: {:.0f} of {:.0f} MiB\n", progress.what,
                       mib(progress.done_bytes), mib(progress.total_bytes));
          }};
}

int fail(const absl::Status& status) {
  fmt::print(stderr, "bitrung-server: {}\n", message(status));
  return 1;
}

void print_artifacts(const db::BackupSummary& summary) {
  const db::Manifest& manifest = summary.manifest;
  fmt::print("  {} artifacts, {:.1f} MiB, each compared with its digest; {} by hard link\n",
             manifest.artifacts, mib(manifest.artifact_bytes), summary.linked);
  for (const std::string& line : summary.lacking) fmt::print("  without: {}\n", line);
  if (manifest.lacking > summary.lacking.size()) {
    fmt::print("  without {} more\n", manifest.lacking - summary.lacking.size());
  }
}

int run_backup(const Paths& paths) {
  const auto summary = db::make_backup(paths.state_directory, paths.backup, options_of(paths));
  if (!summary.ok()) return fail(summary.status());
  fmt::print("backup {}: term {}, database {:.1f} MiB\n", paths.backup.string(),
             summary->manifest.term, mib(summary->manifest.database_bytes));
  print_artifacts(*summary);
  fmt::print("restore it with: bitrung-server restore --from {} --state-dir NEW_DIRECTORY\n",
             paths.backup.string());
  return 0;
}

int run_restore(const Paths& paths) {
  const auto summary = db::restore_backup(paths.backup, paths.state_directory, options_of(paths));
  if (!summary.ok()) return fail(summary.status());
  fmt::print("restored {} from a backup made at {}\n", paths.state_directory.string(),
             time_text(summary->manifest.made_at_ms));
  print_artifacts(*summary);
  fmt::print(
      "  {} attempts that were at work then are given up; their jobs are ready again\n"
      "  what was submitted or recorded after the backup is not in it\n"
      "start it with: bitrung-server --state-dir {} --listen ADDRESS\n",
      summary->given_up, paths.state_directory.string());
  return 0;
}

}  // namespace

void add_backup_commands(CLI::App& app, std::function<int()>& chosen) {
  const auto paths = std::make_shared<Paths>();

  CLI::App* backup = app.add_subcommand(
      "backup",
      "Copies a state directory, whether its server works or not.\n"
      "The database is one snapshot; the artifacts are those it names, each compared with its "
      "digest, as hard links\nwhere the file system allows it. It has its name only when it is "
      "whole and on disk.");
  backup->add_option("--state-dir", paths->state_directory, "The server's state directory")
      ->required();
  backup->add_option("--out", paths->backup, "Directory to make; must not exist yet")->required();
  backup->add_flag("--without-damaged", paths->without_damaged,
                   "Make it although artifacts are missing or damaged; it lacks them then");
  backup->footer(
      "Examples:\n"
      "  bitrung-server backup --state-dir /srv/bitrung --out /backup/bitrung-$(date +%F)\n"
      "Hard links share the disk with the original: let --out be on another one, or copy it there."
      "\nThe token of TCP clients is not in a backup.");
  backup->callback([&chosen, paths] { chosen = [paths] { return run_backup(*paths); }; });

  CLI::App* restore = app.add_subcommand(
      "restore",
      "Makes a state directory from a backup and begins a new history with it.\n"
      "Workers accept the restored server; attempts that it does not know are stopped. A server on "
      "any older copy\nof the state is refused by them from then on.");
  restore->add_option("--from", paths->backup, "Directory that `backup` made")->required();
  restore->add_option("--state-dir", paths->state_directory, "Where to; must be empty or missing")
      ->required();
  restore->add_flag("--without-damaged", paths->without_damaged,
                    "Restore although artifacts are missing or damaged in the backup");
  restore->footer(
      "Examples:\n"
      "  bitrung-server restore --from /backup/bitrung-2026-11-24 --state-dir /srv/bitrung\n"
      "  bitrung-server --state-dir /srv/bitrung --listen 127.0.0.1:7420");
  restore->callback([&chosen, paths] { chosen = [paths] { return run_restore(*paths); }; });
}

}  // namespace bitrung
