#include "worker/agent/trainer_protocol.h"

#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bitrung::agent {
namespace {

using nlohmann::json;

std::optional<double> optional_double(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number()) return std::nullopt;
  const double value = it->get<double>();
  return std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

PointsMeasured parse_points(const json& event) {
  PointsMeasured measured;
  for (const json& point : event.at("points")) {
    auto series = point.at(0).get<std::string>();
    // A double that is not finite is written as null.
    if (!point.at(2).is_number()) continue;
    if (series.size() > kSeriesNameBytesMax || !is_valid_name(series)) continue;
    const double value = point.at(2).get<double>();
    if (std::isfinite(value))
      measured.points.push_back({std::move(series), point.at(1).get<std::int64_t>(), value});
  }
  return measured;
}

ProgressMade parse_progress(const json& event) {
  Progress progress;
  progress.epoch = event.at("epoch").get<std::uint32_t>();
  progress.epochs = event.at("epochs").get<std::uint32_t>();
  progress.step = event.at("step").get<std::uint64_t>();
  progress.steps = event.at("steps").get<std::uint64_t>();
  progress.images_per_second = optional_double(event, "images_per_second").value_or(0);
  progress.accuracy = optional_double(event, "accuracy");
  progress.eta_seconds = optional_double(event, "eta_seconds");
  return {progress};
}

TrainingSucceeded parse_succeeded(const json& event) {
  const json& result = event.at("result");
  TrainingSucceeded succeeded;
  succeeded.path = event.at("path").get<std::string>();
  succeeded.result.test_accuracy = optional_double(result, "test_accuracy");
  succeeded.result.validation_accuracy = optional_double(result, "validation_accuracy");
  succeeded.result.test_loss = optional_double(result, "test_loss");
  succeeded.result.best_epoch = result.at("best_epoch").get<std::uint32_t>();
  succeeded.result.duration_seconds = optional_double(result, "duration_seconds").value_or(0);
  succeeded.result.images_per_second = optional_double(result, "images_per_second").value_or(0);
  if (const auto report = event.find("report"); report != event.end() && report->is_object()) {
    succeeded.report_json = report->dump();
    if (succeeded.report_json.size() > kReportBytesMax) {
      succeeded.report_bytes_left_out = succeeded.report_json.size();
      succeeded.report_json.clear();
    }
  }
  return succeeded;
}

CheckpointFile parse_file(const json& event) {
  return {event.at("epoch").get<std::uint32_t>(), event.at("path").get<std::string>()};
}

absl::StatusOr<TrainingEvent> parse_training_event(const std::string& kind, const json& event) {
  if (kind == "started") return TrainingStarted{event.at("resumed_epoch").get<std::uint32_t>()};
  if (kind == "points") return parse_points(event);
  if (kind == "progress") return parse_progress(event);
  if (kind == "checkpoint") return CheckpointWritten{parse_file(event)};
  if (kind == "succeeded") return parse_succeeded(event);
  if (kind == "failed") {
    const auto failure_class = parse_failure_class(event.at("class").get<std::string>());
    return TrainingFailed{failure_class.value_or(FailureClass::kTrainerCrashed),
                          to_utf8(event.at("message").get<std::string>())};
  }
  if (kind == "cancelled") return TrainingCancelled{};
  if (kind == "preempted") {
    TrainingPreempted preempted;
    if (const auto path = event.find("path"); path != event.end() && path->is_string()) {
      preempted.file = parse_file(event);
    }
    return preempted;
  }
  return absl::InvalidArgumentError(fmt::format("unknown event \"{}\"", kind));
}

json path_or_null(const std::map<Digest, std::string>& paths, const std::optional<Digest>& digest) {
  if (!digest) return nullptr;
  const auto it = paths.find(*digest);
  return it == paths.end() ? json(nullptr) : json(it->second);
}

// Paths of the offer's inputs of this role, in their order.
json paths_of(const Offer& offer, InputRole role, const std::map<Digest, std::string>& paths) {
  json list = json::array();
  for (const OfferInput& input : offer.inputs) {
    if (input.role == role) list.push_back(path_or_null(paths, input.artifact));
  }
  return list;
}

json first_or_null(const json& list) {
  return list.empty() ? json(nullptr) : list.front();
}

}  // namespace

absl::StatusOr<TrainerEvent> parse_trainer_event(std::string_view line) {
  try {
    const json event = json::parse(line);
    const auto kind = event.at("event").get<std::string>();
    if (kind == "ready") {
      return ReadyEvent{event.at("numerics").get<std::uint32_t>(),
                        event.at("device").get<std::string>()};
    }
    absl::StatusOr<TrainingEvent> training = parse_training_event(kind, event);
    if (!training.ok()) return training.status();
    return KeyedEvent{event.at("key").get<std::string>(), *std::move(training)};
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

std::string train_command(const Offer& offer, const std::string& work_dir,
                          const std::string& data_dir, const std::map<Digest, std::string>& paths) {
  json command{{"command", "train"},
               {"key", to_string(offer.key)},
               {"spec", json::parse(offer.spec_json, nullptr, false)},
               {"work_dir", work_dir},
               {"data_dir", data_dir},
               {"teachers", paths_of(offer, InputRole::kTeacher, paths)},
               {"init", first_or_null(paths_of(offer, InputRole::kInit, paths))},
               {"source", first_or_null(paths_of(offer, InputRole::kSource, paths))},
               {"resume", path_or_null(paths, offer.resume)}};
  if (offer.threads > 0) command["threads"] = offer.threads;
  return command.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string cancel_command(const AttemptKey& key) {
  return json{{"command", "cancel"}, {"key", to_string(key)}}.dump() + "\n";
}

std::string preempt_command(const AttemptKey& key) {
  return json{{"command", "preempt"}, {"key", to_string(key)}}.dump() + "\n";
}

}  // namespace bitrung::agent
