// The core's actions as text, for logs and tests.
#include <fmt/format.h>

#include "worker/agent/core.h"

namespace bitrung::agent {

std::string short_hex(const Digest& digest) {
  return digest.hex().substr(0, 12);
}

std::string describe(const Outcome& outcome) {
  if (const auto* succeeded = std::get_if<Succeeded>(&outcome)) {
    return fmt::format("succeeded {}", short_hex(succeeded->artifact));
  }
  if (const auto* failed = std::get_if<Failed>(&outcome)) {
    return fmt::format("failed {}: {}", name(failed->failure_class), failed->message);
  }
  return "cancelled";
}

std::string describe(const Action& action) {
  struct Describe {
    std::string operator()(const OpenSession& a) const {
      std::string text = fmt::format("open_session {} held", number(a.session));
      for (const AttemptKey& key : a.held) text += " " + to_string(key);
      return text;
    }
    std::string operator()(const CloseSession& a) const {
      return fmt::format("close_session {}", number(a.session));
    }
    std::string operator()(const PersistTerm& a) const {
      return fmt::format("persist_term {}", a.term);
    }
    std::string operator()(const SendHeartbeat& a) const {
      std::string text = fmt::format("send_heartbeat {}", a.sequence);
      for (const HeldAttempt& held : a.held) text += " " + to_string(held.key);
      return text;
    }
    std::string operator()(const SendStarted& a) const {
      return fmt::format("send_started {} slot {} epoch {}", to_string(a.key), a.slot,
                         a.resumed_epoch);
    }
    std::string operator()(const SendPoints& a) const {
      return fmt::format("send_points {} {}..{}", to_string(a.key), a.first, a.last);
    }
    std::string operator()(const SendLines& a) const {
      return fmt::format("send_lines {} {}..{}", to_string(a.key), a.first, a.last);
    }
    std::string operator()(const SendCheckpoint& a) const {
      return fmt::format("send_checkpoint {} epoch {} {}", to_string(a.key), a.epoch,
                         short_hex(a.artifact));
    }
    std::string operator()(const SendOutcome& a) const {
      return fmt::format("send_outcome {} {}", to_string(a.key), describe(a.outcome));
    }
    std::string operator()(const SendDatasets& a) const {
      std::string text = "send_datasets";
      for (const DatasetEntry& dataset : a.datasets) text += " " + dataset.name;
      return text;
    }
    std::string operator()(const SendStopping&) const { return "send_stopping"; }
    std::string operator()(const PersistOffer& a) const {
      return fmt::format("persist_offer {}", to_string(a.offer.key));
    }
    std::string operator()(const AppendPoints& a) const {
      return fmt::format("append_points {} {}", to_string(a.key), a.points.size());
    }
    std::string operator()(const AppendLine& a) const {
      return fmt::format("append_line {} {}", to_string(a.key), a.line.text);
    }
    std::string operator()(const RecordWatermarks& a) const {
      return fmt::format("record_watermarks {} points {} lines {}", to_string(a.key), a.points,
                         a.lines);
    }
    std::string operator()(const PersistOutcome& a) const {
      return fmt::format("persist_outcome {} {}", to_string(a.key), describe(a.outcome));
    }
    std::string operator()(const FetchInputs& a) const {
      std::string text = fmt::format("fetch_inputs {}", to_string(a.key));
      for (const Digest& digest : a.artifacts) text += " " + short_hex(digest);
      return text;
    }
    std::string operator()(const StoreFile& a) const {
      return fmt::format("store_file {} {} {}", to_string(a.key),
                         a.purpose == FilePurpose::kModel ? "model" : "resume", a.path);
    }
    std::string operator()(const Upload& a) const {
      return fmt::format("upload {} {}", to_string(a.key), short_hex(a.artifact));
    }
    std::string operator()(const DeleteAttempt& a) const {
      return fmt::format("delete_attempt {}", to_string(a.key));
    }
    std::string operator()(const StartTrainer& a) const {
      return fmt::format("start_trainer {}", a.slot);
    }
    std::string operator()(const KillTrainer& a) const {
      return fmt::format("kill_trainer {}", a.slot);
    }
    std::string operator()(const SendTrain& a) const {
      return fmt::format("send_train {} {}{}{}", a.slot, to_string(a.offer.key),
                         a.cores.empty() ? "" : " cores ", fmt::join(a.cores, " "));
    }
    std::string operator()(const SendCancel& a) const {
      return fmt::format("send_cancel {} {}", a.slot, to_string(a.key));
    }
    std::string operator()(const SendPreempt& a) const {
      return fmt::format("send_preempt {} {}", a.slot, to_string(a.key));
    }
    std::string operator()(const LogText& a) const { return "log " + a.text; }
    std::string operator()(const Exit&) const { return "exit"; }
  };
  return std::visit(Describe{}, action);
}

}  // namespace bitrung::agent
