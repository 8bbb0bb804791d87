#include "worker/train/spec.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>

#include "db/base/check.h"
#include "worker/train/failure.h"

namespace bitrung::train {

namespace {

using nlohmann::json;

// Far beyond any sensible training, and small enough that products of two of them fit 64 bits.
constexpr std::int64_t kEpochsMax = 1'000'000;
constexpr std::int64_t kBatchSizeMax = 65'536;
constexpr std::int64_t kImagesMax = 1'000'000;
// 3 KiB an image: 600 MiB.
constexpr std::int64_t kSyntheticImagesMax = 200'000;

constexpr std::array<std::string_view, 8> kModels = {
    "resnet8", "resnet14", "resnet20", "resnet26", "resnet32", "resnet44", "resnet56", "resnet110"};
constexpr std::array<std::string_view, 3> kDatasets = {"cifar10", "cifar100", "synthetic"};

// Reads one JSON object: every key must be asked for, and asked-for keys must be there.
class ObjectReader {
 public:
  ObjectReader(const json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object()) {
      fail_user_error("spec: " + name_or("the spec") + " is " + object.dump() +
                      ", expected an object");
    }
  }

  bool has(const std::string& key) const { return object_.contains(key); }

  const json& get(const std::string& key) {
    seen_.push_back(key);
    const auto found = object_.find(key);
    if (found == object_.end()) {
      fail_user_error("spec: " + full(key) + " is missing; a spec has every default written out");
    }
    return *found;
  }

  std::int64_t integer(const std::string& key, std::int64_t min, std::int64_t max) {
    const json& value = get(key);
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<std::uint64_t>() >
             static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))) {
      wrong(key, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    }
    const auto number = value.get<std::int64_t>();
    if (number < min || number > max) {
      wrong(key, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
    }
    return number;
  }

  std::uint64_t unsigned_integer(const std::string& key) {
    const json& value = get(key);
    if (!value.is_number_unsigned()) {
      wrong(key, "an integer from 0 to 18446744073709551615");
    }
    return value.get<std::uint64_t>();
  }

  double number(const std::string& key, double min, double max, const std::string& expected) {
    const json& value = get(key);
    if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < min ||
        value.get<double>() > max) {
      wrong(key, expected);
    }
    return value.get<double>();
  }

  bool boolean(const std::string& key) {
    const json& value = get(key);
    if (!value.is_boolean()) {
      wrong(key, "true or false");
    }
    return value.get<bool>();
  }

  std::string text(const std::string& key) {
    const json& value = get(key);
    if (!value.is_string()) {
      wrong(key, "a text");
    }
    return value.get<std::string>();
  }

  template <typename Allowed>
  std::string one_of(const std::string& key, const Allowed& allowed) {
    const std::string value = text(key);
    if (std::find(std::begin(allowed), std::end(allowed), value) == std::end(allowed)) {
      std::string names;
      for (const std::string_view name : allowed) {
        names += (names.empty() ? "" : ", ") + std::string(name);
      }
      wrong(key, "one of " + names);
    }
    return value;
  }

  std::string sha256(const std::string& key) {
    const std::string value = text(key);
    if (value.size() != 64 || value.find_first_not_of("0123456789abcdef") != std::string::npos) {
      wrong(key, "a SHA-256 of 64 lower-case hexadecimal digits");
    }
    return value;
  }

  ObjectReader object(const std::string& key) { return ObjectReader(get(key), full(key)); }

  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const {
    fail_user_error("spec: " + full(key) + " is " +
                    object_.at(key).dump(-1, ' ', true, json::error_handler_t::replace) +
                    ", expected " + expected);
  }

  void reject_unknown_keys() const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(seen_.begin(), seen_.end(), key) == seen_.end()) {
        fail_user_error(
            "spec: unknown key " +
            json(full(key)).dump(-1, ' ', true, json::error_handler_t::replace) +
            "; the trainer and the program that wrote the spec may be of different versions");
      }
    }
  }

 private:
  std::string full(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  std::string name_or(const std::string& fallback) const {
    return path_.empty() ? fallback : path_;
  }

  const json& object_;
  std::string path_;
  std::vector<std::string> seen_;
};

Bits parse_bits(ObjectReader reader) {
  const auto bits = [&reader](const std::string& key) {
    const auto value = static_cast<int>(reader.integer(key, 1, 32));
    if (value > 8 && value != 16 && value != 32) {
      reader.wrong(key, "1 to 8, 16 or 32 bits");
    }
    return value;
  };
  Bits result;
  result.activations = bits("activations");
  result.weights = bits("weights");
  reader.reject_unknown_keys();
  return result;
}

// Whether a method of this name exists is for the registry of quantizers to say
// (quant/quantizer.h).
Method parse_method(ObjectReader reader) {
  Method result;
  result.activations = reader.text("activations");
  result.weights = reader.text("weights");
  reader.reject_unknown_keys();
  return result;
}

SyntheticOptions parse_synthetic(ObjectReader reader) {
  SyntheticOptions result;
  result.seed = reader.unsigned_integer("seed");
  result.train_images = reader.integer("train_images", 1, kSyntheticImagesMax);
  result.test_images = reader.integer("test_images", 1, kSyntheticImagesMax);
  reader.reject_unknown_keys();
  return result;
}

OptimizerOptions parse_optimizer(ObjectReader reader) {
  OptimizerOptions result;
  reader.one_of("kind", std::array<std::string_view, 1>{"sgd"});
  result.learning_rate = reader.number("learning_rate", 0.0, 1e30, "a number >= 0");
  result.momentum = reader.number("momentum", 0.0, 1.0, "a number from 0 to 1");
  result.nesterov = reader.boolean("nesterov");
  result.weight_decay = reader.number("weight_decay", 0.0, 1e30, "a number >= 0");
  if (result.nesterov && result.momentum == 0.0) {
    reader.wrong("nesterov", "false, since momentum is 0");
  }
  reader.reject_unknown_keys();
  return result;
}

Schedule parse_schedule(ObjectReader reader) {
  Schedule result;
  const std::string kind =
      reader.one_of("kind", std::array<std::string_view, 3>{"constant", "cosine", "step"});
  result.warmup_epochs = reader.integer("warmup_epochs", 0, kEpochsMax);
  if (kind == "cosine") {
    result.kind = ScheduleKind::kCosine;
  } else if (kind == "step") {
    result.kind = ScheduleKind::kStep;
    const std::string expected = "an array of at most 64 ascending fractions from 0 to 1";
    const json& at = reader.get("at");
    if (!at.is_array() || at.size() > 64) {
      reader.wrong("at", expected);
    }
    for (const json& fraction : at) {
      if (!fraction.is_number() ||
          !(fraction.get<double>() >= 0.0 && fraction.get<double>() <= 1.0) ||
          (!result.at.empty() && fraction.get<double>() <= result.at.back())) {
        reader.wrong("at", expected);
      }
      result.at.push_back(fraction.get<double>());
    }
    result.factor = reader.number("factor", 0.0, 1e30, "a number >= 0");
  }
  reader.reject_unknown_keys();
  return result;
}

Distillation parse_distill(ObjectReader reader) {
  Distillation result;
  reader.one_of("kind", std::array<std::string_view, 1>{"kd"});
  result.temperature = reader.number("temperature", 1e-3, 1e6, "a number from 0.001 to 1000000");
  result.weight = reader.number("weight", 0.0, 1.0, "a number from 0 to 1");
  reader.reject_unknown_keys();
  return result;
}

OutsideTeacher parse_teacher(ObjectReader reader) {
  OutsideTeacher result;
  result.artifact = reader.sha256("artifact");
  result.model = reader.one_of("model", kModels);
  result.bits = parse_bits(reader.object("bits"));
  result.method = parse_method(reader.object("method"));
  reader.reject_unknown_keys();
  return result;
}

Init parse_init(ObjectReader& reader) {
  const std::string init = reader.one_of(
      "init", std::array<std::string_view, 4>{"scratch", "teacher", "job", "artifact"});
  if (init == "teacher") {
    return Init::kTeacher;
  }
  if (init == "job") {
    return Init::kJob;
  }
  return init == "artifact" ? Init::kArtifact : Init::kScratch;
}

void parse_augment(ObjectReader& reader, Spec& spec) {
  const json& augment = reader.get("augment");
  if (augment == json::array({"crop", "flip"})) {
    spec.augment_crop = spec.augment_flip = true;
  } else if (augment == json::array({"crop"})) {
    spec.augment_crop = true;
  } else if (augment == json::array({"flip"})) {
    spec.augment_flip = true;
  } else if (augment != json::array()) {
    reader.wrong("augment", R"([], ["crop"], ["flip"] or ["crop","flip"])");
  }
}

json bits_json(const Bits& bits) {
  return {{"activations", bits.activations}, {"weights", bits.weights}};
}

json method_json(const Method& method) {
  return {{"activations", method.activations}, {"weights", method.weights}};
}

json schedule_json(const Schedule& schedule) {
  json result = {{"warmup_epochs", schedule.warmup_epochs}};
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
      result["kind"] = "constant";
      break;
    case ScheduleKind::kCosine:
      result["kind"] = "cosine";
      break;
    case ScheduleKind::kStep:
      result["kind"] = "step";
      result["at"] = schedule.at;
      result["factor"] = schedule.factor;
      break;
  }
  return result;
}

std::string_view init_name(Init init) {
  switch (init) {
    case Init::kScratch:
      return "scratch";
    case Init::kTeacher:
      return "teacher";
    case Init::kJob:
      return "job";
    case Init::kArtifact:
      return "artifact";
  }
  BITRUNG_CHECK(!"an init without a name");
}

}  // namespace

Spec parse_spec(std::string_view text, NumericsRule rule) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    fail_user_error(std::string("spec: not JSON: ") + error.what());
  }
  ObjectReader reader(document, "");
  Spec spec;
  reader.one_of("kind", std::array<std::string_view, 1>{"train"});
  const std::int64_t numerics =
      reader.integer("numerics", 0, std::numeric_limits<std::int64_t>::max());
  if (rule == NumericsRule::kMustBeOurs && numerics != kNumerics) {
    fail_user_error("spec: numerics is " + std::to_string(numerics) + ", this trainer's is " +
                    std::to_string(kNumerics) +
                    "; give the job to a worker of that version or submit it again");
  }
  spec.model = reader.one_of("model", kModels);
  spec.dataset = reader.one_of("dataset", kDatasets);
  if (spec.dataset == "synthetic") {
    spec.synthetic = parse_synthetic(reader.object("synthetic"));
  }
  spec.train_images = reader.integer("train_images", 0, kImagesMax);
  spec.method = parse_method(reader.object("method"));
  spec.bits = parse_bits(reader.object("bits"));
  spec.epochs = reader.integer("epochs", 1, kEpochsMax);
  spec.batch_size = reader.integer("batch_size", 1, kBatchSizeMax);
  spec.seed = reader.unsigned_integer("seed");
  spec.optimizer = parse_optimizer(reader.object("optimizer"));
  spec.schedule = parse_schedule(reader.object("schedule"));
  parse_augment(reader, spec);
  spec.validation = reader.integer("validation", 0, kImagesMax);
  if (reader.has("distill")) {
    spec.distill = parse_distill(reader.object("distill"));
  }
  spec.init = parse_init(reader);
  if (reader.has("teacher")) {
    spec.teacher = parse_teacher(reader.object("teacher"));
  }
  if (spec.init == Init::kArtifact) {
    spec.init_artifact = reader.sha256("init_artifact");
  }
  reader.reject_unknown_keys();
  return spec;
}

std::string canonical_spec(const Spec& spec) {
  json augment = json::array();
  if (spec.augment_crop) {
    augment.push_back("crop");
  }
  if (spec.augment_flip) {
    augment.push_back("flip");
  }
  // nlohmann::json keeps objects sorted by key and prints doubles in their shortest exact form.
  json document = {
      {"kind", "train"},
      {"numerics", kNumerics},
      {"model", spec.model},
      {"dataset", spec.dataset},
      {"train_images", spec.train_images},
      {"method", method_json(spec.method)},
      {"bits", bits_json(spec.bits)},
      {"epochs", spec.epochs},
      {"batch_size", spec.batch_size},
      {"seed", spec.seed},
      {"optimizer",
       {{"kind", "sgd"},
        {"learning_rate", spec.optimizer.learning_rate},
        {"momentum", spec.optimizer.momentum},
        {"nesterov", spec.optimizer.nesterov},
        {"weight_decay", spec.optimizer.weight_decay}}},
      {"schedule", schedule_json(spec.schedule)},
      {"augment", augment},
      {"validation", spec.validation},
      {"init", init_name(spec.init)},
  };
  if (spec.synthetic) {
    document["synthetic"] = {{"seed", spec.synthetic->seed},
                             {"train_images", spec.synthetic->train_images},
                             {"test_images", spec.synthetic->test_images}};
  }
  if (spec.distill) {
    document["distill"] = {{"kind", "kd"},
                           {"temperature", spec.distill->temperature},
                           {"weight", spec.distill->weight}};
  }
  if (spec.teacher) {
    document["teacher"] = {{"artifact", spec.teacher->artifact},
                           {"model", spec.teacher->model},
                           {"bits", bits_json(spec.teacher->bits)},
                           {"method", method_json(spec.teacher->method)}};
  }
  if (spec.init == Init::kArtifact) {
    document["init_artifact"] = spec.init_artifact;
  }
  return document.dump();
}

int class_count(std::string_view dataset) {
  return dataset == "cifar100" ? 100 : 10;
}

int blocks_per_stage(std::string_view model) {
  if (std::find(kModels.begin(), kModels.end(), model) == kModels.end()) {
    return 0;
  }
  return (std::stoi(std::string(model.substr(6))) - 2) / 6;
}

}  // namespace bitrung::train
