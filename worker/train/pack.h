// A trained network as integer codes: what `bitrung export --format packed` writes.
//
// The container is safetensors, the layout is client/interop/PACKED.md: a reader needs neither this
// project nor LibTorch. Codes come from the grids of the quantizers, and are accepted only if they
// decode to the very weights that the network computes with.
#pragma once

#include <filesystem>
#include <string>

#include "worker/train/safetensors.h"

namespace bitrung::train {

// Of a checkpoint of this trainer. `what` begins the messages of Failure(kUserError): the file has
// no spec, does not fit it, or a layer's codes do not decode to its weights within 1e-6 of its
// largest level (the message names the layer). Equal checkpoints give equal files.
SafetensorsFile pack_checkpoint(const SafetensorsFile& checkpoint, const std::string& what);

// Reads one file, packs it and writes the other. Throws Failure.
void pack_file(const std::filesystem::path& checkpoint, const std::filesystem::path& out);

}  // namespace bitrung::train
