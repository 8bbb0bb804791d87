// Shorthand for functions that return absl::Status or absl::StatusOr.
#pragma once

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung {

// The text of a status as a standard view: Debian's abseil has a string_view type of its own.
inline std::string_view message(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

}  // namespace bitrung

// Returns the status of the expression from the enclosing function unless it is OK.
#define BITRUNG_RETURN_IF_ERROR(expression)                                   \
  do {                                                                        \
    if (::absl::Status bitrung_status = (expression); !bitrung_status.ok()) { \
      return bitrung_status;                                                  \
    }                                                                         \
  } while (false)

#define BITRUNG_CONCAT_INNER(a, b) a##b
#define BITRUNG_CONCAT(a, b) BITRUNG_CONCAT_INNER(a, b)

// BITRUNG_ASSIGN_OR_RETURN(auto graph, build_graph(jobs)): the value, or return of the status.
#define BITRUNG_ASSIGN_OR_RETURN(declaration, expression) \
  BITRUNG_ASSIGN_OR_RETURN_INNER(BITRUNG_CONCAT(bitrung_result_, __LINE__), declaration, expression)
#define BITRUNG_ASSIGN_OR_RETURN_INNER(result, declaration, expression) \
  auto result = (expression);                                           \
  if (!result.ok()) {                                                   \
    return result.status();                                             \
  }                                                                     \
  declaration = *std::move(result)
