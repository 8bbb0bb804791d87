#include "worker/train/resume.h"

#include <nlohmann/json.hpp>

#include "worker/train/checkpoint.h"
#include "worker/train/checksum.h"
#include "worker/train/failure.h"

namespace bitrung::train {

namespace {

using nlohmann::json;

constexpr const char* kModelPrefix = "model.";
constexpr const char* kMomentumPrefix = "momentum.";
constexpr const char* kBestPrefix = "best.";
constexpr const char* kExtraPrefix = "extra.";

json evaluation_json(const Score& evaluation) {
  return {{"accuracy", evaluation.accuracy}, {"loss", evaluation.loss}};
}

Score parse_evaluation(const json& value) {
  return {value.at("accuracy"), value.at("loss")};
}

// Doubles are printed in their shortest exact form, so they return unchanged.
json counters_json(const Counters& counters) {
  json result = {{"threads", counters.threads},
                 {"epoch", counters.epoch},
                 {"step_in_epoch", counters.step_in_epoch},
                 {"correct", counters.correct},
                 {"seen", counters.seen},
                 {"window_loss", counters.window_loss},
                 {"window_distillation", counters.window_distillation},
                 {"window_steps", counters.window_steps},
                 {"window_seconds", counters.window_seconds},
                 {"trained_images", counters.trained_images},
                 {"step_seconds", counters.step_seconds},
                 {"duration_seconds", counters.duration_seconds}};
  if (counters.best) {
    result["best"] = {{"epoch", counters.best->epoch},
                      {"test", evaluation_json(counters.best->test)}};
    if (counters.best->validation) {
      result["best"]["validation"] = evaluation_json(*counters.best->validation);
    }
  }
  return result;
}

Counters parse_counters(const json& value) {
  Counters counters;
  counters.threads = value.value("threads", std::int64_t{0});
  value.at("epoch").get_to(counters.epoch);
  value.at("step_in_epoch").get_to(counters.step_in_epoch);
  value.at("correct").get_to(counters.correct);
  value.at("seen").get_to(counters.seen);
  value.at("window_loss").get_to(counters.window_loss);
  value.at("window_distillation").get_to(counters.window_distillation);
  value.at("window_steps").get_to(counters.window_steps);
  value.at("window_seconds").get_to(counters.window_seconds);
  value.at("trained_images").get_to(counters.trained_images);
  value.at("step_seconds").get_to(counters.step_seconds);
  value.at("duration_seconds").get_to(counters.duration_seconds);
  if (value.contains("best")) {
    const json& best = value.at("best");
    counters.best = Best{best.at("epoch"), std::nullopt, parse_evaluation(best.at("test"))};
    if (best.contains("validation")) {
      counters.best->validation = parse_evaluation(best.at("validation"));
    }
  }
  return counters;
}

std::string metadata_of(const SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? "" : found->second;
}

}  // namespace

SafetensorsFile make_resume(const Counters& counters, const TensorGroups& tensors,
                            const Spec& spec) {
  SafetensorsFile file;
  add_tensors(tensors.model, kModelPrefix, file);
  add_tensors(tensors.momentum, kMomentumPrefix, file);
  add_tensors(tensors.best, kBestPrefix, file);
  add_tensors(tensors.extra, kExtraPrefix, file);
  file.metadata = {{"format", "pt"},
                   {"bitrung.kind", "resume"},
                   {"bitrung.spec", canonical_spec(spec)},
                   {"bitrung.epoch", std::to_string(counters.epoch)},
                   {"bitrung.state", counters_json(counters).dump()}};
  seal(file);
  return file;
}

Counters restore(const SafetensorsFile& file, const Spec& spec, TensorGroups& tensors) {
  const std::string what = "resume state";
  if (metadata_of(file, "bitrung.kind") != "resume") {
    fail_user_error(what + ": its metadata bitrung.kind is \"" + metadata_of(file, "bitrung.kind") +
                    "\", expected \"resume\"");
  }
  if (const std::string damage = damage_of(file); !damage.empty()) {
    fail_user_error(what + ": " + damage);
  }
  if (metadata_of(file, "bitrung.spec") != canonical_spec(spec)) {
    fail_user_error(what + ": it belongs to another spec");
  }
  copy_tensors(file, kModelPrefix, tensors.model, what, spec.network.model);
  copy_tensors(file, kMomentumPrefix, tensors.momentum, what, spec.network.model);
  copy_tensors(file, kExtraPrefix, tensors.extra, what, spec.network.model);
  std::size_t expected = tensors.model.size() + tensors.momentum.size() + tensors.extra.size();
  tensors.best.clear();
  if (file.tensors.contains(kBestPrefix + tensors.model.front().name)) {
    for (const NamedTensor& tensor : tensors.model) {
      tensors.best.push_back({tensor.name, tensor.tensor.detach().clone()});
    }
    copy_tensors(file, kBestPrefix, tensors.best, what, spec.network.model);
    expected += tensors.best.size();
  }
  if (file.tensors.size() != expected) {
    fail_user_error(what + ": it has " + std::to_string(file.tensors.size()) +
                    " tensors, expected " + std::to_string(expected));
  }
  Counters counters;
  try {
    counters = parse_counters(json::parse(metadata_of(file, "bitrung.state")));
  } catch (const json::exception& error) {
    fail_user_error(what + ": its metadata bitrung.state is not understood: " + error.what());
  }
  if (counters.best.has_value() && spec.validation > 0 && tensors.best.empty()) {
    fail_user_error(what + ": it lacks the best epoch's tensors");
  }
  return counters;
}

}  // namespace bitrung::train
