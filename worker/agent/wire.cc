#include "worker/agent/wire.h"

#include <cmath>
#include <map>

#include <fmt/format.h>

#include "db/base/status.h"
#include "worker/agent/spool.h"

namespace bitrung::agent {
namespace {

AttemptKey from_wire(const v1::AttemptKey& key) {
  return {JobId{key.job_id()}, AttemptNumber{key.attempt()}};
}

void to_wire(const AttemptKey& key, v1::AttemptKey* wire) {
  wire->set_job_id(number(key.job));
  wire->set_attempt(number(key.attempt));
}

absl::StatusOr<Digest> digest_from(const std::string& hex, const char* what) {
  const auto digest = Digest::from_hex(hex);
  if (!digest)
    return absl::InvalidArgumentError(fmt::format("{} \"{}\" is not a SHA-256", what, hex));
  return *digest;
}

absl::StatusOr<InputRole> from_wire(v1::InputRole role) {
  // The numbers on the wire are the enumerators' plus one, since zero is unspecified there.
  static_assert(static_cast<int>(InputRole::kSource) + 1 == v1::INPUT_ROLE_SOURCE);
  if (role <= v1::INPUT_ROLE_UNSPECIFIED || role > v1::INPUT_ROLE_SOURCE) {
    return absl::InvalidArgumentError(
        fmt::format("an offer has an input of unknown role {}", static_cast<int>(role)));
  }
  return static_cast<InputRole>(static_cast<int>(role) - 1);
}

absl::StatusOr<Offer> from_wire(const v1::Offer& wire) {
  Offer offer;
  offer.key = from_wire(wire.key());
  if (number(offer.key.job) <= 0 || number(offer.key.attempt) == 0) {
    return absl::InvalidArgumentError("an offer names no attempt");
  }
  offer.slot = wire.slot();
  offer.threads = wire.threads();
  offer.display_name = wire.display_name();
  offer.spec_json = wire.spec_json();
  offer.dataset = wire.dataset().empty() ? dataset_of(offer.spec_json) : wire.dataset();
  for (const v1::OfferInput& input : wire.inputs()) {
    BITRUNG_ASSIGN_OR_RETURN(const InputRole role, from_wire(input.role()));
    BITRUNG_ASSIGN_OR_RETURN(const Digest artifact,
                             digest_from(input.artifact_sha256(), "an offer's input"));
    offer.inputs.push_back({role, artifact});
  }
  if (!wire.resume_sha256().empty()) {
    BITRUNG_ASSIGN_OR_RETURN(offer.resume,
                             digest_from(wire.resume_sha256(), "an offer's resume state"));
  }
  if (!wire.dataset_sha256().empty()) {
    BITRUNG_ASSIGN_OR_RETURN(offer.dataset_sha256,
                             digest_from(wire.dataset_sha256(), "an offer's data set"));
  }
  if (wire.timeout_seconds() > 0 && std::isfinite(wire.timeout_seconds())) {
    // Longer than ten years is no limit, and would overflow a clock.
    constexpr double kSecondsMax = 10.0 * 365 * 86400;
    if (wire.timeout_seconds() < kSecondsMax) {
      offer.timeout = milliseconds{std::llround(wire.timeout_seconds() * 1000)};
    }
  }
  return offer;
}

v1::FailureClass to_wire(FailureClass failure_class) {
  switch (failure_class) {
    case FailureClass::kNone:
      return v1::FAILURE_CLASS_UNSPECIFIED;
    case FailureClass::kUserError:
      return v1::FAILURE_CLASS_USER_ERROR;
    case FailureClass::kDiverged:
      return v1::FAILURE_CLASS_DIVERGED;
    case FailureClass::kOutOfMemory:
      return v1::FAILURE_CLASS_OUT_OF_MEMORY;
    case FailureClass::kDeviceFault:
      return v1::FAILURE_CLASS_DEVICE_FAULT;
    case FailureClass::kLostWorker:
      return v1::FAILURE_CLASS_LOST_WORKER;
    case FailureClass::kPreempted:
      return v1::FAILURE_CLASS_PREEMPTED;
    case FailureClass::kTimeout:
      return v1::FAILURE_CLASS_TIMEOUT;
    case FailureClass::kTrainerCrashed:
      return v1::FAILURE_CLASS_TRAINER_CRASHED;
  }
  return v1::FAILURE_CLASS_UNSPECIFIED;
}

void to_wire(const std::vector<DatasetEntry>& datasets,
             google::protobuf::RepeatedPtrField<v1::Dataset>* wire) {
  for (const DatasetEntry& dataset : datasets) {
    v1::Dataset* entry = wire->Add();
    entry->set_name(dataset.name);
    entry->set_sha256(dataset.sha256.hex());
  }
}

}  // namespace

absl::StatusOr<Event> to_event(SessionId session, const v1::OpenSessionResponse& response) {
  using Statement = v1::OpenSessionResponse::StatementCase;
  switch (response.statement_case()) {
    case Statement::kWelcome: {
      const v1::Welcome& welcome = response.welcome();
      WelcomeReceived event{session,
                            welcome.term(),
                            milliseconds{welcome.lease_ms()},
                            milliseconds{welcome.heartbeat_interval_ms()},
                            {}};
      for (const v1::AttemptKey& key : welcome.fenced()) event.fenced.push_back(from_wire(key));
      return event;
    }
    case Statement::kHeartbeat:
      return HeartbeatReplied{session, response.heartbeat().sequence()};
    case Statement::kOffer: {
      BITRUNG_ASSIGN_OR_RETURN(Offer offer, from_wire(response.offer()));
      return OfferReceived{session, std::move(offer)};
    }
    case Statement::kCancel:
      return CancelReceived{session, from_wire(response.cancel().key())};
    case Statement::kFence:
      return FenceReceived{session, from_wire(response.fence().key())};
    case Statement::kMetrics:
      return PointsAcknowledged{session, from_wire(response.metrics().key()),
                                response.metrics().watermark()};
    case Statement::kLogs:
      return LinesAcknowledged{session, from_wire(response.logs().key()),
                               response.logs().watermark()};
    case Statement::kOutcome:
      return OutcomeAcknowledged{session, from_wire(response.outcome().key())};
    case Statement::kBatch:  // The caller takes it apart.
    case Statement::STATEMENT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("the server said something this version does not know");
}

v1::OpenSessionRequest to_request(const Identity& identity, const OpenSession& open) {
  v1::OpenSessionRequest request;
  v1::Hello* hello = request.mutable_hello();
  hello->set_worker_id(identity.worker_id);
  hello->set_name(identity.name);
  hello->set_version(identity.version);
  hello->set_numerics(identity.numerics);
  for (const Slot& slot : identity.layout.slots) {
    v1::Slot* wire = hello->add_slots();
    wire->set_slot(static_cast<std::uint32_t>(hello->slots_size() - 1));
    wire->set_device(slot.device.device);
    wire->set_device_name(to_utf8(slot.device.name));
    wire->set_memory_bytes(slot.device.memory_bytes);
    wire->set_threads(slot.threads);
  }
  hello->set_shared_cores(identity.layout.shared_cores);
  to_wire(open.datasets, hello->mutable_datasets());
  for (const AttemptKey& key : open.held) to_wire(key, hello->add_attempts());
  hello->set_term_seen(open.term_seen);
  hello->set_takes_batches(true);
  return request;
}

v1::OpenSessionRequest to_request(const SendHeartbeat& action) {
  v1::OpenSessionRequest request;
  v1::Heartbeat* heartbeat = request.mutable_heartbeat();
  heartbeat->set_sequence(action.sequence);
  for (const HeldAttempt& held : action.held) {
    v1::HeldAttempt* wire = heartbeat->add_attempts();
    to_wire(held.key, wire->mutable_key());
    if (!held.progress) continue;
    v1::Progress* progress = wire->mutable_progress();
    progress->set_epoch(held.progress->epoch);
    progress->set_epochs(held.progress->epochs);
    progress->set_step(held.progress->step);
    progress->set_steps(held.progress->steps);
    progress->set_images_per_second(held.progress->images_per_second);
    if (held.progress->accuracy) progress->set_accuracy(*held.progress->accuracy);
    if (held.progress->eta_seconds) progress->set_eta_seconds(*held.progress->eta_seconds);
  }
  return request;
}

v1::OpenSessionRequest to_request(const SendStarted& action) {
  v1::OpenSessionRequest request;
  v1::AttemptStarted* started = request.mutable_started();
  to_wire(action.key, started->mutable_key());
  started->set_slot(action.slot);
  started->set_resumed_epoch(action.resumed_epoch);
  return request;
}

v1::OpenSessionRequest to_request(const SendPoints& action, std::span<const Point> points) {
  v1::OpenSessionRequest request;
  v1::Metrics* metrics = request.mutable_metrics();
  to_wire(action.key, metrics->mutable_key());
  metrics->set_first_sequence(action.first);
  std::map<std::string_view, std::uint32_t> indices;
  for (const Point& point : points) {
    const auto [it, added] =
        indices.emplace(point.series, static_cast<std::uint32_t>(indices.size()));
    if (added) metrics->add_names(to_utf8(point.series));
    v1::MetricPoint* wire = metrics->add_points();
    wire->set_name_index(it->second);
    wire->set_step(point.step);
    wire->set_value(point.value);
  }
  return request;
}

v1::OpenSessionRequest to_request(const SendLines& action, std::span<const LogLine> lines) {
  v1::OpenSessionRequest request;
  v1::Logs* logs = request.mutable_logs();
  to_wire(action.key, logs->mutable_key());
  logs->set_first_line(action.first);
  for (const LogLine& line : lines) {
    v1::LogText* wire = logs->add_lines();
    wire->set_time_ms(line.time_ms);
    wire->set_text(line.text);
  }
  return request;
}

v1::OpenSessionRequest to_request(const SendCheckpoint& action) {
  v1::OpenSessionRequest request;
  v1::Checkpoint* checkpoint = request.mutable_checkpoint();
  to_wire(action.key, checkpoint->mutable_key());
  checkpoint->set_epoch(action.epoch);
  checkpoint->set_artifact_sha256(action.artifact.hex());
  return request;
}

v1::OpenSessionRequest to_request(const SendOutcome& action) {
  v1::OpenSessionRequest request;
  v1::Outcome* outcome = request.mutable_outcome();
  to_wire(action.key, outcome->mutable_key());
  if (const auto* succeeded = std::get_if<Succeeded>(&action.outcome)) {
    const Result& result = succeeded->result;
    v1::JobResult* wire = outcome->mutable_succeeded();
    if (result.test_accuracy) wire->set_test_accuracy(*result.test_accuracy);
    if (result.validation_accuracy) wire->set_validation_accuracy(*result.validation_accuracy);
    if (result.test_loss) wire->set_test_loss(*result.test_loss);
    wire->set_best_epoch(result.best_epoch);
    wire->set_duration_seconds(result.duration_seconds);
    wire->set_images_per_second(result.images_per_second);
    wire->set_artifact_sha256(succeeded->artifact.hex());
    outcome->set_report_json(succeeded->report_json);
  } else if (const auto* failed = std::get_if<Failed>(&action.outcome)) {
    outcome->mutable_failed()->set_failure_class(to_wire(failed->failure_class));
    outcome->mutable_failed()->set_message(to_utf8(failed->message));
  } else {
    outcome->mutable_cancelled();
  }
  return request;
}

v1::OpenSessionRequest to_request(const SendDatasets& action) {
  v1::OpenSessionRequest request;
  to_wire(action.datasets, request.mutable_datasets()->mutable_datasets());
  return request;
}

v1::OpenSessionRequest to_request(const SendStopping&) {
  v1::OpenSessionRequest request;
  request.mutable_stopping();
  return request;
}

}  // namespace bitrung::agent
