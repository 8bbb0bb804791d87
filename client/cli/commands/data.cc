// Data sets on this machine: fetch, list, check.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/data_archive.h"
#include "client/cli/data_fetch.h"
#include "client/cli/environment.h"
#include "client/cli/json_shapes.h"
#include "client/cli/live_display.h"
#include "client/cli/render_download.h"
#include "client/cli/signals.h"
#include "db/base/digest.h"
#include "db/base/files.h"
#include "db/base/status.h"
#include "worker/train/data/locate.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kDrawInterval{100};
constexpr std::size_t kDataFileBytesMax = std::size_t{256} << 20;

fs::path data_directory_of(const Arguments& arguments) {
  const std::optional<std::string> named = arguments.value("--data-dir");
  std::error_code error;
  return fs::absolute(named ? fs::path(*named) : default_data_directory(), error);
}

absl::StatusOr<ExitCode> fetch(const DatasetArchive& official, const Arguments& arguments,
                               Streams& streams) {
  const fs::path directory = data_directory_of(arguments);
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  const auto report = [&](bool fetched) {
    const auto located = datasets::locate_dataset(official.dataset, directory);
    const std::string folder =
        located.files.empty() ? std::string() : located.files.front().path.parent_path().string();
    switch (mode) {
      case OutputMode::kText:
        streams.out << fmt::format(
            "{} is {} {}\nnext: bitrung run FILE --set defaults.dataset={} --data-dir {}\n",
            official.dataset, fetched ? "now in" : "already in", folder, official.dataset,
            directory.string());
        break;
      case OutputMode::kTsv:
        streams.out << tsv_line({"dataset", "folder", "fetched"})
                    << tsv_line({official.dataset, folder, fetched ? "true" : "false"});
        break;
      case OutputMode::kJson: {
        Json json;
        json["dataset"] = official.dataset;
        json["folder"] = folder;
        json["fetched"] = fetched;
        streams.out << json_text(json);
        break;
      }
    }
  };
  if (datasets::locate_dataset(official.dataset, directory).ok()) {
    report(/*fetched=*/false);
    return ExitCode::kDone;
  }

  DatasetArchive archive = official;
  if (const auto url = arguments.value("--url")) archive.url = *url;
  if (const auto md5 = arguments.value("--md5")) {
    const bool hex =
        md5->size() == 32 && md5->find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hex) {
      return absl::InvalidArgumentError(
          fmt::format("--md5 {}: 32 lower-case hex digits are expected", *md5));
    }
    archive.md5 = *md5;
  }
  Signals signals;
  LiveDisplay display(streams.err, streams.err_terminal);
  const bool quiet = arguments.has("--quiet");
  if (!quiet) {
    display.note(fmt::format("fetching {} into {}", archive.url, directory.string()));
  }
  const Clock::time_point began = Clock::now();
  std::optional<std::uint64_t> first;
  Clock::time_point drawn{};
  FetchOptions options;
  options.data_directory = directory;
  options.note = [&](std::string_view line) {
    if (!quiet) display.note(line);
  };
  options.on_progress = [&](std::uint64_t done, std::optional<std::uint64_t> total) {
    signals.drain();
    if (signals.take_resized()) display.set_terminal(inspect_terminal(2));
    if (signals.take_suspend()) {
      display.close();
      suspend_self();
    }
    if (!first) first = done;
    const Clock::time_point now = Clock::now();
    if (!quiet && now - drawn >= kDrawInterval) {
      const std::chrono::duration<double> elapsed = now - began;
      display.draw({download_line(
          {.name = archive.dataset,
           .done_bytes = done,
           .total_bytes = total,
           .bytes_per_second =
               elapsed.count() > 0.5
                   ? static_cast<double>(done - std::min(done, *first)) / elapsed.count()
                   : 0},
          display.terminal())});
      drawn = now;
    }
    return signals.interrupts() == 0;
  };
  const absl::Status status = fetch_dataset(archive, options);
  display.clear();
  if (absl::IsCancelled(status)) {
    streams.err << "interrupted; what has arrived is kept, the same command continues\n";
    return ExitCode::kInterrupted;
  }
  BITRUNG_RETURN_IF_ERROR(status);
  report(/*fetched=*/true);
  return ExitCode::kDone;
}

struct Checked {
  std::string dataset;
  std::vector<datasets::DatasetFile> files;
  std::vector<std::string> sha256;  // Of the files, when they were read.
  std::string error;
};

// Labels out of range mean another format, whatever the sizes say.
absl::Status check_labels(const std::string& dataset, const datasets::DatasetFile& file,
                          std::string_view bytes) {
  const bool hundred = dataset == "cifar100";
  const std::size_t record = hundred ? 3074 : 3073;
  const unsigned label_max = hundred ? 99 : 9;
  for (std::size_t at = 0; at + record <= bytes.size(); at += record) {
    const auto label = static_cast<unsigned char>(bytes[at + (hundred ? 1 : 0)]);
    if (label > label_max) {
      return absl::DataLossError(fmt::format(
          "{}: image {} has label {}, the largest is {}; it is damaged or another file; "
          "remove it and run bitrung data fetch {}",
          file.path.string(), at / record, label, label_max, dataset));
    }
  }
  return absl::OkStatus();
}

Checked check_one(const std::string& dataset, const fs::path& directory, bool read_files) {
  auto located = datasets::locate_dataset(dataset, directory);
  Checked checked{.dataset = dataset, .files = located.files, .sha256 = {}, .error = located.error};
  if (!read_files || !located.ok()) return checked;
  for (const datasets::DatasetFile& file : checked.files) {
    const absl::StatusOr<std::string> bytes = read_file(file.path, kDataFileBytesMax);
    const absl::Status status = bytes.ok() ? check_labels(dataset, file, *bytes) : bytes.status();
    if (!status.ok()) {
      checked.error = std::string(message(status));
      return checked;
    }
    checked.sha256.push_back(sha256(*bytes).hex());
  }
  return checked;
}

std::string render_checked(const std::vector<Checked>& all, const fs::path& directory,
                           OutputMode mode, const Style& style) {
  if (mode == OutputMode::kJson) {
    Json json;
    json["data_dir"] = directory.string();
    json["datasets"] = Json::array();
    for (const Checked& checked : all) {
      Json entry;
      entry["dataset"] = checked.dataset;
      entry["ok"] = checked.error.empty();
      entry["error"] = checked.error.empty() ? Json(nullptr) : Json(checked.error);
      entry["files"] = Json::array();
      for (std::size_t i = 0; i < checked.files.size(); ++i) {
        entry["files"].push_back(
            {{"path", checked.files[i].path.string()},
             {"size_bytes", checked.files[i].size_bytes},
             {"sha256", i < checked.sha256.size() ? Json(checked.sha256[i]) : Json(nullptr)}});
      }
      json["datasets"].push_back(std::move(entry));
    }
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out = tsv_line({"dataset", "ok", "folder", "files", "error"});
    for (const Checked& checked : all) {
      out +=
          tsv_line({checked.dataset, checked.error.empty() ? "true" : "false",
                    checked.files.empty() ? "" : checked.files.front().path.parent_path().string(),
                    fmt::format("{}", checked.files.size()), checked.error});
    }
    return out;
  }
  std::string out = fmt::format("data directory {}\n", directory.string());
  for (const Checked& checked : all) {
    if (!checked.error.empty()) {
      out += fmt::format("  {}  {}\n", style.paint(Tone::kWarning, pad_right(checked.dataset, 9)),
                         printable(checked.error));
      continue;
    }
    std::uint64_t bytes = 0;
    for (const datasets::DatasetFile& file : checked.files) bytes += file.size_bytes;
    out += fmt::format("  {}  {}\n", style.paint(Tone::kGood, pad_right(checked.dataset, 9)),
                       checked.files.empty()
                           ? std::string("made on the fly, needs no files")
                           : fmt::format("{} in {}{}", format_bytes(bytes),
                                         checked.files.front().path.parent_path().string(),
                                         checked.sha256.empty() ? "" : ", read and whole"));
  }
  return out;
}

}  // namespace

absl::StatusOr<ExitCode> data_command(const Arguments& arguments, Streams& streams) {
  const std::string& action = arguments.positionals.front();
  const std::optional<std::string> dataset =
      arguments.positionals.size() > 1 ? std::optional(arguments.positionals[1]) : std::nullopt;
  if (action == "fetch") {
    if (!dataset) {
      return absl::InvalidArgumentError("which data set? bitrung data fetch cifar10, or cifar100");
    }
    return fetch(*archive_of(*dataset), arguments, streams);
  }
  const fs::path directory = data_directory_of(arguments);
  const bool check = action == "check";
  std::vector<Checked> all;
  if (dataset) {
    all.push_back(check_one(*dataset, directory, check));
  } else {
    for (const char* name : {"cifar10", "cifar100"}) {
      all.push_back(check_one(name, directory, check));
    }
    if (!check) all.push_back(check_one("synthetic", directory, false));
  }
  streams.out << render_checked(all, directory,
                                arguments.output_mode(streams.out_terminal.interactive),
                                streams.out_terminal.style);
  if (!check) return ExitCode::kDone;
  // Without a name only what is there is checked: a data set that nobody fetched is no failure.
  const bool failed = std::ranges::any_of(all, [&](const Checked& checked) {
    return !checked.error.empty() && (dataset || !checked.files.empty());
  });
  return failed ? ExitCode::kFailed : ExitCode::kDone;
}

}  // namespace bitrung::cli
