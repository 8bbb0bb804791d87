// What was measured of a trained network, as text and TSV. Pure. The report is the trainer's; what
// it lacks is shown as absent, never guessed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bitrung/v1/job_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

struct InspectOptions {
  std::string layer_pattern;  // '*' is any text; empty for all layers.
  bool activations = false;   // Also what enters the layers.
  bool confusion = false;     // Also accuracy by class, and which class is taken for which.
};

// NOT_FOUND if no layer has a name like the pattern; DATA_LOSS if the report is not understood.
absl::StatusOr<std::string> render_inspection(const v1::GetReportResponse& response,
                                              const std::string& experiment,
                                              const InspectOptions& options, OutputMode mode,
                                              const Style& style);

}  // namespace bitrung::cli
