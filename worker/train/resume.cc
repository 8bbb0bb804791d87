#include "worker/train/resume.h"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "worker/train/checkpoint.h"
#include "worker/train/failure.h"

namespace bitrung::train {

namespace {

using nlohmann::json;

constexpr const char* kModelPrefix = "model.";
constexpr const char* kMomentumPrefix = "momentum.";
constexpr const char* kBestPrefix = "best.";
constexpr const char* kExtraPrefix = "extra.";
constexpr const char* kChecksumKey = "bitrung.checksum";

json evaluation_json(const Score& evaluation) {
  return {{"accuracy", evaluation.accuracy}, {"loss", evaluation.loss}};
}

Score parse_evaluation(const json& value) {
  return {value.at("accuracy"), value.at("loss")};
}

// 64 bits over everything that the file holds but themselves. Each step is a bijection of the
// state, so a change inside one word is always seen. Against damage; whoever means harm has to get
// past the artifact's SHA-256.
class Checksum {
 public:
  void add(std::span<const std::uint8_t> bytes) {
    std::uint64_t word = 0;
    while (bytes.size() >= sizeof word) {
      std::memcpy(&word, bytes.data(), sizeof word);
      mix(word);
      bytes = bytes.subspan(sizeof word);
    }
    word = 0;
    std::memcpy(&word, bytes.data(), bytes.size());
    mix(word);
    mix(bytes.size());
  }
  void add(std::string_view text) {
    mix(text.size());
    add({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  void mix(std::uint64_t word) { state_ = std::rotl((state_ ^ word) * 0x9e37'79b9'7f4a'7c15, 29); }
  std::string text() const {
    std::array<char, 17> digits{};
    std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(state_));
    return digits.data();
  }

 private:
  std::uint64_t state_ = 0;
};

std::string checksum_of(const SafetensorsFile& file) {
  Checksum sum;
  for (const auto& [key, value] : file.metadata) {
    if (key == kChecksumKey) continue;
    sum.add(key);
    sum.add(value);
  }
  for (const auto& [name, tensor] : file.tensors) {
    sum.add(name);
    sum.add(dtype_name(tensor.dtype));
    for (const std::int64_t size : tensor.shape) sum.mix(static_cast<std::uint64_t>(size));
    sum.add(tensor.bytes);
  }
  return sum.text();
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
  file.metadata[kChecksumKey] = checksum_of(file);
  return file;
}

Counters restore(const SafetensorsFile& file, const Spec& spec, TensorGroups& tensors) {
  const std::string what = "resume state";
  if (metadata_of(file, "bitrung.kind") != "resume") {
    fail_user_error(what + ": its metadata bitrung.kind is \"" + metadata_of(file, "bitrung.kind") +
                    "\", expected \"resume\"");
  }
  if (const std::string said = metadata_of(file, kChecksumKey); said != checksum_of(file)) {
    fail_user_error(what + ": its checksum is \"" + said + "\", its content has " +
                    checksum_of(file) + "; it was damaged on a disk");
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
