// The trainer's commands and events (worker/train/PROTOCOL.md) as text.
//
// Translation only: no pipe, no state. What a trainer writes is not trusted to be well-formed.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/statusor.h"
#include "worker/agent/core.h"

namespace bitrung::agent {

struct ReadyEvent {
  std::uint32_t numerics = 0;
  std::string device;
};
struct KeyedEvent {
  std::string key;
  TrainingEvent event;
};
using TrainerEvent = std::variant<ReadyEvent, KeyedEvent>;

// INVALID_ARGUMENT names what is missing or wrong. Values that are not finite and series with long
// names are left out of points: the wire has no place for them. So is a report above
// kReportBytesMax: a result must not be lost for it.
absl::StatusOr<TrainerEvent> parse_trainer_event(std::string_view line);

// Commands, each with its line end. `paths` has every input and the resume state of the offer.
std::string train_command(const Offer& offer, const std::string& work_dir,
                          const std::string& data_dir, const std::map<Digest, std::string>& paths);
std::string cancel_command(const AttemptKey& key);
std::string preempt_command(const AttemptKey& key);

}  // namespace bitrung::agent
