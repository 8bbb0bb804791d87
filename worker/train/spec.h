// The spec of one training: every option that can change the numbers (PROTOCOL.md, "Spec").
//
// Plain values; no LibTorch. parse_spec() accepts only complete and sensible specs, so that nothing
// behind it has to check an option again.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::train {

// Rises whenever equal specs may give other numbers than before. Part of every job's identity.
inline constexpr std::int64_t kNumerics = 1;

struct Bits {
  int weights = 32;
  int activations = 32;
  bool operator==(const Bits&) const = default;
};

struct Method {
  std::string weights = "dorefa";
  std::string activations = "dorefa";
  bool operator==(const Method&) const = default;
};

struct SyntheticOptions {
  std::uint64_t seed = 1;
  std::int64_t train_images = 8000;
  std::int64_t test_images = 2000;
  bool operator==(const SyntheticOptions&) const = default;
};

struct OptimizerOptions {
  double learning_rate = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 1e-4;
};

enum class ScheduleKind { kConstant, kStep, kCosine };

struct Schedule {
  ScheduleKind kind = ScheduleKind::kConstant;
  std::vector<double> at;  // Fractions of the training, ascending; only for kStep.
  double factor = 0.1;     // Only for kStep.
  std::int64_t warmup_epochs = 0;
};

struct Distillation {
  double temperature = 1.0;
  double weight = 0.5;
};

enum class Init { kScratch, kTeacher, kJob, kArtifact };

// Says what an outside teacher's file holds.
struct OutsideTeacher {
  std::string artifact;  // SHA-256 in lower-case hexadecimal digits.
  std::string model;
  Bits bits;
  Method method;
};

struct Spec {
  std::string model = "resnet20";
  std::string dataset = "cifar10";
  std::optional<SyntheticOptions> synthetic;  // Set exactly when dataset is "synthetic".
  std::int64_t train_images = 0;              // 0: all.
  Method method;
  Bits bits;
  std::int64_t epochs = 1;
  std::int64_t batch_size = 128;
  std::uint64_t seed = 0;
  OptimizerOptions optimizer;
  Schedule schedule;
  bool augment_crop = false;
  bool augment_flip = false;
  std::int64_t validation = 0;
  std::optional<Distillation> distill;
  Init init = Init::kScratch;
  std::optional<OutsideTeacher> teacher;
  std::string init_artifact;  // Set exactly when init is kArtifact.
};

// A spec to train by must be of this trainer's numerics; the one inside a checkpoint only says
// what it holds.
enum class NumericsRule { kMustBeOurs, kAny };

// Reads a spec from JSON text. Throws Failure(kUserError) that names the key, the value and what is
// allowed.
Spec parse_spec(std::string_view json, NumericsRule rule = NumericsRule::kMustBeOurs);

// The one text of a spec: keys sorted, no white space, numbers in their shortest exact form.
std::string canonical_spec(const Spec& spec);

// Number of classes of a data set that parse_spec accepts: 10, or 100 for cifar100.
int class_count(std::string_view dataset);

// Blocks in each of the three stages of a model that parse_spec accepts: (depth - 2) / 6; 0 for an
// unknown name.
int blocks_per_stage(std::string_view model);

}  // namespace bitrung::train
