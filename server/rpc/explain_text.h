// The core's reasons as sentences.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "db/store.h"
#include "server/core/core.h"

namespace bitrung::rpc {

// One line per reason, in their order; then what a person can do, if anything.
absl::StatusOr<std::vector<std::string>> explain_text(db::StoreReader& reader,
                                                      const db::JobRow& job,
                                                      const std::vector<core::Reason>& reasons);

}  // namespace bitrung::rpc
