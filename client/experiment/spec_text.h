// A job's options as the trainer takes them: the canonical JSON of worker/train/PROTOCOL.md, with
// sorted keys, no white space and every default written out. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/experiment/option_values.h"

namespace bitrung::client {

// What a training's spec says of its inputs.
struct SpecInputs {
  bool has_teacher = false;
  std::string_view init = "scratch";
  std::string init_artifact;              // Hex digits, for "artifact" only.
  std::vector<std::string> teacher_json;  // Of outside teachers, in their order.
};

// A network that a file or another job holds.
struct TrainedAs {
  std::string model;
  std::string shortcut = "block";
  BitsValue bits;
  MethodValue method;
  bool operator==(const TrainedAs&) const = default;
};

// A shortest decimal form that reads back as the same number, always recognizable as a real: "1.0".
std::string real_text(double value);

std::string bits_json(const BitsValue& bits);
// Options that neither method has are left out.
std::string method_json(const MethodValue& method);
std::string teacher_json(std::string_view artifact, const TrainedAs& teacher);

std::string train_spec(const Options& options, const BitsValue& bits, const MethodValue& method,
                       std::string_view shortcut, const SpecInputs& inputs);
// The network is the source's; bits and method are the job's own.
std::string quantize_spec(const Options& options, const TrainedAs& quantized);
std::string evaluate_spec(const Options& options, const TrainedAs& source);

}  // namespace bitrung::client
