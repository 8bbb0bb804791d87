// Reports of trained networks as they come from workers. Pure, any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace bitrung::rpc {

inline constexpr std::size_t kReportBytesMax = std::size_t{768} << 10;
// Real reports have five levels. Readers of the database stop at a thousand, and the store ends the
// server if it is handed a text that the database refuses.
inline constexpr int kReportDepthMax = 64;

// The report in the one spelling that is stored; empty for an empty text. INVALID_ARGUMENT says
// what is wrong with any other.
absl::StatusOr<std::string> checked_report(std::string_view text);

// "computed by fused avx512-vnni on 2 threads", and why not by the fused loops if it was not; empty
// for a report that does not say.
std::string computation_text(std::string_view report_json);

}  // namespace bitrung::rpc
