// Networks to and from other programs: export and import.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ostream>

#include "client/cli/child_process.h"
#include "client/cli/commands/commands.h"
#include "client/cli/json_shapes.h"
#include "client/cli/references.h"
#include "client/cli/session.h"
#include "client/interop/model_fit.h"
#include "client/interop/state_dict.h"
#include "db/base/digest.h"
#include "db/base/files.h"
#include "db/base/status.h"
#include "worker/train/nn/architecture.h"
#include "worker/train/safetensors.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDifferencesShownMax = 40;
constexpr std::chrono::minutes kPackPatience{10};

OutputMode mode_of(const Arguments& arguments, const Streams& streams) {
  return arguments.output_mode(streams.out_terminal.interactive);
}

absl::StatusOr<std::string> read_network_file(const fs::path& file) {
  const absl::StatusOr<std::string> bytes = read_file(file, train::kFileBytesMax);
  if (bytes.ok() || absl::IsResourceExhausted(bytes.status())) return bytes;
  return local_error(bytes.status());
}

// The messages of client/interop do not name the file.
absl::Status about(const fs::path& file, const absl::Status& status) {
  return {status.code(), fmt::format("{}: {}", file.string(), message(status))};
}

std::string encoded(const train::SafetensorsFile& file) {
  const std::vector<std::uint8_t> bytes = train::encode_safetensors(file);
  return {bytes.begin(), bytes.end()};
}

// Refuses to overwrite unless --force says so.
absl::Status check_target(const fs::path& target, const Arguments& arguments) {
  std::error_code error;
  if (!arguments.has("--force") && fs::exists(fs::symlink_status(target, error))) {
    return absl::AlreadyExistsError(fmt::format(
        "{} is there already; name another file with --out or overwrite it with --force",
        target.string()));
  }
  return absl::OkStatus();
}

// A file that is removed unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const fs::path& beside)
      : path_(beside.string() + ".tmp-" + random_hex(4)) {}
  ~TemporaryFile() {
    std::error_code error;
    fs::remove(path_, error);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// ---- import

std::string plural_tensors(std::size_t count) {
  return format_plural(count, "tensor");
}

std::string describe(const interop::Difference& difference) {
  switch (difference.kind) {
    case interop::DifferenceKind::kMissing:
      return difference.nearest.empty()
                 ? fmt::format("expected {}", difference.expected)
                 : fmt::format("expected {}; is it {}?", difference.expected, difference.nearest);
    case interop::DifferenceKind::kUnexpected:
      return difference.nearest.empty()
                 ? difference.found
                 : fmt::format("{}; is it {}?", difference.found, difference.nearest);
    case interop::DifferenceKind::kShape:
    case interop::DifferenceKind::kDtype:
      return fmt::format("is {}, expected {}", difference.found, difference.expected);
  }
  return {};
}

void print_differences(const std::string& file, const interop::ModelFit& fit, OutputMode mode,
                       Streams& streams) {
  switch (mode) {
    case OutputMode::kJson: {
      Json json;
      json["file"] = file;
      json["model"] = fit.model;
      json["classes"] = fit.classes;
      json["differences"] = Json::array();
      for (const interop::Difference& difference : fit.differences) {
        json["differences"].push_back({{"kind", interop::name(difference.kind)},
                                       {"tensor", difference.tensor},
                                       {"found", text_or_null(difference.found)},
                                       {"expected", text_or_null(difference.expected)},
                                       {"nearest", text_or_null(difference.nearest)}});
      }
      streams.out << json_text(json);
      break;
    }
    case OutputMode::kTsv:
      streams.out << tsv_line({"kind", "tensor", "found", "expected", "nearest"});
      for (const interop::Difference& difference : fit.differences) {
        streams.out << tsv_line({std::string(interop::name(difference.kind)), difference.tensor,
                                 difference.found, difference.expected, difference.nearest});
      }
      break;
    case OutputMode::kText: {
      Table table({{"difference"}, {"tensor"}, {""}});
      for (std::size_t i = 0; i < std::min(fit.differences.size(), kDifferencesShownMax); ++i) {
        const interop::Difference& difference = fit.differences[i];
        table.add_row({std::string(interop::name(difference.kind)), printable(difference.tensor),
                       printable(describe(difference))});
      }
      streams.out << table.text(streams.out_terminal.style, 2);
      if (fit.differences.size() > kDifferencesShownMax) {
        streams.out << fmt::format("  and {} more; --output json lists all\n",
                                   fit.differences.size() - kDifferencesShownMax);
      }
      break;
    }
  }
  streams.out.flush();
}

// The network that the tensors fit, or an error after every difference was printed.
absl::StatusOr<interop::ModelFit> choose_model(const std::string& file,
                                               const interop::StateDict& dict,
                                               const std::optional<std::string>& model,
                                               OutputMode mode, Streams& streams) {
  if (model) {
    const auto architecture = train::parse_architecture(*model);
    if (!architecture) {
      return absl::InvalidArgumentError(
          fmt::format("--model {}: expected {}", *model, train::model_names()));
    }
    interop::ModelFit fit = interop::fit_model(dict, *model, *architecture);
    if (fit.differences.empty()) return fit;
    print_differences(file, fit, mode, streams);
    return absl::InvalidArgumentError(
        fmt::format("{} does not fit {}: {} above", file, *model,
                    format_plural(fit.differences.size(), "difference")));
  }
  interop::ModelSearch search = interop::search_models(dict);
  if (search.fitting.size() == 1) return std::move(search.fitting.front());
  if (search.fitting.empty()) {
    print_differences(file, search.closest, mode, streams);
    return absl::InvalidArgumentError(
        fmt::format("{} fits no network; the nearest is {} with {} classes, {} above", file,
                    search.closest.model, search.closest.classes,
                    format_plural(search.closest.differences.size(), "difference")));
  }
  std::vector<std::string> names;
  for (const interop::ModelFit& fit : search.fitting) names.push_back(fit.model);
  return absl::InvalidArgumentError(fmt::format(
      "{} fits several networks ({}); choose one with --model", file, join(names, ", ")));
}

void print_import(const std::string& file, const fs::path& out, const interop::StateDict& dict,
                  const interop::ModelFit& fit, OutputMode mode, Streams& streams) {
  switch (mode) {
    case OutputMode::kJson: {
      Json json;
      json["file"] = file;
      json["form"] = dict.form;
      json["model"] = fit.model;
      json["classes"] = fit.classes;
      json["tensors"] = dict.tensors.size();
      json["notes"] = dict.notes;
      json["out"] = out.string();
      streams.out << json_text(json);
      break;
    }
    case OutputMode::kTsv:
      streams.out << tsv_line({"file", "model", "classes", "tensors", "out"})
                  << tsv_line({file, fit.model, fmt::format("{}", fit.classes),
                               fmt::format("{}", dict.tensors.size()), out.string()});
      break;
    case OutputMode::kText:
      streams.out << fmt::format("{}: {} with {} classes, {} ({})\n", file, fit.model, fit.classes,
                                 plural_tensors(dict.tensors.size()), dict.form);
      for (const std::string& note : dict.notes) streams.out << "  " << printable(note) << '\n';
      streams.out << fmt::format(
          "written to {}; in an experiment file:\n"
          "  teacher: {{artifact: {}, model: {}}}\n",
          out.string(), out.string(), fit.model);
      break;
  }
}

// ---- export

struct Source {
  std::optional<v1::JobReference> job;  // Else a file.
  fs::path file;
};

absl::StatusOr<Source> choose_source(const std::string& word) {
  std::error_code error;
  if (fs::is_regular_file(word, error)) return Source{.job = std::nullopt, .file = word};
  const std::string ending = fs::path(word).extension().string();
  if (ending == ".safetensors" || ending == ".pt" || ending == ".pth") {
    return absl::NotFoundError(fmt::format("no file {}; jobs are EXPERIMENT/JOB", word));
  }
  BITRUNG_ASSIGN_OR_RETURN(std::vector<v1::JobReference> jobs,
                           parse_job_references({word}, std::nullopt));
  return Source{.job = jobs.front(), .file = {}};
}

// "assisted.bits=4" and "pt" give "assisted.bits=4.pt". Jobs' names are made of harmless
// characters.
fs::path default_target(const Source& source, const std::string& format) {
  const std::string stem = source.job ? source.job->job() : source.file.stem().string();
  return stem + (format == "packed" ? ".packed.safetensors"
                 : format == "pt"   ? ".pt"
                                    : ".safetensors");
}

absl::Status fetch_checkpoint(const Arguments& arguments, v1::JobReference& reference,
                              const fs::path& file) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  if (const auto experiment = arguments.value("--experiment");
      experiment && reference.experiment().empty()) {
    reference.set_experiment(*experiment);
  }
  if (reference.experiment().empty()) {
    BITRUNG_ASSIGN_OR_RETURN(*reference.mutable_experiment(), newest_experiment(connection));
  }
  BITRUNG_ASSIGN_OR_RETURN(const v1::GetJobResponse response, connection.get_job(reference));
  const std::string name = fmt::format("{}/{}", reference.experiment(), reference.job());
  const auto digest = Digest::from_hex(response.job().result().artifact_sha256());
  if (response.job().state() != v1::JOB_STATE_SUCCEEDED || !digest) {
    return absl::FailedPreconditionError(fmt::format(
        "job {} has no checkpoint: it has not succeeded; see bitrung explain {}", name, name));
  }
  return connection.download(*digest, file);
}

// Packing evaluates quantizers, which the trainer alone has.
absl::Status pack(const fs::path& checkpoint, const fs::path& target) {
  constexpr std::string_view kSpeaker = "bitrung-trainer: ";  // Before its last words.
  BITRUNG_ASSIGN_OR_RETURN(const fs::path program, find_program("bitrung-trainer"));
  const TemporaryFile log(target);
  BITRUNG_ASSIGN_OR_RETURN(ChildProcess trainer,
                           ChildProcess::start({program.string(), "--pack", checkpoint.string(),
                                                "--out", target.string()},
                                               log.path(), /*pipe_output=*/false));
  if (!trainer.wait(kPackPatience)) {
    return absl::InternalError(
        fmt::format("bitrung-trainer did not end within {} minutes", kPackPatience.count()));
  }
  if (trainer.ended() == "exit code 0") return absl::OkStatus();
  std::string words = last_line(log.path());
  if (words.starts_with(kSpeaker)) words.erase(0, kSpeaker.size());
  return absl::InternalError(words.empty() ? fmt::format("bitrung-trainer ended with {}",
                                                         trainer.ended().value_or("an open end"))
                                           : words);
}

absl::Status convert(const fs::path& checkpoint, const std::string& format,
                     const fs::path& target) {
  if (format == "packed") return pack(checkpoint, target);
  BITRUNG_ASSIGN_OR_RETURN(std::string bytes, read_network_file(checkpoint));
  if (format == "safetensors") return local_error(write_file_durably(target, bytes));
  const absl::StatusOr<interop::StateDict> dict = interop::read_state_dict(std::move(bytes));
  if (!dict.ok()) return about(checkpoint, dict.status());
  return local_error(
      write_file_durably(target, interop::encode_torch_file(interop::all_rows(*dict))));
}

}  // namespace

absl::StatusOr<ExitCode> import_command(const Arguments& arguments, Streams& streams) {
  const std::string& file = arguments.positionals.front();
  const OutputMode mode = mode_of(arguments, streams);
  fs::path target = fs::path(file).replace_extension(".safetensors");
  if (target == file) target = fs::path(file).replace_extension(".imported.safetensors");
  if (const auto out = arguments.value("--out")) target = *out;
  BITRUNG_RETURN_IF_ERROR(check_target(target, arguments));
  BITRUNG_ASSIGN_OR_RETURN(std::string bytes, read_network_file(file));
  const absl::StatusOr<interop::StateDict> dict = interop::read_state_dict(std::move(bytes));
  if (!dict.ok()) return about(file, dict.status());
  if (dict->metadata.contains("bitrung.spec")) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is a checkpoint of bitrung itself and needs no import: teacher: {{artifact: {}}}", file,
        file));
  }
  BITRUNG_ASSIGN_OR_RETURN(const interop::ModelFit fit,
                           choose_model(file, *dict, arguments.value("--model"), mode, streams));
  const absl::StatusOr<train::SafetensorsFile> checkpoint = interop::make_checkpoint(*dict, fit);
  if (!checkpoint.ok()) return about(file, checkpoint.status());
  BITRUNG_RETURN_IF_ERROR(local_error(write_file_durably(target, encoded(*checkpoint))));
  print_import(file, target, *dict, fit, mode, streams);
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> export_command(const Arguments& arguments, Streams& streams) {
  const std::string format = arguments.value("--format").value_or("safetensors");
  BITRUNG_ASSIGN_OR_RETURN(Source source, choose_source(arguments.positionals.front()));
  const auto out = arguments.value("--out");
  const fs::path target = out ? fs::path(*out) : default_target(source, format);
  BITRUNG_RETURN_IF_ERROR(check_target(target, arguments));
  const TemporaryFile fetched(target);
  if (source.job) {
    BITRUNG_RETURN_IF_ERROR(fetch_checkpoint(arguments, *source.job, fetched.path()));
  }
  BITRUNG_RETURN_IF_ERROR(convert(source.job ? fetched.path() : source.file, format, target));
  BITRUNG_ASSIGN_OR_RETURN(const std::string written, read_network_file(target));
  const std::string digest = sha256(written).hex();
  const std::string name = source.job
                               ? fmt::format("{}/{}", source.job->experiment(), source.job->job())
                               : source.file.string();
  switch (mode_of(arguments, streams)) {
    case OutputMode::kJson: {
      Json json;
      json["source"] = name;
      json["format"] = format;
      json["file"] = target.string();
      json["size_bytes"] = written.size();
      json["sha256"] = digest;
      streams.out << json_text(json);
      break;
    }
    case OutputMode::kTsv:
      streams.out << tsv_line({"source", "format", "file", "size_bytes", "sha256"})
                  << tsv_line({name, format, target.string(), fmt::format("{}", written.size()),
                               digest});
      break;
    case OutputMode::kText:
      streams.out << fmt::format("{} as {}: {}, {}\n", name, format, target.string(),
                                 format_bytes(written.size()));
      break;
  }
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
