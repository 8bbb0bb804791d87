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
constexpr std::size_t kLayerRulesMax = 1000;
constexpr std::size_t kTeachersMax = 16;

// In the order of Backend.
constexpr std::array<std::string_view, 3> kBackends = {"auto", "fused", "eager"};
constexpr std::array<std::string_view, 3> kDatasets = {"cifar10", "cifar100", "synthetic"};

constexpr std::array<std::string_view, 3> kKinds = {"train", "quantize", "evaluate"};
// In the order of Clipping.
constexpr std::array<std::string_view, 6> kClippingNames = {
    "minmax", "average", "sd", "percentile", "aciq-gauss", "aciq-laplace"};

bool method_has(const Method& method, MethodOption option) {
  const MethodInfo* const weights = find_method(method.weights);
  const MethodInfo* const activations = find_method(method.activations);
  return (weights != nullptr && weights->has(option)) ||
         (activations != nullptr && activations->has(option));
}

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

bool is_bit_width(std::int64_t bits) {
  return (bits >= 1 && bits <= 8) || bits == 16 || bits == 32;
}

std::vector<Bits::Rule> parse_layer_rules(ObjectReader& reader) {
  const std::string expected = "an array of [pattern, weight bits, activation bits]";
  std::vector<Bits::Rule> rules;
  const json& layers = reader.get("layers");
  if (!layers.is_array() || layers.size() > kLayerRulesMax) {
    reader.wrong("layers", expected);
  }
  for (const json& layer : layers) {
    if (!layer.is_array() || layer.size() != 3 || !layer[0].is_string() ||
        !layer[1].is_number_integer() || !layer[2].is_number_integer() ||
        !is_bit_width(layer[1].get<std::int64_t>()) ||
        !is_bit_width(layer[2].get<std::int64_t>())) {
      reader.wrong("layers", expected);
    }
    rules.push_back({layer[0].get<std::string>(), {layer[1].get<int>(), layer[2].get<int>()}});
  }
  return rules;
}

Bits parse_bits(ObjectReader reader) {
  const auto bits = [&reader](const std::string& key) {
    const std::int64_t value = reader.integer(key, 1, 32);
    if (!is_bit_width(value)) {
      reader.wrong(key, "1 to 8, 16 or 32 bits");
    }
    return static_cast<int>(value);
  };
  Bits result;
  result.activations = bits("activations");
  result.first = bits("first");
  result.gradients = bits("gradients");
  result.last = bits("last");
  result.layers = parse_layer_rules(reader);
  result.shortcut = bits("shortcut");
  result.weights = bits("weights");
  reader.reject_unknown_keys();
  return result;
}

// Options of methods are there exactly if one of the two methods has them. Whether the methods can
// do what is asked of them is for their registry to say (quant/quantizer.h).
Method parse_method(ObjectReader reader) {
  Method result;
  result.activations = reader.text("activations");
  result.weights = reader.text("weights");
  MethodOptions& options = result.options;
  if (method_has(result, MethodOption::kRange)) {
    options.range = reader.one_of("range", std::array<std::string_view, 3>{
                                               "asymmetric", "symmetric", "symmetric-restricted"});
  }
  if (method_has(result, MethodOption::kGranularity)) {
    options.granularity =
        reader.one_of("granularity", std::array<std::string_view, 2>{"channel", "tensor"});
  }
  if (method_has(result, MethodOption::kEmaDecay)) {
    options.ema_decay = reader.number("ema_decay", 0.0, 1.0 - 1e-9, "a number from 0, below 1");
  }
  if (method_has(result, MethodOption::kScale)) {
    options.scale = reader.one_of("scale", std::array<std::string_view, 2>{"fixed", "learned"});
  }
  if (method_has(result, MethodOption::kClipInit)) {
    options.clip_init = reader.number("clip_init", 1e-6, 1e6, "a number from 1e-6 to 1e6");
  }
  if (method_has(result, MethodOption::kClipDecay)) {
    options.clip_decay = reader.number("clip_decay", 0.0, 1e30, "a number >= 0");
  }
  reader.reject_unknown_keys();
  return result;
}

// The keys of a network, wherever they stand.
NetworkChoice parse_network(ObjectReader& reader) {
  NetworkChoice result;
  result.model = reader.text("model");
  const auto architecture = parse_architecture(result.model);
  if (!architecture) {
    reader.wrong("model", std::string(model_names()));
  }
  result.shortcut_per_convolution =
      reader.one_of("shortcut", std::array<std::string_view, 2>{"block", "convolution"}) ==
      "convolution";
  if (result.shortcut_per_convolution &&
      (architecture->family != Family::kResNet || architecture->bottleneck)) {
    reader.wrong("shortcut", "block, since " + result.model + " has no basic blocks");
  }
  result.bits = parse_bits(reader.object("bits"));
  result.method = parse_method(reader.object("method"));
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

Ramp parse_ramp(ObjectReader& reader) {
  const std::string ramp =
      reader.one_of("schedule", std::array<std::string_view, 3>{"constant", "cosine", "linear"});
  if (ramp == "cosine") {
    return Ramp::kCosine;
  }
  return ramp == "linear" ? Ramp::kLinear : Ramp::kConstant;
}

Distillation parse_distill(ObjectReader reader) {
  Distillation result;
  const auto temperature = [&reader](const std::string& key) {
    return reader.number(key, 1e-3, 1e6, "a number from 0.001 to 1000000");
  };
  const auto share = [&reader](const std::string& key) {
    return reader.number(key, 0.0, 1.0, "a number from 0 to 1");
  };
  const auto factor = [&reader](const std::string& key) {
    return reader.number(key, 0.0, 1e9, "a number from 0 to 1e9");
  };
  if (reader.one_of("kind", std::array<std::string_view, 2>{"dkd", "kd"}) == "dkd") {
    result.kind = DistillKind::kDkd;
    result.alpha = factor("alpha");
    result.beta = factor("beta");
  }
  result.temperature = temperature("temperature");
  result.temperature_end = temperature("temperature_end");
  result.weight = share("weight");
  result.weight_end = share("weight_end");
  result.ramp = parse_ramp(reader);
  result.self_study = share("self_study");
  result.attention = factor("attention");
  result.hint = factor("hint");
  result.similarity = factor("similarity");
  reader.reject_unknown_keys();
  return result;
}

std::vector<OutsideTeacher> parse_teachers(ObjectReader& reader) {
  const json& teachers = reader.get("teachers");
  if (!teachers.is_array() || teachers.empty() || teachers.size() > kTeachersMax) {
    reader.wrong("teachers", "an array of 1 to " + std::to_string(kTeachersMax) + " networks");
  }
  std::vector<OutsideTeacher> result;
  for (std::size_t i = 0; i < teachers.size(); ++i) {
    ObjectReader teacher(teachers[i], "teachers[" + std::to_string(i) + "]");
    result.push_back({teacher.sha256("artifact"), parse_network(teacher)});
    teacher.reject_unknown_keys();
  }
  return result;
}

Calibration parse_calibration(ObjectReader reader) {
  Calibration result;
  result.batches = reader.integer("batches", 1, kImagesMax);
  result.batch_size = reader.integer("batch_size", 1, kBatchSizeMax);
  result.norm_batches = reader.integer("batch_norm", 0, kImagesMax);
  reader.one_of("clip", kClippingNames);
  const std::string clip = reader.text("clip");
  result.clip = static_cast<Clipping>(
      std::find(kClippingNames.begin(), kClippingNames.end(), clip) - kClippingNames.begin());
  if (result.clip == Clipping::kDeviations) {
    result.deviations = reader.number("sd", 1e-3, 1e3, "a number from 0.001 to 1000");
  } else if (result.clip == Clipping::kPercentile) {
    result.percentile =
        reader.number("percentile", 50.0 + 1e-9, 100.0, "a number above 50, at most 100");
  }
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
  json layers = json::array();
  for (const Bits::Rule& rule : bits.layers) {
    layers.push_back({rule.pattern, rule.bits.weights, rule.bits.activations});
  }
  return {{"activations", bits.activations},
          {"first", bits.first},
          {"gradients", bits.gradients},
          {"last", bits.last},
          {"layers", layers},
          {"shortcut", bits.shortcut},
          {"weights", bits.weights}};
}

json method_json(const Method& method) {
  json result = {{"activations", method.activations}, {"weights", method.weights}};
  const MethodOptions& options = method.options;
  const auto add = [&](MethodOption option, const char* key, const auto& value) {
    if (method_has(method, option)) {
      result[key] = value;
    }
  };
  add(MethodOption::kRange, "range", options.range);
  add(MethodOption::kGranularity, "granularity", options.granularity);
  add(MethodOption::kEmaDecay, "ema_decay", options.ema_decay);
  add(MethodOption::kScale, "scale", options.scale);
  add(MethodOption::kClipInit, "clip_init", options.clip_init);
  add(MethodOption::kClipDecay, "clip_decay", options.clip_decay);
  return result;
}

void add_network(const NetworkChoice& network, json& document) {
  document["model"] = network.model;
  document["shortcut"] = network.shortcut_per_convolution ? "convolution" : "block";
  document["bits"] = bits_json(network.bits);
  document["method"] = method_json(network.method);
}

json distill_json(const Distillation& distill) {
  constexpr std::array<std::string_view, 3> kRampNames = {"constant", "linear", "cosine"};
  json result = {{"kind", "kd"},
                 {"temperature", distill.temperature},
                 {"temperature_end", distill.temperature_end},
                 {"weight", distill.weight},
                 {"weight_end", distill.weight_end},
                 {"schedule", kRampNames[static_cast<std::size_t>(distill.ramp)]},
                 {"self_study", distill.self_study},
                 {"attention", distill.attention},
                 {"hint", distill.hint},
                 {"similarity", distill.similarity}};
  if (distill.kind == DistillKind::kDkd) {
    result["kind"] = "dkd";
    result["alpha"] = distill.alpha;
    result["beta"] = distill.beta;
  }
  return result;
}

json calibration_json(const Calibration& calibration) {
  json result = {{"batches", calibration.batches},
                 {"batch_size", calibration.batch_size},
                 {"batch_norm", calibration.norm_batches},
                 {"clip", kClippingNames[static_cast<std::size_t>(calibration.clip)]}};
  if (calibration.clip == Clipping::kDeviations) {
    result["sd"] = calibration.deviations;
  } else if (calibration.clip == Clipping::kPercentile) {
    result["percentile"] = calibration.percentile;
  }
  return result;
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

// The keys that only a training has.
void parse_training(ObjectReader& reader, Spec& spec) {
  spec.epochs = reader.integer("epochs", 1, kEpochsMax);
  spec.batch_size = reader.integer("batch_size", 1, kBatchSizeMax);
  spec.optimizer = parse_optimizer(reader.object("optimizer"));
  spec.schedule = parse_schedule(reader.object("schedule"));
  parse_augment(reader, spec);
  const std::string backend = reader.one_of("backend", kBackends);
  spec.backend = static_cast<Backend>(std::find(kBackends.begin(), kBackends.end(), backend) -
                                      kBackends.begin());
  if (reader.has("distill")) {
    spec.distill = parse_distill(reader.object("distill"));
  }
  spec.init = parse_init(reader);
  if (reader.has("teachers")) {
    spec.teachers = parse_teachers(reader);
  }
  if (spec.init == Init::kArtifact) {
    spec.init_artifact = reader.sha256("init_artifact");
  }
}

void add_training(const Spec& spec, json& document) {
  document["epochs"] = spec.epochs;
  document["batch_size"] = spec.batch_size;
  document["optimizer"] = {{"kind", "sgd"},
                           {"learning_rate", spec.optimizer.learning_rate},
                           {"momentum", spec.optimizer.momentum},
                           {"nesterov", spec.optimizer.nesterov},
                           {"weight_decay", spec.optimizer.weight_decay}};
  document["schedule"] = schedule_json(spec.schedule);
  json augment = json::array();
  if (spec.augment_crop) {
    augment.push_back("crop");
  }
  if (spec.augment_flip) {
    augment.push_back("flip");
  }
  document["augment"] = augment;
  document["backend"] = kBackends[static_cast<std::size_t>(spec.backend)];
  if (spec.distill) {
    document["distill"] = distill_json(*spec.distill);
  }
  document["init"] = init_name(spec.init);
  if (!spec.teachers.empty()) {
    json teachers = json::array();
    for (const OutsideTeacher& teacher : spec.teachers) {
      json entry = {{"artifact", teacher.artifact}};
      add_network(teacher.network, entry);
      teachers.push_back(entry);
    }
    document["teachers"] = teachers;
  }
  if (spec.init == Init::kArtifact) {
    document["init_artifact"] = spec.init_artifact;
  }
}

}  // namespace

LayerBits Bits::of(std::string_view layer, LayerRole role) const {
  LayerBits result;
  switch (role) {
    case LayerRole::kFirst:
      result = {first, kFullPrecisionBits};
      break;
    case LayerRole::kInner:
      result = {weights, activations};
      break;
    case LayerRole::kShortcut:
      result = {shortcut, kFullPrecisionBits};
      break;
    case LayerRole::kLast:
      result = {last, last};
      break;
  }
  for (const Rule& rule : layers) {
    if (matches(rule.pattern, layer)) {
      result = rule.bits;
    }
  }
  return result;
}

Spec parse_spec(std::string_view text, NumericsRule rule) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    fail_user_error(std::string("spec: not JSON: ") + error.what());
  }
  ObjectReader reader(document, "");
  Spec spec;
  const std::string kind = reader.one_of("kind", kKinds);
  spec.kind = static_cast<Kind>(std::find(kKinds.begin(), kKinds.end(), kind) - kKinds.begin());
  const std::int64_t numerics =
      reader.integer("numerics", 0, std::numeric_limits<std::int64_t>::max());
  if (rule == NumericsRule::kMustBeOurs && numerics != kNumerics) {
    fail_user_error("spec: numerics is " + std::to_string(numerics) + ", this trainer's is " +
                    std::to_string(kNumerics) +
                    "; give the job to a worker of that version or submit it again");
  }
  spec.network = parse_network(reader);
  spec.dataset = reader.one_of("dataset", kDatasets);
  if (spec.dataset == "synthetic") {
    spec.synthetic = parse_synthetic(reader.object("synthetic"));
  }
  spec.train_images = reader.integer("train_images", 0, kImagesMax);
  spec.seed = reader.unsigned_integer("seed");
  spec.validation = reader.integer("validation", 0, kImagesMax);
  switch (spec.kind) {
    case Kind::kTrain:
      parse_training(reader, spec);
      break;
    case Kind::kQuantize:
      spec.calibration = parse_calibration(reader.object("calibration"));
      break;
    case Kind::kEvaluate:
      break;
  }
  reader.reject_unknown_keys();
  return spec;
}

std::string canonical_spec(const Spec& spec) {
  // nlohmann::json keeps objects sorted by key and prints doubles in their shortest exact form.
  json document = {
      {"kind", kKinds[static_cast<std::size_t>(spec.kind)]},
      {"numerics", kNumerics},
      {"dataset", spec.dataset},
      {"train_images", spec.train_images},
      {"seed", spec.seed},
      {"validation", spec.validation},
  };
  add_network(spec.network, document);
  if (spec.synthetic) {
    document["synthetic"] = {{"seed", spec.synthetic->seed},
                             {"train_images", spec.synthetic->train_images},
                             {"test_images", spec.synthetic->test_images}};
  }
  switch (spec.kind) {
    case Kind::kTrain:
      add_training(spec, document);
      break;
    case Kind::kQuantize:
      document["calibration"] = calibration_json(spec.calibration);
      break;
    case Kind::kEvaluate:
      break;
  }
  return document.dump();
}

std::string canonical_network(const NetworkChoice& network) {
  json document;
  add_network(network, document);
  return document.dump();
}

int class_count(std::string_view dataset) {
  return dataset == "cifar100" ? 100 : 10;
}

}  // namespace bitrung::train
