// The promises, checked against everything that is said, stored and done. It sees all processes at
// once, which none of them can; it decides nothing.
//
// Numbers are those of the reliability promises:
//   I1  an acknowledged submit is stored, after any crash
//   I2  a request id has one answer for ever; with another content it is refused
//   I3  one winner per job, and its result never changes; a cancelled attempt does not win
//   I4  an attempt that has ended, or is not the latest, changes nothing; its speaker is told, and
//       stops training
//   I5  the server gives an attempt up only when its lease and the margin have passed since it last
//       heard of it, by its own clock, or when its worker comes back without it; an attempt is
//       trained at most once; a slot has one attempt, and a core that slots share is granted, and
//       trained on, once. That two attempts of a job never train at
//       once is not checked: a worker trains on while the server is away, by design. How long that
//       lasted is counted.
//   I6  an offer carries exactly the artifacts of the parents' winners, and a training has them
//   I7  an acknowledged result stays; a worker drops nothing that the server still waits for, and
//       says no success that its disk could forget
//   I8  stored points and lines are a prefix of what the trainer said, without gap or repeat; all
//       of it when the attempt succeeds; acknowledged implies stored
//   I9  what a job refers to was uploaded before. The bytes themselves are not modelled.
//   I10 resume states go forward, and a training continues from the one that was offered. That the
//       numbers are bit-identical is not expressible here: nothing is computed.
//   I11 a restart of the server gives nothing up (checked as I5, across restarts)
//   I12 batches, slots and queues stay within their limits. The limits of requests belong to the
//       adapters, which are not part of the simulation.
//   I13 without faults every job ends, every spool empties, every trainer rests; explain() always
//       has a reason
//   I14 after a failed commit nothing is said any more
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/sim/disk.h"
#include "tests/sim/loop.h"
#include "tests/sim/messages.h"

namespace bitrung::sim {

// Where bytes came from.
struct Origin {
  AttemptId attempt;
  std::string worker_id;
  std::uint32_t epoch = 0;
  bool is_model = false;
};

class Checker {
 public:
  explicit Checker(const Disk& disk) : disk_(disk) {}

  // The first broken promise, if any.
  const std::optional<std::string>& broken() const { return broken_; }
  void fail(std::string_view invariant, const std::string& what);

  // ---- Server ----
  void server_started(const core::Settings& settings, std::chrono::milliseconds now);
  void server_stopped();
  // Before the turn that handles it, in order.
  void heard(const core::Event& event, std::chrono::milliseconds now);
  void statement(SessionId session, AttemptId attempt, bool wants_answer);
  void turn_begins();
  void turn_ends();
  void committed(const Changes& changes, std::chrono::milliseconds now);
  void appended(AttemptId attempt);
  void said(SessionId session, const engine::ToWorker& message);
  void answered_submit(const std::string& request, const Digest& content,
                       const absl::StatusOr<engine::SubmitAnswer>& answer);
  void answered_cancel();
  void explained(JobId job, const absl::StatusOr<std::vector<core::Reason>>& answer);

  // ---- Workers ----
  void made(const Digest& digest, Origin origin) { origins_.emplace(digest, std::move(origin)); }
  const Origin& origin(const Digest& digest) const { return origins_.at(digest); }
  void uploaded(const Digest& digest) { uploaded_.insert(digest); }
  bool is_uploaded(const Digest& digest) const { return uploaded_.contains(digest); }
  void trains(const agent::SendTrain& train, bool offer_is_durable, Micros now);
  void training_ended(AttemptId attempt, Micros now);
  void begins_at(const agent::Offer& offer, std::uint32_t epoch);
  void measured(AttemptId attempt, const std::vector<agent::Point>& points);
  void printed(AttemptId attempt, const agent::LogLine& line);
  void says(const Statement& statement, bool outcome_is_durable);
  void deletes(AttemptId attempt);
  // The worker has read that the attempt is not its own any more, and may take so long to stop.
  void fenced(AttemptId attempt, Micros until);
  void paused(const std::string& worker_id, Micros by);

  // Everything at once.
  void audit(Micros now);
  Micros overlap() const { return overlap_; }

 private:
  struct Training {
    std::string worker_id;
    Micros since = 0;
    std::optional<Micros> must_end_by;
    std::vector<std::uint32_t> cores;
  };
  struct StaleStatement {
    SessionId session{};
    AttemptId attempt;
    bool answered = false;
  };

  void check_job(JobId id, const std::optional<db::JobStateRow>& before);
  void check_attempt(AttemptId id, const std::optional<db::AttemptRow>& before,
                     std::chrono::milliseconds now);
  void check_cores(const std::string& worker_id);
  void check_prefix(AttemptId id, bool whole);
  void check_offer(SessionId session, const core::Offer& offer);
  bool is_live_now(AttemptId id) const;

  const Disk& disk_;
  std::optional<std::string> broken_;

  core::Settings settings_;
  std::map<std::int64_t, std::string> speakers_;       // By session: the worker.
  std::map<std::string, SessionId> current_;           // By worker.
  std::map<std::string, std::uint32_t> shared_cores_;  // By worker that has connected.
  std::map<AttemptId, std::chrono::milliseconds> heard_;
  std::set<AttemptId> may_be_lost_;
  std::map<std::string, std::vector<std::vector<AttemptId>>> opened_;  // In this turn.
  std::vector<StaleStatement> stale_;
  bool session_changed_ = false;

  struct Acknowledged {
    ExperimentId id{};
    Digest content;
  };
  std::map<std::string, Acknowledged> submits_;
  std::map<JobId, std::pair<std::uint32_t, db::ResultRow>> winners_;
  std::set<AttemptId> acknowledged_outcomes_;

  std::map<Digest, Origin> origins_;
  std::set<Digest> uploaded_;  // Durable at the server.
  std::map<AttemptId, std::vector<db::PointRow>> points_;
  std::map<AttemptId, std::vector<std::string>> lines_;
  std::map<AttemptId, Training> training_;
  std::set<AttemptId> trained_;
  Micros overlap_ = 0;
};

}  // namespace bitrung::sim
