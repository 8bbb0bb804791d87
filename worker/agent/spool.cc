#include "worker/agent/spool.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>
#include <system_error>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/status.h"

namespace bitrung::agent {
namespace {

using nlohmann::json;

constexpr std::size_t kOfferBytesMax = std::size_t{4} << 20;
constexpr std::size_t kEpochBytesMax = 16;

std::string encode_point(const Point& point) {
  std::string bytes(16, '\0');
  std::memcpy(bytes.data(), &point.step, 8);
  std::memcpy(bytes.data() + 8, &point.value, 8);
  bytes += point.series;
  return bytes;
}

std::string encode_line(const LogLine& line) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &line.time_ms, 8);
  bytes += line.text;
  return bytes;
}

std::optional<double> optional_double(const json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(value.get<double>());
}

// Throws what nlohmann throws for other mistakes in the file.
Digest digest_at(const json& object, const char* key) {
  const auto digest = Digest::from_hex(object.at(key).get<std::string>());
  if (!digest)
    throw json::other_error::create(500, fmt::format("{} is not a SHA-256", key), &object);
  return *digest;
}

// "resume-12.safetensors" -> 12
std::optional<std::uint32_t> resume_epoch(std::string_view file) {
  constexpr std::string_view kPrefix = "resume-";
  constexpr std::string_view kSuffix = ".safetensors";
  if (!file.starts_with(kPrefix) || !file.ends_with(kSuffix)) return std::nullopt;
  file.remove_prefix(kPrefix.size());
  file.remove_suffix(kSuffix.size());
  std::uint32_t epoch = 0;
  const auto [end, error] = std::from_chars(file.data(), file.data() + file.size(), epoch);
  if (error != std::errc{} || end != file.data() + file.size()) return std::nullopt;
  return epoch;
}

// Of those up to epoch_max.
std::optional<CheckpointFile> newest_resume_state(const std::filesystem::path& directory,
                                                  std::uint32_t epoch_max) {
  std::optional<CheckpointFile> newest;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(directory, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const auto epoch = resume_epoch(it->path().filename().string());
    if (epoch && *epoch <= epoch_max && (!newest || *epoch > newest->epoch))
      newest = {*epoch, it->path().string()};
  }
  return newest;
}

// What an earlier version left there; nothing if there is no offer.
absl::StatusOr<std::optional<Journal::Entry>> read_earlier_version(
    const std::filesystem::path& spool) {
  absl::StatusOr<std::string> text = read_file(spool / "offer.json", kOfferBytesMax);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  BITRUNG_RETURN_IF_ERROR(text.status());
  absl::StatusOr<Offer> offer = parse_offer(*text);
  if (!offer.ok()) {
    return absl::DataLossError(
        fmt::format("{} cannot be read: {}; move the directory {} away to go on without it",
                    (spool / "offer.json").string(), message(offer.status()), spool.string()));
  }
  Journal::Entry entry{*std::move(offer), std::nullopt};
  text = read_file(spool / "outcome.json", kOfferBytesMax);
  if (text.ok()) {
    // A damaged one means the disk failed us after a sync; the attempt then counts as one that was
    // interrupted.
    if (absl::StatusOr<Outcome> outcome = parse_outcome(*text); outcome.ok())
      entry.outcome = *std::move(outcome);
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  }
  return entry;
}

}  // namespace

absl::StatusOr<AttemptSpool> AttemptSpool::open(const std::filesystem::path& directory) {
  BITRUNG_ASSIGN_OR_RETURN(RecordLog points, RecordLog::open(directory / "points.log"));
  BITRUNG_ASSIGN_OR_RETURN(RecordLog lines, RecordLog::open(directory / "lines.log"));
  return AttemptSpool(std::move(points), std::move(lines));
}

absl::Status AttemptSpool::append_points(std::span<const Point> points) {
  std::vector<std::string> records;
  records.reserve(points.size());
  for (const Point& point : points) records.push_back(encode_point(point));
  return points_.append(records);
}

absl::Status AttemptSpool::append_line(const LogLine& line) {
  const std::string record = encode_line(line);
  return lines_.append({&record, 1});
}

absl::StatusOr<std::vector<Point>> AttemptSpool::read_points(std::uint64_t first,
                                                             std::uint64_t last) const {
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<std::string> records,
                           points_.read(first, last - first + 1));
  std::vector<Point> points;
  points.reserve(records.size());
  for (const std::string& record : records) {
    if (record.size() < 16)
      return absl::DataLossError(fmt::format("{} has a short record", points_.path().string()));
    Point& point = points.emplace_back();
    std::memcpy(&point.step, record.data(), 8);
    std::memcpy(&point.value, record.data() + 8, 8);
    point.series = record.substr(16);
  }
  return points;
}

absl::StatusOr<std::vector<LogLine>> AttemptSpool::read_lines(std::uint64_t first,
                                                              std::uint64_t last) const {
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<std::string> records,
                           lines_.read(first, last - first + 1));
  std::vector<LogLine> lines;
  lines.reserve(records.size());
  for (const std::string& record : records) {
    if (record.size() < 8)
      return absl::DataLossError(fmt::format("{} has a short record", lines_.path().string()));
    LogLine& line = lines.emplace_back();
    std::memcpy(&line.time_ms, record.data(), 8);
    line.text = record.substr(8);
  }
  return lines;
}

absl::Status AttemptSpool::acknowledge(std::uint64_t points, std::uint64_t lines) {
  BITRUNG_RETURN_IF_ERROR(points_.acknowledge(points));
  return lines_.acknowledge(lines);
}

absl::StatusOr<std::vector<FileDescriptor>> AttemptSpool::duplicates() const {
  std::vector<FileDescriptor> files;
  for (const RecordLog* log : {&points_, &lines_}) {
    BITRUNG_ASSIGN_OR_RETURN(FileDescriptor file, log->duplicate());
    files.push_back(std::move(file));
  }
  return files;
}

std::filesystem::path SpoolLayout::spool(const AttemptKey& key) const {
  return state_directory / "spool" / to_string(key);
}

std::filesystem::path SpoolLayout::work(const AttemptKey& key) const {
  return state_directory / "work" / to_string(key);
}

absl::Status persist_resume_epoch(const SpoolLayout& layout, const AttemptKey& key,
                                  std::uint32_t epoch) {
  BITRUNG_RETURN_IF_ERROR(make_directories(layout.spool(key), 0700));
  return write_file_durably(layout.spool(key) / "resume_epoch", fmt::format("{}", epoch), 0600);
}

absl::Status remove_attempt(const SpoolLayout& layout, const AttemptKey& key) {
  // The offer goes first: a directory that is half removed must not look like an attempt.
  const std::filesystem::path offer = layout.spool(key) / "offer.json";
  if (::unlink(offer.c_str()) != 0 && errno != ENOENT) return errno_status("remove", offer, errno);
  for (const std::filesystem::path& directory : {layout.spool(key), layout.work(key)}) {
    std::error_code error;
    std::filesystem::remove_all(directory, error);
    if (error) return errno_status("remove", directory, error.value());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RecoveredAttempt>> recover(const SpoolLayout& layout,
                                                      const Journal& journal) {
  BITRUNG_ASSIGN_OR_RETURN(auto entries, journal.entries());
  std::error_code error;
  std::set<AttemptKey> with_directory;
  for (const char* part : {"spool", "work"}) {
    const std::filesystem::path directory = layout.state_directory / part;
    BITRUNG_RETURN_IF_ERROR(make_directories(directory, 0700));
    for (auto it = std::filesystem::directory_iterator(directory, error);
         !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      if (const auto key = parse_attempt_key(it->path().filename().string()))
        with_directory.insert(*key);
    }
    if (error) return errno_status("list", directory, error.value());
  }
  for (const AttemptKey& key : with_directory) {
    if (entries.contains(key)) continue;
    BITRUNG_ASSIGN_OR_RETURN(auto entry, read_earlier_version(layout.spool(key)));
    if (entry) {
      entries.emplace(key, *std::move(entry));
    } else {
      BITRUNG_RETURN_IF_ERROR(remove_attempt(layout, key));
    }
  }

  std::vector<RecoveredAttempt> attempts;
  for (auto& [key, entry] : entries) {
    RecoveredAttempt& attempt = attempts.emplace_back();
    attempt.offer = std::move(entry.offer);
    attempt.outcome = std::move(entry.outcome);
    std::uint32_t noted = 0;
    if (const auto epoch = read_file(layout.spool(key) / "resume_epoch", kEpochBytesMax);
        epoch.ok())
      std::from_chars(epoch->data(), epoch->data() + epoch->size(), noted);
    attempt.resume = newest_resume_state(layout.work(key), noted);
    if (!std::filesystem::exists(layout.spool(key), error)) continue;
    BITRUNG_ASSIGN_OR_RETURN(const AttemptSpool log, AttemptSpool::open(layout.spool(key)));
    attempt.points = log.points();
    attempt.lines = log.lines();
  }
  return attempts;
}

absl::StatusOr<Offer> parse_offer(std::string_view text) {
  try {
    const json root = json::parse(text);
    Offer offer;
    offer.key = {JobId{root.at("job_id").get<std::int64_t>()},
                 AttemptNumber{root.at("attempt").get<std::uint32_t>()}};
    offer.slot = root.at("slot").get<std::uint32_t>();
    offer.display_name = root.at("display_name").get<std::string>();
    offer.spec_json = root.at("spec_json").get<std::string>();
    offer.dataset = dataset_of(offer.spec_json);
    for (const json& input : root.at("inputs")) {
      const auto role = parse_input_role(input.at("role").get<std::string>());
      if (!role) return absl::InvalidArgumentError("unknown role of an input");
      offer.inputs.push_back({*role, digest_at(input, "artifact_sha256")});
    }
    if (!root.at("resume_sha256").is_null()) offer.resume = digest_at(root, "resume_sha256");
    if (!root.at("dataset_sha256").is_null())
      offer.dataset_sha256 = digest_at(root, "dataset_sha256");
    offer.timeout = milliseconds{root.at("timeout_ms").get<std::int64_t>()};
    return offer;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

absl::StatusOr<Outcome> parse_outcome(std::string_view text) {
  try {
    const json root = json::parse(text);
    const auto kind = root.at("outcome").get<std::string>();
    if (kind == "cancelled") return Cancelled{};
    if (kind == "failed") {
      const auto failure_class = parse_failure_class(root.at("failure_class").get<std::string>());
      if (!failure_class) return absl::InvalidArgumentError("unknown failure class");
      return Failed{*failure_class, root.at("message").get<std::string>()};
    }
    if (kind != "succeeded")
      return absl::InvalidArgumentError(fmt::format("unknown outcome \"{}\"", kind));
    Succeeded succeeded;
    succeeded.artifact = digest_at(root, "artifact_sha256");
    succeeded.result = {
        optional_double(root.at("test_accuracy")), optional_double(root.at("validation_accuracy")),
        optional_double(root.at("test_loss")),     root.at("best_epoch").get<std::uint32_t>(),
        root.at("duration_seconds").get<double>(), root.at("images_per_second").get<double>()};
    // Spools of earlier versions have none.
    succeeded.report_json = root.value("report_json", std::string());
    return succeeded;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

std::string dataset_of(std::string_view spec_json) {
  const json spec = json::parse(spec_json, nullptr, false);
  if (!spec.is_object()) return "";
  const auto dataset = spec.find("dataset");
  return dataset != spec.end() && dataset->is_string() ? dataset->get<std::string>() : "";
}

}  // namespace bitrung::agent
