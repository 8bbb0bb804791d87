// The words of the system as types: states, failure classes, numbers of things. Shared by core,
// engine, store and adapters, so that a state has one spelling in SQL, JSON, logs and C++. Plain
// data; standard library only.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace bitrung {

// Numbers that must not be mixed up. A number is given by the core and never used again.
enum class ExperimentId : std::int64_t {};
enum class JobId : std::int64_t {};
// Numbers a worker's connection; lives in memory only.
enum class SessionId : std::int64_t {};
// Number of a try of a job, counted from 1: the fencing token. 0 means none yet.
enum class AttemptNumber : std::uint32_t {};

constexpr std::int64_t number(ExperimentId id) {
  return static_cast<std::int64_t>(id);
}
constexpr std::int64_t number(JobId id) {
  return static_cast<std::int64_t>(id);
}
constexpr std::int64_t number(SessionId id) {
  return static_cast<std::int64_t>(id);
}
constexpr std::uint32_t number(AttemptNumber attempt) {
  return static_cast<std::uint32_t>(attempt);
}

enum class JobState : std::uint8_t {
  kBlocked,
  kReady,
  kOffered,
  kRunning,
  kCancelling,
  kSucceeded,
  kFailed,
  kCancelled,
  kSkipped,
};

enum class AttemptState : std::uint8_t {
  kOffered,
  kRunning,
  kSucceeded,
  kFailed,
  kCancelled,
  kLost
};

enum class ExperimentState : std::uint8_t { kActive, kSucceeded, kFailed, kCancelled };

enum class FailureClass : std::uint8_t {
  kNone,
  kUserError,
  kDiverged,
  kOutOfMemory,
  kDeviceFault,
  kLostWorker,
  kPreempted,
  kTimeout,
  kTrainerCrashed,
};

// What an input is used for: it teaches, its weights are the start, or it is what is quantized or
// evaluated.
enum class InputRole : std::uint8_t { kTeacher, kInit, kSource };

// Spelling in SQL, JSON and text: "blocked", "user_error", ...
std::string_view name(JobState state);
std::string_view name(AttemptState state);
std::string_view name(ExperimentState state);
std::string_view name(FailureClass failure);
std::string_view name(InputRole role);

// The value with this spelling; nothing for any other text.
std::optional<JobState> parse_job_state(std::string_view text);
std::optional<AttemptState> parse_attempt_state(std::string_view text);
std::optional<FailureClass> parse_failure_class(std::string_view text);
std::optional<InputRole> parse_input_role(std::string_view text);

// Nothing more will happen to it unless a person asks for a retry.
constexpr bool is_terminal(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed ||
         state == JobState::kCancelled || state == JobState::kSkipped;
}

// Letters, digits and . _ = - only, 1 to 128 of them: names of experiments, jobs and entries.
bool is_valid_name(std::string_view text);
inline constexpr std::string_view kNameRule =
    "a name has 1 to 128 characters out of letters, digits and . _ = -";

}  // namespace bitrung
