#include "client/cli/words.h"

#include <fmt/format.h>

#include <algorithm>

namespace bitrung::cli {
namespace {

// JOB_STATE_RUNNING is "running": the enumerations and the words are one list.
std::string word(std::string_view enumerator, std::string_view prefix) {
  if (!enumerator.starts_with(prefix)) return "unspecified";
  std::string text(enumerator.substr(prefix.size()));
  std::ranges::transform(text, text.begin(), [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  });
  return text;
}

}  // namespace

std::string state_name(v1::JobState state) {
  return word(v1::JobState_Name(state), "JOB_STATE_");
}

std::string state_name(v1::ExperimentState state) {
  return word(v1::ExperimentState_Name(state), "EXPERIMENT_STATE_");
}

std::string failure_name(v1::FailureClass failure) {
  if (failure == v1::FAILURE_CLASS_UNSPECIFIED) return {};
  return word(v1::FailureClass_Name(failure), "FAILURE_CLASS_");
}

bool is_terminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_SKIPPED;
}

bool is_terminal(v1::ExperimentState state) {
  return state == v1::EXPERIMENT_STATE_SUCCEEDED || state == v1::EXPERIMENT_STATE_FAILED ||
         state == v1::EXPERIMENT_STATE_CANCELLED;
}

Tone tone_of_job_state(std::string_view state) {
  if (state == "succeeded" || state == "cached") return Tone::kGood;
  if (state == "failed") return Tone::kBad;
  if (state == "running" || state == "offered") return Tone::kBusy;
  if (state == "cancelled" || state == "cancelling") return Tone::kWarning;
  if (state == "skipped" || state == "blocked") return Tone::kFaint;
  return Tone::kPlain;
}

Tone tone_of(v1::JobState state) {
  return tone_of_job_state(state_name(state));
}

Tone tone_of(v1::ExperimentState state) {
  return state == v1::EXPERIMENT_STATE_ACTIVE ? Tone::kBusy : tone_of_job_state(state_name(state));
}

std::string_view glyph(v1::JobState state, const Style& style) {
  if (state == v1::JOB_STATE_SUCCEEDED) return style.unicode ? "✓" : "+";
  if (state == v1::JOB_STATE_FAILED) return style.unicode ? "✗" : "x";
  if (state == v1::JOB_STATE_RUNNING) return style.unicode ? "●" : "*";
  if (state == v1::JOB_STATE_OFFERED) return style.unicode ? "◌" : "o";
  if (state == v1::JOB_STATE_READY) return style.unicode ? "○" : "o";
  if (state == v1::JOB_STATE_CANCELLING || state == v1::JOB_STATE_CANCELLED) return "!";
  if (state == v1::JOB_STATE_SKIPPED) return style.unicode ? "–" : "-";
  return style.unicode ? "·" : ".";
}

std::string shown_state(const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_SUCCEEDED && job.cached()) return "cached";
  return state_name(job.state());
}

std::string bits_label(const v1::Bits& bits) {
  if (bits.weights() == bits.activations()) return fmt::format("{}", bits.weights());
  return fmt::format("w{}a{}", bits.weights(), bits.activations());
}

}  // namespace bitrung::cli
