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

#include "worker/train/nn/architecture.h"
#include "worker/train/numerics.h"
#include "worker/train/quant/methods.h"

namespace bitrung::train {

// What a job does.
enum class Kind { kTrain, kQuantize, kEvaluate };

// Bits of the weights of a layer and of what it computes with.
struct LayerBits {
  int weights = 32;
  int activations = 32;
  bool operator==(const LayerBits&) const = default;
};

// Bits of a network: 1 to 8, 16 or 32 (not quantized) each.
struct Bits {
  struct Rule {
    std::string pattern;  // matches() of nn/architecture.h.
    LayerBits bits;
    bool operator==(const Rule&) const = default;
  };

  int weights = 32;  // Of inner layers.
  int activations = 32;
  int first = 32;            // Weights of the first layer.
  int shortcut = 32;         // Weights of the shortcuts' convolutions.
  int last = 32;             // Weights and input of the last layer.
  int gradients = 32;        // Of the gradient that enters each quantized layer from above.
  std::vector<Rule> layers;  // Of the layers they match; the last one that matches counts.

  // Of one layer of a network.
  LayerBits of(std::string_view layer, LayerRole role) const;
  bool operator==(const Bits&) const = default;
};

struct Method {
  std::string weights = "dorefa";
  std::string activations = "dorefa";
  MethodOptions options;  // Those that neither method has keep their defaults.
  bool operator==(const Method&) const = default;
};

// Everything that decides which tensors a network has.
struct NetworkChoice {
  std::string model = "resnet20";
  bool shortcut_per_convolution = false;
  Bits bits;
  Method method;
  bool operator==(const NetworkChoice&) const = default;
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

// What a training computes with. kAuto takes the fused loops where they know the network.
enum class Backend { kAuto, kFused, kEager };

enum class DistillKind { kKd, kDkd };

// How a value goes from its start to its end over a training.
enum class Ramp { kConstant, kLinear, kCosine };

struct Distillation {
  DistillKind kind = DistillKind::kKd;
  double temperature = 1.0;
  double temperature_end = 1.0;
  double weight = 0.5;
  double weight_end = 0.5;
  Ramp ramp = Ramp::kConstant;
  double self_study = 0.0;  // Share of the epochs at the start without a teacher.
  double alpha = 1.0;       // Of kDkd: weight of the target class's part,
  double beta = 8.0;        // and of the other classes' part.
  double attention = 0.0;   // Weights of further losses; 0 for none.
  double hint = 0.0;
  double similarity = 0.0;

  bool uses_features() const { return attention > 0.0 || hint > 0.0 || similarity > 0.0; }
};

enum class Init { kScratch, kTeacher, kJob, kArtifact };

// Says what an outside teacher's file holds.
struct OutsideTeacher {
  std::string artifact;  // SHA-256 in lower-case hexadecimal digits.
  NetworkChoice network;
};

enum class Clipping { kMinMax, kAverage, kDeviations, kPercentile, kAciqGauss, kAciqLaplace };

// Of a post-training quantization.
struct Calibration {
  std::int64_t batches = 10;
  std::int64_t batch_size = 128;
  Clipping clip = Clipping::kMinMax;
  double deviations = 3.0;        // Only for kDeviations.
  double percentile = 99.9;       // Only for kPercentile.
  std::int64_t norm_batches = 0;  // That re-estimate batch normalisations; 0 leaves them.
};

struct Spec {
  Kind kind = Kind::kTrain;
  NetworkChoice network;
  std::string dataset = "cifar10";
  std::optional<SyntheticOptions> synthetic;  // Set exactly when dataset is "synthetic".
  std::int64_t train_images = 0;              // 0: all.
  std::uint64_t seed = 0;
  std::int64_t validation = 0;
  // Of kTrain only.
  std::int64_t epochs = 1;
  std::int64_t batch_size = 128;
  OptimizerOptions optimizer;
  Schedule schedule;
  bool augment_crop = false;
  bool augment_flip = false;
  Backend backend = Backend::kAuto;
  std::optional<Distillation> distill;
  Init init = Init::kScratch;
  std::vector<OutsideTeacher> teachers;
  std::string init_artifact;  // Set exactly when init is kArtifact.
  // Of kQuantize only.
  Calibration calibration;
};

// A spec to train by must be of this trainer's numerics; the one inside a checkpoint only says
// what it holds.
enum class NumericsRule { kMustBeOurs, kAny };

// Reads a spec from JSON text. Throws Failure(kUserError) that names the key, the value and what is
// allowed.
Spec parse_spec(std::string_view json, NumericsRule rule = NumericsRule::kMustBeOurs);

// The one text of a spec: keys sorted, no white space, numbers in their shortest exact form.
std::string canonical_spec(const Spec& spec);

// The same of a network alone: model, shortcut, bits and method.
std::string canonical_network(const NetworkChoice& network);

// Number of classes of a data set that parse_spec accepts: 10, or 100 for cifar100.
int class_count(std::string_view dataset);

}  // namespace bitrung::train
