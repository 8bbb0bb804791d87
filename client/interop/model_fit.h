// Whether the tensors of a file are those of one of our networks, what differs if not, and the
// checkpoint that is made of them if so.
//
// Pure functions of their arguments, thread-safe. Who reads the result: worker/train/checkpoint.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/interop/state_dict.h"
#include "worker/train/nn/architecture.h"
#include "worker/train/safetensors.h"

namespace bitrung::interop {

// A tensor of a network's state dict.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  // Batches seen by a normalisation: an integer, and may be missing.
  bool is_counter = false;
};

std::vector<ExpectedTensor> expected_tensors(const train::Architecture& architecture, int classes);

enum class DifferenceKind : std::uint8_t { kMissing, kUnexpected, kShape, kDtype };

// "missing", "unexpected", "wrong shape", "wrong dtype".
std::string_view name(DifferenceKind kind);

struct Difference {
  DifferenceKind kind = DifferenceKind::kMissing;
  std::string tensor;
  std::string found;     // Shape or dtype in the file; empty where it has no such tensor.
  std::string expected;  // The network's; empty where it has no such tensor.
  // Of kUnexpected: the missing tensor that it probably is; of kMissing the other way round.
  std::string nearest;
};

struct ModelFit {
  std::string model;
  int classes = 10;
  std::vector<Difference> differences;  // Empty if the tensors fit.
};

// Against one network: with 10 classes or 100, whichever differs less.
ModelFit fit_model(const StateDict& dict, const std::string& model,
                   const train::Architecture& architecture);

struct ModelSearch {
  std::vector<ModelFit> fitting;
  ModelFit closest;  // The one with the fewest differences.
};

// Against every network there is, wider ones included.
ModelSearch search_models(const StateDict& dict);

// "(64,3,3,3)"; "()" for a scalar.
std::string shape_text(const std::vector<std::int64_t>& shape);

// The tensors that the network expects, as 32-bit floats (counters as 64-bit integers), with
// metadata that names the model. The dictionary must fit. INVALID_ARGUMENT names a tensor that
// holds NaN, infinities or values beyond 32-bit floats.
absl::StatusOr<train::SafetensorsFile> make_checkpoint(const StateDict& dict, const ModelFit& fit);

// All tensors, row-major. For files that become another program's.
std::map<std::string, train::TensorBytes> all_rows(const StateDict& dict);

}  // namespace bitrung::interop
