#include "db/words.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "db/base/check.h"

namespace bitrung {
namespace {

constexpr std::array<std::string_view, 9> kJobStates = {"blocked", "ready",      "offered",
                                                        "running", "cancelling", "succeeded",
                                                        "failed",  "cancelled",  "skipped"};
constexpr std::array<std::string_view, 6> kAttemptStates = {"offered", "running",   "succeeded",
                                                            "failed",  "cancelled", "lost"};
constexpr std::array<std::string_view, 4> kExperimentStates = {"active", "succeeded", "failed",
                                                               "cancelled"};
constexpr std::array<std::string_view, 9> kFailureClasses = {
    "none",        "user_error", "diverged", "out_of_memory",  "device_fault",
    "lost_worker", "preempted",  "timeout",  "trainer_crashed"};
constexpr std::array<std::string_view, 3> kInputRoles = {"teacher", "init", "source"};

template <typename Enum, std::size_t kCount>
std::string_view name_in(const std::array<std::string_view, kCount>& names, Enum value) {
  const auto index = static_cast<std::size_t>(value);
  BITRUNG_CHECK(index < kCount);
  return names[index];
}

template <typename Enum, std::size_t kCount>
std::optional<Enum> find_in(const std::array<std::string_view, kCount>& names,
                            std::string_view text) {
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) return std::nullopt;
  return static_cast<Enum>(found - names.begin());
}

}  // namespace

std::string_view name(JobState state) {
  return name_in(kJobStates, state);
}
std::string_view name(AttemptState state) {
  return name_in(kAttemptStates, state);
}
std::string_view name(ExperimentState state) {
  return name_in(kExperimentStates, state);
}
std::string_view name(FailureClass failure) {
  return name_in(kFailureClasses, failure);
}
std::string_view name(InputRole role) {
  return name_in(kInputRoles, role);
}

std::optional<JobState> parse_job_state(std::string_view text) {
  return find_in<JobState>(kJobStates, text);
}
std::optional<AttemptState> parse_attempt_state(std::string_view text) {
  return find_in<AttemptState>(kAttemptStates, text);
}
std::optional<FailureClass> parse_failure_class(std::string_view text) {
  return find_in<FailureClass>(kFailureClasses, text);
}
std::optional<InputRole> parse_input_role(std::string_view text) {
  return find_in<InputRole>(kInputRoles, text);
}

bool is_valid_name(std::string_view text) {
  if (text.empty() || text.size() > 128) return false;
  return std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '=' || c == '-';
  });
}

}  // namespace bitrung
