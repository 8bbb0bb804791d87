// The API's enumerations as the words that people, JSON and SQL use, and how each looks.
#pragma once

#include <string>
#include <string_view>

#include "bitrung/v1/types.pb.h"
#include "client/cli/text.h"

namespace bitrung::cli {

// "blocked", "running", ...; "unspecified" for values this version does not know.
std::string state_name(v1::JobState state);
std::string state_name(v1::ExperimentState state);
// "user_error", ...; empty for no failure.
std::string failure_name(v1::FailureClass failure);

bool is_terminal(v1::JobState state);
bool is_terminal(v1::ExperimentState state);

Tone tone_of(v1::JobState state);
Tone tone_of(v1::ExperimentState state);
Tone tone_of_job_state(std::string_view state_name);

// One character that stands for the state.
std::string_view glyph(v1::JobState state, const Style& style);

// "cached" for a cached success, else the state's name.
std::string shown_state(const v1::Job& job);

// "4", or "w1a32" where weights and activations differ.
std::string bits_label(const v1::Bits& bits);

}  // namespace bitrung::cli
