// One copy of a synthetic data set for all trainers of a host: whoever needs it first draws it into
// a file, and all of them map that.
#pragma once

#include <filesystem>

#include "worker/train/data/dataset.h"

namespace bitrung::train {

// The same images as make_synthetic(), from a file in cache_dir, which is made if it is not there;
// of several that want it at once one draws it and the others wait. Keeps the few newest files.
// Throws std::system_error or Failure if the folder or the disk does not allow it.
Dataset share_synthetic(const SyntheticOptions& options, const std::filesystem::path& cache_dir);

}  // namespace bitrung::train
