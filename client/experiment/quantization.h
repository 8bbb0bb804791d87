// What an experiment file says about quantization, checked against what methods and networks can
// do, and the choices that follow from it. Pure.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/experiment/option_values.h"
#include "client/experiment/yaml_tree.h"

namespace bitrung::client {

// The bits and methods of a job as its spec has them.
struct Quantization {
  BitsValue bits;
  MethodValue method;
  std::string_view shortcut;  // "block" or "convolution".
};

// Where and of which job, for messages.
struct JobPlace {
  std::string_view name;
  Location where;  // Of the entry, for options that nobody wrote.
};

// The options' bits and methods for this network. An error names the option and the reason: a
// method that cannot have so few bits, a pattern without a layer, an option of another method.
// What defaults say of methods that the job does not use is left out.
absl::StatusOr<Quantization> resolve_quantization(const Options& options, std::string_view model,
                                                  const MethodValue& method, const JobPlace& job,
                                                  const Source& source);

// The first of the options that somebody wrote; the entry if all are built-in defaults.
Location place_of(const Options& options, const JobPlace& job,
                  std::initializer_list<Option> candidates);

}  // namespace bitrung::client
