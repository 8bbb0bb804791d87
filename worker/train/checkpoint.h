// Networks to and from safetensors files.
//
// Reading is strict: every tensor that the network expects must be there with its shape, and no
// other may be, because a checkpoint of another network would train without complaint and give
// wrong numbers.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "worker/train/nn/network.h"
#include "worker/train/safetensors.h"
#include "worker/train/spec.h"

namespace bitrung::train {

// Copies to and from the host; any layout becomes row-major.
TensorBytes to_bytes(const at::Tensor& tensor);
at::Tensor from_bytes(const TensorBytes& bytes);

// Adds the tensors under prefix + name.
void add_tensors(const std::vector<NamedTensor>& tensors, const std::string& prefix,
                 SafetensorsFile& file);

// Overwrites the tensors with those of the file under prefix + name. Other names are left to the
// caller. `what` begins the message of the Failure(kUserError): "teacher /path/model.safetensors".
// `reader` is what expects the shapes: "resnet20".
void copy_tensors(const SafetensorsFile& file, const std::string& prefix,
                  const std::vector<NamedTensor>& tensors, const std::string& what,
                  const std::string& reader);

enum class LoadRule {
  kExact,        // Every tensor of the network and no other: a teacher.
  kWeightsOnly,  // Tensors of quantizers are left alone, since a student may start from a network
                 // of other bits or methods.
};

// Overwrites a network's state with a checkpoint, ours or an outside one (which may hold halves or
// doubles, and may lack num_batches_tracked). Throws Failure(kUserError) that names the first
// tensor that does not fit.
void load_network(const SafetensorsFile& file, const std::string& what, LoadRule rule,
                  Network& network);

// Reads a file for load_network. An unreadable or invalid one is a Failure(kUserError).
SafetensorsFile read_checkpoint(const std::filesystem::path& path, const std::string& what);

// What a checkpoint says it holds (`bitrung.spec`); nothing if it does not say.
std::optional<NetworkChoice> checkpoint_network(const SafetensorsFile& file,
                                                const std::string& what, int classes);

// The checkpoint of a finished training. Equal trainings give equal bytes: no time, host or path is
// in it.
SafetensorsFile make_checkpoint(const std::vector<NamedTensor>& state, const Spec& spec,
                                std::int64_t epoch);

}  // namespace bitrung::train
