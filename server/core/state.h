// All that the core remembers, and the steps that events are made of. Private to server/core:
// core.h is the interface.
//
// An event handler changes states, then leaves the consequences to place(): a job that may have
// become ready, or may be able to take an equal job's result, is put on a list; the list is worked
// off, slots are filled, and whatever that releases is worked off again, until nothing changes. So
// no handler recurses over the graph, and every handler sees a state in which no ready job fits a
// free slot.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "server/core/core.h"
#include "server/core/costs.h"
#include "server/core/identity.h"
#include "server/core/job_machine.h"
#include "server/core/job_table.h"
#include "server/core/scheduler.h"
#include "server/core/worker_machine.h"

namespace bitrung::core {

struct Core::State {
  State(const Settings& settings, const db::Snapshot& snapshot, Now now);

  // ---- Start (core.cc) ----
  void load_experiments(const db::Snapshot& snapshot);
  void load_job(const db::Snapshot::Job& stored);
  // Counts and lists that follow from the rows; then what the rows left undone, normally nothing.
  void settle_loaded_jobs();

  // ---- Events about jobs (job_events.cc) ----
  void on(const Submit& event);
  void on(const CancelJobs& event);
  void on(const RetryJobs& event);
  void on(const AttemptStarted& event);
  void on(const CheckpointStored& event);
  void on(const AttemptSucceeded& event);
  void on(const AttemptFailed& event);
  void on(const AttemptCancelled& event);

  // ---- Events about workers (worker_events.cc) ----
  void on(const SessionOpened& event);
  void on(const SessionClosed& event);
  void on(const WorkerStopping& event);
  void on(const DatasetsChanged& event);
  void on(const Heartbeat& event);
  void on(const SetDraining& event);
  void on(const WakeUp& event);

  // ---- Life of a job (life.cc) ----
  // The transition must be possible.
  void move(JobIndex job, JobEvent event);
  void save(JobIndex job);
  // A terminal state was reached just now.
  void mark_finished(JobIndex job);
  // Skips every job below that waits for one that failed, was cancelled or is being cancelled.
  void skip_descendants(JobIndex job);
  // Ends the live attempt in its books. The job's own state is the caller's.
  void end_attempt(JobIndex job, AttemptState state, FailureClass failure,
                   const std::string& error);
  // The live attempt ended without a result: the job is tried again, fails, or is cancelled if that
  // was asked for.
  void end_without_result(JobIndex job, AttemptState state, FailureClass failure,
                          const std::string& error);
  void record_success(JobIndex job, JobEvent event, std::uint32_t result);
  void take_result_of(JobIndex job, JobIndex winner);
  void revive(JobIndex job);
  // A parent of the job has succeeded or ended otherwise: makes those of its choices whose
  // candidates have all ended, and counts anew what it waits for.
  void review_choices(JobIndex job);
  // Neither queued nor waiting for a retry any more.
  void leave_queue(JobIndex job);

  // ---- Consequences (settle.cc) ----
  // Enters a new or loaded experiment into the lists below.
  void note_experiment(ExperimentIndex experiment);
  // Works off `released`, fills slots, and repeats until nothing changes.
  void place();
  void settle();
  void examine(JobIndex job);
  void offer(const Placement& placement);
  // What an attempt of the job is given by its parents, which have succeeded, and from outside.
  std::vector<std::pair<InputRole, Digest>> input_artifacts(JobIndex index) const;
  void make_pin(ExperimentIndex experiment, std::uint32_t pin, std::uint32_t copy);
  // Pins the data set for experiments with a ready job if all workers that have it agree on one
  // copy.
  void pin_if_agreed(std::uint32_t dataset);
  // Computes the identities of the jobs that can have one now, and of what follows from them.
  void learn_identities(std::vector<JobIndex> candidates);
  bool learn_identity(JobIndex job);
  // The identity is set: joins the others that have it.
  void join_group(JobIndex job);
  // Members of the job's equal group may take its result, or its place.
  void release_equal_jobs(std::uint32_t group);
  void measure(const Job& job, const db::ResultRow& result);
  void refresh_costs(ExperimentIndex experiment);
  void compute_chains(ExperimentIndex experiment);

  // ---- Answers (explain.cc) ----
  std::vector<Reason> explain_blocked(JobIndex job) const;
  // Nothing once the choice is made.
  std::optional<WaitsForCandidates> explain_choice(std::span<const Input> candidates) const;
  std::vector<Reason> explain_ready(JobIndex job, Now at) const;
  Reason explain_live(JobIndex job, Now at) const;
  CoresTaken cores_taken(const Worker& worker) const;
  // The failed or cancelled ancestor of a skipped job.
  JobIndex ended_ancestor(JobIndex job) const;

  // ---- Small questions ----
  // Parents of the job that have not succeeded, and its choices that are not made.
  std::uint32_t parents_left(JobIndex job) const;
  // A parent ended without success, or all candidates of a choice did.
  bool is_doomed(JobIndex job) const;
  bool is_doomed(std::span<const Input> need) const;
  // The job if the worker holds this attempt of it, live; kNone otherwise.
  JobIndex job_held_by(WorkerIndex worker, AttemptKey key) const;
  JobIndex job_spoken_for(SessionId session, AttemptKey key) const;
  AttemptKey key_of(JobIndex job) const { return {jobs.id(job), jobs[job].attempt}; }
  std::chrono::milliseconds new_lease_end() const;
  // Says so to a session that is open; nobody listens at the other end of a closed one.
  void send(SessionId session, Message message);
  void fence(SessionId session, AttemptKey key);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> known_copies(
      const std::vector<DatasetInfo>& datasets);
  std::vector<AttemptKey> live_keys(WorkerIndex worker) const;
  void save_worker(WorkerIndex worker);

  // Ends a step: the effects, in order.
  Effects take_effects();

  Settings settings;
  Now now;
  std::int64_t next_experiment_id = 1;
  std::int64_t next_job_id = 1;

  JobTable jobs;
  Fleet fleet;
  Scheduler scheduler;
  EqualGroups equal;
  CostModel costs;

  // Jobs that wait for a retry, by when.
  std::set<std::pair<std::chrono::milliseconds, JobIndex>> retries;
  // By data set: experiments that have not pinned it, with the position of the pin. Pinned ones are
  // dropped when met.
  std::vector<std::vector<std::pair<ExperimentIndex, std::uint32_t>>> unpinned;
  // By cost class: experiments with jobs of it. Emptied when the class is measured for the first
  // time.
  std::vector<std::vector<ExperimentIndex>> unmeasured;

  // Of the step under way.
  Effects effects;
  std::vector<JobIndex> released;                  // To be examined.
  std::vector<JobIndex> saved;                     // Whose SaveJob is among the effects.
  std::vector<ExperimentIndex> finish_candidates;  // That may have finished or been opened again.
};

}  // namespace bitrung::core
