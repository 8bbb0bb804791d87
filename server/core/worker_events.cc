// Events about workers: sessions, leases, draining.
#include <fmt/format.h>

#include <algorithm>

#include "db/base/check.h"
#include "db/base/planted_bug.h"
#include "server/core/state.h"

namespace bitrung::core {

void Core::State::on(const SessionOpened& event) {
  if (event.term_seen > settings.term) {
    // The worker's statements refer to a later state of this server than the one it remembers.
    effects.push_back(Send{
        event.session,
        CloseSession{fmt::format(
            "worker {} has seen term {} of this server, which is now at term {}: it was restored "
            "from an old backup, or two servers share a name; start it from its newest state",
            event.name, event.term_seen, settings.term)}});
    return;
  }
  const WorkerIndex index = fleet.find_or_add(event.worker_id);
  const Worker& worker = fleet[index];
  const WorkerIndex speaker = fleet.find(event.session);
  BITRUNG_CHECK(speaker == kNone || speaker == index);  // Numbers of sessions are used once.
  if (worker.connected && worker.session != event.session) {
    send(worker.session, CloseSession{"replaced by a newer session of the same worker"});
  }

  Welcome welcome;
  for (const AttemptKey& key : event.held) {
    const JobIndex job = job_held_by(index, key);
    if (job == kNone) {
      welcome.fenced.push_back(key);
    } else {
      welcome.kept.push_back(key);
      fleet.renew(jobs[job].live, new_lease_end());
    }
  }
  std::vector<AttemptKey> held = event.held;
  std::ranges::sort(held);
  for (const AttemptKey& key : live_keys(index)) {
    if (std::ranges::binary_search(held, key)) continue;
    // An offer that never arrived, or a worker that lost its disk: it will not report.
    end_without_result(jobs.index(key.job), AttemptState::kLost, FailureClass::kLostWorker,
                       fmt::format("worker {} came back without the attempt", event.name));
  }

  fleet.open(index, {event.session, event.name, event.version, event.numerics, event.slots,
                     known_copies(event.datasets), event.shared_cores});
  fleet.set_last_seen(index, now.wall_ms);
  save_worker(index);
  scheduler.worker_changed(index);
  const std::vector<AttemptKey> kept = welcome.kept;
  send(event.session, std::move(welcome));
  for (const AttemptKey& key : kept) {
    if (jobs[jobs.index(key.job)].state == JobState::kCancelling) {
      send(event.session, Cancel{key});
    }
  }
  for (const auto& [dataset, copy] : worker.datasets) {
    pin_if_agreed(dataset);
  }
}

void Core::State::on(const SessionClosed& event) {
  const WorkerIndex index = fleet.find(event.session);
  if (index == kNone) return;  // Replaced by a newer one, or refused.
  if (BITRUNG_PLANTED(CLOSED_SESSION_GIVES_UP)) {
    for (const AttemptKey& key : live_keys(index)) {
      end_without_result(jobs.index(key.job), AttemptState::kLost, FailureClass::kLostWorker, "");
    }
  }
  fleet.close(index);
  fleet.set_last_seen(index, now.wall_ms);
  save_worker(index);
}

void Core::State::on(const WorkerStopping& event) {
  const WorkerIndex index = fleet.find(event.session);
  if (index == kNone) return;
  fleet.set_stopping(index);
  fleet.set_last_seen(index, now.wall_ms);
}

void Core::State::on(const DatasetsChanged& event) {
  const WorkerIndex index = fleet.find(event.session);
  if (index == kNone) return;
  fleet.set_datasets(index, known_copies(event.datasets));
  fleet.set_last_seen(index, now.wall_ms);
  save_worker(index);
  scheduler.worker_changed(index);
  for (const auto& [dataset, copy] : fleet[index].datasets) {
    pin_if_agreed(dataset);
  }
}

void Core::State::on(const Heartbeat& event) {
  const WorkerIndex index = fleet.find(event.session);
  if (index == kNone) return;
  fleet.set_last_seen(index, now.wall_ms);
  for (const AttemptKey& key : event.held) {
    const JobIndex job = job_held_by(index, key);
    if (job == kNone) {
      fence(event.session, key);
    } else {
      fleet.renew(jobs[job].live, new_lease_end());
    }
  }
  send(event.session, HeartbeatReply{event.sequence});
}

void Core::State::on(const SetDraining& event) {
  const WorkerIndex index = fleet.find(event.worker_id);
  if (index == kNone || fleet[index].draining == event.draining) return;
  fleet.set_draining(index, event.draining);
  save_worker(index);
  scheduler.worker_changed(index);
}

void Core::State::on(const WakeUp&) {
  while (!fleet.leases().empty() && fleet.leases().begin()->first <= now.monotonic) {
    const LiveAttempt& live = fleet.live(fleet.leases().begin()->second);
    const JobIndex job = live.job;
    const Worker& worker = fleet[live.worker];
    if (worker.connected) {
      fence(worker.session, key_of(job));  // It speaks, but no longer of this attempt.
    }
    end_without_result(
        job, AttemptState::kLost, FailureClass::kLostWorker,
        fmt::format("the lease of worker {} ran out: nothing was heard of the "
                    "attempt for {:.1f} s",
                    worker.name,
                    std::chrono::duration<double>(settings.lease + settings.lease_margin).count()));
  }
  while (!retries.empty() && retries.begin()->first <= now.monotonic) {
    const JobIndex job = retries.begin()->second;
    retries.erase(retries.begin());
    jobs.rare(job).retry_at.reset();
    released.push_back(job);
  }
}

JobIndex Core::State::job_held_by(WorkerIndex worker, AttemptKey key) const {
  if (worker == kNone || !jobs.contains(key.job)) return kNone;
  const JobIndex index = jobs.index(key.job);
  const Job& job = jobs[index];
  const bool is_latest = job.attempt == key.attempt || BITRUNG_PLANTED(FORGETS_ATTEMPT_NUMBER);
  const bool holds = job.live != kNone && is_latest && fleet.live(job.live).worker == worker;
  return holds ? index : kNone;
}

JobIndex Core::State::job_spoken_for(SessionId session, AttemptKey key) const {
  return job_held_by(fleet.find(session), key);
}

std::chrono::milliseconds Core::State::new_lease_end() const {
  if (BITRUNG_PLANTED(FORGETS_LEASE_MARGIN)) return now.monotonic + settings.lease;
  return now.monotonic + settings.lease + settings.lease_margin;
}

void Core::State::send(SessionId session, Message message) {
  if (fleet.find(session) == kNone) return;
  effects.push_back(Send{session, std::move(message)});
}

void Core::State::fence(SessionId session, AttemptKey key) {
  send(session, Fence{key});
}

std::vector<std::pair<std::uint32_t, std::uint32_t>> Core::State::known_copies(
    const std::vector<DatasetInfo>& datasets) {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> copies;
  for (const DatasetInfo& dataset : datasets) {
    const std::uint32_t number = jobs.datasets.intern(dataset.name);
    const bool is_known =
        std::ranges::any_of(copies, [&](const auto& each) { return each.first == number; });
    if (!is_known) {
      copies.emplace_back(number, jobs.copies.intern(dataset.sha256));
    }
  }
  return copies;
}

std::vector<AttemptKey> Core::State::live_keys(WorkerIndex worker) const {
  std::vector<AttemptKey> keys;
  for (const LiveIndex live : fleet[worker].live) {
    keys.push_back(key_of(fleet.live(live).job));
  }
  std::ranges::sort(keys);  // By number of the job, whatever the order of the offers.
  return keys;
}

void Core::State::save_worker(WorkerIndex worker) {
  effects.push_back(SaveWorker{fleet[worker].id});
}

}  // namespace bitrung::core
