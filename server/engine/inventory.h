// A worker's slots and data sets as JSON, kept with the worker for people who read the database.
#pragma once

#include <string>

#include "server/core/core.h"

namespace bitrung::engine {

// {"datasets":[{"name":…,"sha256":…}],"slots":[{"device":…,"device_name":…,"memory_bytes":…,"threads":…}],
//  "shared_cores":…}
std::string inventory_json(const core::WorkerInfo& worker);

}  // namespace bitrung::engine
