#include "tests/unit/server/core/world.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <variant>

#include "db/base/check.h"
#include "server/core/graph.h"
#include "server/core/job_machine.h"

namespace bitrung::core {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

std::vector<std::string> words_of(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; stream >> word;) {
    words.push_back(word);
  }
  return words;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> parts;
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(part);
  }
  return parts;
}

// One line of a graph, as a row (inputs by position) and as the core takes it.
struct Line {
  std::string name;
  db::JobSpecRow row;
  NewJob job;
};

Line parse_line(const std::string& text, const std::map<std::string, std::uint32_t>& positions) {
  Line line;
  const std::size_t arrow = text.find("<-");
  std::vector<std::string> words = words_of(text.substr(0, arrow));
  BITRUNG_CHECK(!words.empty());
  line.name = words.front();
  db::JobSpecRow& row = line.row;
  row.name = line.name;
  row.dataset = "data";
  row.model = "resnet";
  row.numerics = 1;
  std::string spec = line.name;
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::size_t equals = words[i].find('=');
    const std::string option = words[i].substr(0, equals);
    const std::string value = words[i].substr(equals + 1);
    if (option == "flops") {
      row.estimated_flops = std::stod(value);
    } else if (option == "retries") {
      row.retries = static_cast<std::uint32_t>(std::stoul(value));
    } else if (option == "priority") {
      row.priority = std::stoi(value);
    } else if (option == "memory") {
      row.memory_bytes = std::stoull(value);
    } else if (option == "numerics") {
      row.numerics = static_cast<std::uint32_t>(std::stoul(value));
    } else if (option == "dataset") {
      row.dataset = value;
    } else if (option == "class") {
      row.model = value;
    } else if (option == "spec") {
      spec = value;
    } else if (option == "artifact") {
      row.inputs.push_back({InputRole::kTeacher, std::nullopt, sha256(value)});
    } else {
      BITRUNG_CHECK(false && "an option that the drawn graph does not know");
    }
  }
  const auto position_of = [&positions](const std::string& name) {
    const auto parent = positions.find(name);
    BITRUNG_CHECK(parent != positions.end());
    return JobId{parent->second};
  };
  std::uint32_t choices = 0;
  if (arrow != std::string::npos) {
    for (const std::string& input : split(text.substr(arrow + 2), ',')) {
      const std::vector<std::string> input_words = words_of(input);
      if (input_words.front() == "best") {
        ++choices;
        for (std::size_t i = 1; i < input_words.size(); ++i) {
          row.inputs.push_back(
              {InputRole::kTeacher, position_of(input_words[i]), std::nullopt, choices});
        }
        continue;
      }
      const auto role = parse_input_role(input_words.front());
      row.inputs.push_back({input_words.size() == 2 ? role.value() : InputRole::kTeacher,
                            position_of(input_words.back()), std::nullopt});
    }
  }
  row.spec_sha256 = sha256(spec);

  NewJob& job = line.job;
  job.spec = row.spec_sha256;
  job.dataset = row.dataset;
  job.cost_class = cost_class(row);
  job.flops = row.estimated_flops;
  job.numerics = row.numerics;
  job.retries = row.retries;
  job.priority = row.priority;
  job.memory_bytes = row.memory_bytes;
  for (const db::InputRow& input : row.inputs) {
    NewJob::Input& added = job.inputs.emplace_back();
    added.role = input.role;
    added.artifact = input.artifact;
    added.choice = input.choice;
    if (input.parent.has_value()) added.parent = static_cast<std::uint32_t>(number(*input.parent));
  }
  return line;
}

}  // namespace

Digest copy_digest(std::string_view copy) {
  return sha256(copy);
}

Digest artifact_of(JobId job, std::uint32_t attempt) {
  return sha256(fmt::format("artifact of {} #{}", number(job), attempt));
}

World::World(std::string_view graph, const Settings& settings) : settings_(settings) {
  core_.emplace(settings_, db::Snapshot{}, now_);
  BITRUNG_CHECK(core_->started().empty());
  if (!graph.empty()) {
    submit(graph);
  }
}

World& World::submit(std::string_view graph) {
  const std::vector<std::string> lines = split(graph, '\n');
  std::map<std::string, std::uint32_t> positions;
  for (std::uint32_t i = 0; i < lines.size(); ++i) {
    positions[words_of(lines[i]).front()] = i;
  }
  Submit event;
  std::vector<db::JobSpecRow> specs;
  names_.emplace_back();
  JobId id = stored_.jobs().empty() ? JobId{1} : JobId{number(stored_.jobs().rbegin()->first) + 1};
  for (const std::string& text : lines) {
    const Line line = parse_line(text, positions);
    event.jobs.push_back(line.job);
    specs.push_back(line.row);
    names_.back()[line.name] = id;
    job_names_[id] =
        names_.size() == 1 ? line.name : fmt::format("{}/{}", names_.size(), line.name);
    id = JobId{number(id) + 1};
  }
  stored_.expect_specs(std::move(specs));
  step(event);
  return *this;
}

World& World::join(const std::string& worker, const Machine& machine, std::string_view held,
                   std::int64_t term_seen) {
  SessionOpened event;
  event.session = SessionId{next_session_++};
  event.worker_id = worker_id(worker);
  event.name = worker;
  event.version = "1";
  event.numerics = machine.numerics;
  for (std::size_t i = 0; i < machine.slots.size(); ++i) {
    event.slots.push_back({fmt::format("cuda:{}", i), "a device", machine.slots[i], 2});
  }
  for (const auto& [dataset, copy] : machine.datasets) {
    event.datasets.push_back({dataset, copy_digest(copy)});
  }
  event.held = keys(held);
  event.term_seen = term_seen;
  if (machine.shares_cores) event.shared_cores = static_cast<std::uint32_t>(machine.slots.size());
  session_names_[event.session] = worker;
  if (term_seen <= settings_.term) {
    machines_[worker] = machine;
    sessions_[worker] = event.session;
    open_.insert(worker);
    stopping_.erase(worker);
  }
  step(event);
  return *this;
}

World& World::leave(const std::string& worker) {
  open_.erase(worker);
  step(SessionClosed{session(worker)});
  return *this;
}

World& World::drain(const std::string& worker, bool draining) {
  step(SetDraining{worker_id(worker), draining});
  return *this;
}

World& World::stopping(const std::string& worker) {
  stopping_.insert(worker);
  step(WorkerStopping{session(worker)});
  return *this;
}

World& World::change_datasets(const std::string& worker,
                              const std::vector<std::pair<std::string, std::string>>& datasets) {
  DatasetsChanged event{session(worker), {}};
  for (const auto& [dataset, copy] : datasets) {
    event.datasets.push_back({dataset, copy_digest(copy)});
  }
  machines_[worker].datasets = datasets;
  step(event);
  return *this;
}

World& World::heartbeat(const std::string& worker, std::string_view held, std::uint64_t sequence) {
  step(Heartbeat{session(worker), sequence, keys(held)});
  return *this;
}

World& World::start(const std::string& worker, std::string_view attempt, std::uint32_t resumed) {
  step(AttemptStarted{session(worker), key(attempt), resumed});
  return *this;
}

World& World::checkpoint(const std::string& worker, std::string_view attempt, std::uint32_t epoch,
                         std::string_view artifact) {
  step(CheckpointStored{
      session(worker), key(attempt), epoch,
      sha256(artifact.empty() ? fmt::format("checkpoint {}", epoch) : std::string(artifact))});
  return *this;
}

World& World::succeed(const std::string& worker, std::string_view attempt,
                      std::optional<double> seconds) {
  AttemptSucceeded event;
  event.session = session(worker);
  event.key = key(attempt);
  event.result.test_accuracy = 90;
  event.result.duration_seconds =
      seconds.value_or(1e-12 * stored_.jobs().at(event.key.job).spec.estimated_flops);
  event.result.artifact = artifact_of(event.key.job, event.key.attempt);
  event.report_json = fmt::format("report of {}", attempt);
  step(event);
  return *this;
}

World& World::fail(const std::string& worker, std::string_view attempt, FailureClass failure,
                   const std::string& text) {
  step(AttemptFailed{session(worker), key(attempt), failure, text});
  return *this;
}

World& World::succeed_with(const std::string& worker, std::string_view attempt,
                           std::optional<double> validation_accuracy) {
  AttemptSucceeded event;
  event.session = session(worker);
  event.key = key(attempt);
  event.result.validation_accuracy = validation_accuracy;
  event.result.artifact = artifact_of(event.key.job, event.key.attempt);
  step(event);
  return *this;
}

World& World::stopped(const std::string& worker, std::string_view attempt) {
  step(AttemptCancelled{session(worker), key(attempt)});
  return *this;
}

World& World::cancel(std::string_view names) {
  step(CancelJobs{jobs(names)});
  return *this;
}

World& World::retry(std::string_view names) {
  step(RetryJobs{jobs(names)});
  return *this;
}

World& World::advance(milliseconds duration) {
  const milliseconds end = now_.monotonic + duration;
  while (core_->next_deadline().value_or(end + milliseconds{1}) <= end) {
    sleep(std::max(*core_->next_deadline() - now_.monotonic, milliseconds{0}));
    step(WakeUp{});
  }
  return sleep(end - now_.monotonic);
}

World& World::sleep(milliseconds duration) {
  now_.monotonic += duration;
  now_.wall_ms += duration.count();
  return *this;
}

World& World::restart() {
  core_.emplace(settings_, stored_.snapshot(), now_);
  EXPECT_TRUE(core_->started().empty());
  open_.clear();
  sent_.clear();
  check();
  return *this;
}

std::string World::reports() const {
  std::string all;
  for (const auto& [id, report] : stored_.reports()) {
    all += fmt::format("{}{}", all.empty() ? "" : ", ", report);
  }
  return all;
}

Effects World::step(const Event& event) {
  Effects effects = core_->step(event, now_);
  stored_.apply(effects, *core_);
  for (const Effect& effect : effects) {
    if (const auto* send = std::get_if<Send>(&effect)) {
      messages_.push_back(text(*send));
      sent_.push_back(*send);
      if (const auto* offer = std::get_if<Offer>(&send->message)) {
        last_offer_ = *offer;
        check_offer(*offer);
      }
    }
  }
  check();
  return effects;
}

void World::expect(const std::string& message) {
  if (messages_.empty()) {
    ADD_FAILURE() << "expected \"" << message << "\", nothing was sent";
    return;
  }
  EXPECT_EQ(messages_.front(), message);
  messages_.pop_front();
}

void World::expect_nothing_else() {
  EXPECT_TRUE(messages_.empty()) << "also sent: " << messages_.front();
  messages_.clear();
}

void World::expect_states(std::string_view states) {
  for (const std::string& each : split(states, ',')) {
    const std::vector<std::string> words = words_of(each);
    EXPECT_EQ(bitrung::name(state(words.at(0))), words.at(1)) << words.at(0);
  }
}

std::string World::explain(std::string_view name) const {
  std::string line;
  for (const Reason& reason : core_->explain(job(name), now_)) {
    line += fmt::format("{}{}", line.empty() ? "" : "; ", text(reason));
  }
  return line;
}

JobId World::job(std::string_view name) const {
  std::size_t experiment = 1;
  const std::size_t slash = name.find('/');
  if (slash != std::string_view::npos) {
    experiment = std::stoul(std::string(name.substr(0, slash)));
    name.remove_prefix(slash + 1);
  }
  const auto found = names_.at(experiment - 1).find(name);
  BITRUNG_CHECK(found != names_.at(experiment - 1).end());
  return found->second;
}

std::string World::name(JobId id) const {
  const auto found = job_names_.find(id);
  return found == job_names_.end() ? fmt::format("({})", number(id)) : found->second;
}

AttemptKey World::key(std::string_view attempt) const {
  const std::size_t hash = attempt.find('#');
  BITRUNG_CHECK(hash != std::string_view::npos);
  return {job(attempt.substr(0, hash)),
          static_cast<std::uint32_t>(std::stoul(std::string(attempt.substr(hash + 1))))};
}

std::vector<AttemptKey> World::keys(std::string_view attempts) const {
  std::vector<AttemptKey> keys;
  for (const std::string& word : words_of(attempts)) {
    keys.push_back(key(word));
  }
  return keys;
}

std::vector<JobId> World::jobs(std::string_view names) const {
  std::vector<JobId> ids;
  for (const std::string& word : words_of(names)) {
    ids.push_back(job(word));
  }
  return ids;
}

std::string World::text(AttemptKey key) const {
  return fmt::format("{}#{}", name(key.job), key.attempt);
}

std::string World::text(const Send& sent) const {
  const auto list = [this](std::string_view title, const std::vector<AttemptKey>& keys) {
    std::string line;
    for (const AttemptKey& key : keys) {
      line += fmt::format(" {}", text(key));
    }
    return line.empty() ? line : fmt::format(" {}{}", title, line);
  };
  return session_names_.at(sent.session) + ": " +
         std::visit(
             Overloaded{
                 [&](const Welcome& welcome) {
                   return "welcome" + list("kept", welcome.kept) + list("fenced", welcome.fenced);
                 },
                 [&](const Offer& offer) {
                   const auto worker = machines_.find(session_names_.at(sent.session));
                   return "offer " + text(offer.key) +
                          (worker->second.shares_cores ? fmt::format(" with {}", offer.threads)
                                                       : std::string());
                 },
                 [&](const Cancel& cancel) { return "cancel " + text(cancel.key); },
                 [&](const Fence& fence) { return "fence " + text(fence.key); },
                 [&](const HeartbeatReply& reply) {
                   return fmt::format("alive {}", reply.sequence);
                 },
                 [&](const OutcomeReply& reply) { return "recorded " + text(reply.key); },
                 [&](const CloseSession&) { return std::string("closed"); },
             },
             sent.message);
}

std::string World::text(const Width& width) {
  if (width.shared_cores == 0) return {};
  return fmt::format(" with {} of {}", width.threads, width.shared_cores);
}

std::string World::text(const Reason& reason) const {
  return std::visit(
      Overloaded{
          [&](const WaitsForParent& r) {
            return fmt::format("waits for {} ({})", name(r.parent), bitrung::name(r.state));
          },
          [&](const WaitsForCandidates& r) {
            return fmt::format("waits for {} of {} candidates, {} ({})", r.undecided, r.candidates,
                               name(r.first), bitrung::name(r.state));
          },
          [&](const WaitsForEqualJob& r) { return fmt::format("waits for equal {}", name(r.job)); },
          [&](const WaitsForRetry& r) {
            return fmt::format("waits {} ms for retry {}/{}", r.remaining.count(), r.retries_used,
                               r.retries);
          },
          [&](const NoWorkerConnected&) { return std::string("no worker"); },
          [&](const WorkerDoesNotFit& r) {
            switch (r.reason) {
              case WorkerDoesNotFit::Reason::kDraining:
                return fmt::format("{} drains", r.worker);
              case WorkerDoesNotFit::Reason::kStopping:
                return fmt::format("{} stops", r.worker);
              case WorkerDoesNotFit::Reason::kNoDataset:
                return fmt::format("{} lacks {}", r.worker, r.dataset);
              case WorkerDoesNotFit::Reason::kOtherDataset:
                EXPECT_NE(r.wanted, r.present);
                return fmt::format("{} has another {}", r.worker, r.dataset);
              case WorkerDoesNotFit::Reason::kMemory:
                return fmt::format("{} has {} of {} bytes", r.worker, r.memory_present,
                                   r.memory_wanted);
              case WorkerDoesNotFit::Reason::kNumerics:
                return fmt::format("{} has other numerics", r.worker);
              case WorkerDoesNotFit::Reason::kBusy:
                return fmt::format("{} is busy", r.worker);
            }
            return std::string("?");
          },
          [&](const QueuedBehind& r) { return fmt::format("behind {}", r.jobs); },
          [&](const CoresTaken& r) {
            std::string line = fmt::format("{} of {}:", r.worker, r.shared_cores);
            for (const auto& [job, cores] : r.grants) {
              line += fmt::format(" {} {}", name(job), cores);
            }
            return line;
          },
          [&](const IsOffered& r) {
            return fmt::format("offered to {} #{}{}", r.worker, r.attempt, text(r.width));
          },
          [&](const IsRunning& r) {
            return fmt::format("{} {} #{}{} for {} ms", r.connected ? "runs on" : "runs on absent",
                               r.worker, r.attempt, text(r.width), r.lease_remaining.count());
          },
          [&](const IsSkipped& r) { return fmt::format("skipped because of {}", name(r.because)); },
          [&](const HasEnded& r) {
            return r.cached_from.has_value() ? fmt::format("cached from {}", name(*r.cached_from))
                                             : std::string("ended");
          },
      },
      reason);
}

void World::check() const {
  for (const auto& [id, stored] : stored_.jobs()) {
    ASSERT_EQ(stored.state, core_->row(id)) << name(id) << " was changed without a SaveJob";
    check_inputs(stored);
  }
  for (const auto& [id, worker] : stored_.workers()) {
    ASSERT_EQ(core_->worker(id)->draining, worker.draining);
  }
  check_experiments();
  check_slots();
  check_no_job_fits_a_free_slot();
  check_rebuilt();
}

void World::check_inputs(const db::Snapshot::Job& job) const {
  std::map<std::uint32_t, std::vector<std::uint32_t>> choices;
  bool is_doomed = false;
  const auto is_lost = [&](const db::InputRow& input) {
    return input.parent.has_value() && dooms_children(stored_.jobs().at(*input.parent).state.state);
  };
  const auto has_failed = [&](const db::InputRow& input) {
    return is_lost(input) && is_terminal(stored_.jobs().at(*input.parent).state.state);
  };
  for (std::uint32_t position = 0; position < job.spec.inputs.size(); ++position) {
    const db::InputRow& input = job.spec.inputs[position];
    if (input.choice != 0) choices[input.choice].push_back(position);
    is_doomed = is_doomed || (input.choice == 0 && has_failed(input));
  }
  for (const auto& [number, positions] : choices) {
    std::size_t lost = 0;  // And what is being cancelled, which may be retried to wait for it.
    std::size_t failed = 0;
    std::size_t succeeded = 0;
    std::size_t chosen = 0;
    for (const std::uint32_t position : positions) {
      const db::InputRow& input = job.spec.inputs[position];
      lost += is_lost(input) ? 1 : 0;
      failed += has_failed(input) ? 1 : 0;
      const bool has_succeeded =
          stored_.jobs().at(*input.parent).state.state == JobState::kSucceeded;
      succeeded += has_succeeded ? 1 : 0;
      if (std::ranges::count(job.state.chosen, position) == 0) continue;
      ++chosen;
      ASSERT_TRUE(has_succeeded);
    }
    ASSERT_LE(chosen, 1U);
    is_doomed = is_doomed || failed == positions.size();
    if (lost + succeeded == positions.size() && succeeded > 0) {
      ASSERT_EQ(chosen, 1U) << name(job.spec.id) << " has not chosen though it could";
    }
  }
  ASSERT_FALSE(is_doomed && job.state.state == JobState::kBlocked)
      << name(job.spec.id) << " waits for what will not come";
}

void World::check_experiments() const {
  std::map<ExperimentId, bool> unfinished;
  for (const auto& [id, stored] : stored_.jobs()) {
    unfinished[stored.spec.experiment] |= !is_terminal(stored.state.state);
  }
  for (const auto& [id, is_unfinished] : unfinished) {
    ASSERT_EQ(stored_.finished_at_ms(id) == 0, is_unfinished) << "experiment " << number(id);
  }
}

void World::check_slots() const {
  std::set<std::pair<std::string, std::uint32_t>> taken;
  for (const auto& [id, stored] : stored_.jobs()) {
    const JobState state = stored.state.state;
    const auto latest = stored_.attempts().find({id, stored.state.attempt});
    const bool has_live_attempt =
        latest != stored_.attempts().end() && (latest->second.state == AttemptState::kOffered ||
                                               latest->second.state == AttemptState::kRunning);
    const bool is_live = state == JobState::kOffered || state == JobState::kRunning ||
                         state == JobState::kCancelling;
    ASSERT_EQ(is_live, has_live_attempt) << name(id);
    if (is_live) {
      ASSERT_TRUE(taken.emplace(latest->second.worker_id, latest->second.slot).second)
          << "slot " << latest->second.slot << " holds " << name(id) << " and another attempt";
    }
  }
  for (const WorkerInfo& worker : core_->workers()) {
    const std::uint32_t taken_cores = taken_of(worker).cores;
    // One that came back with fewer cores than it left with may have too few.
    ASSERT_EQ(worker.free_cores,
              worker.shared_cores > taken_cores ? worker.shared_cores - taken_cores : 0)
        << worker.name;
  }
}

World::Taken World::taken_of(const WorkerInfo& worker) const {
  Taken taken{std::vector<bool>(worker.slots.size()), 0, 0};
  for (const AttemptKey& held : worker.attempts) {
    const db::AttemptRow& row = stored_.attempt(held);
    if (row.slot >= taken.slots.size()) continue;
    taken.slots[row.slot] = true;
    if (worker.shared_cores == 0) continue;
    taken.cores += row.threads;
    taken.memory_bytes += stored_.jobs().at(held.job).spec.memory_bytes;
  }
  return taken;
}

void World::check_offer(const Offer& offer) const {
  const db::Snapshot::Job& job = stored_.jobs().at(offer.key.job);
  ASSERT_EQ(job.state.state, JobState::kOffered);
  ASSERT_EQ(job.state.attempt, offer.key.attempt);
  ASSERT_EQ(job.state.resume, offer.resume);
  ASSERT_EQ(stored_.pins().at({job.spec.experiment, job.spec.dataset}), offer.dataset);
  const db::AttemptRow& row = stored_.attempt(offer.key);
  ASSERT_EQ(row.slot, offer.slot);
  ASSERT_EQ(row.threads, offer.threads);
  const WorkerInfo worker = *core_->worker(row.worker_id);
  if (worker.shared_cores > 0) {
    ASSERT_GE(offer.threads, 1U);
    ASSERT_LE(taken_of(worker).cores, worker.shared_cores) << worker.name;
  }
  std::vector<std::pair<InputRole, Digest>> expected;
  std::set<std::uint32_t> choices;
  for (std::uint32_t position = 0; position < job.spec.inputs.size(); ++position) {
    const db::InputRow& input = job.spec.inputs[position];
    if (input.choice != 0) {
      choices.insert(input.choice);
      if (std::ranges::count(job.state.chosen, position) == 0) continue;
    }
    expected.emplace_back(input.role, input.artifact.value_or(Digest{}));
    if (input.parent.has_value()) {
      const db::JobStateRow& parent = stored_.jobs().at(*input.parent).state;
      ASSERT_EQ(parent.state, JobState::kSucceeded);
      expected.back().second = parent.result->artifact;
    }
  }
  ASSERT_EQ(choices.size(), job.state.chosen.size());
  ASSERT_EQ(offer.inputs, expected);
}

void World::check_no_job_fits_a_free_slot() const {
  for (const auto& entry : stored_.jobs()) {  // clang 14 captures no structured binding.
    const JobId id = entry.first;
    const auto& stored = entry.second;
    if (stored.state.state != JobState::kReady) continue;
    const Reason reason = core_->explain(id, now_).front();
    if (std::holds_alternative<WaitsForRetry>(reason) ||
        std::holds_alternative<WaitsForEqualJob>(reason)) {
      continue;
    }
    for (const WorkerInfo& worker : core_->workers()) {
      const bool takes_offers =
          worker.connected && !worker.draining && !stopping_.contains(worker.name);
      if (!takes_offers || worker.numerics != stored.spec.numerics) continue;
      const auto pin = stored_.pins().find({stored.spec.experiment, stored.spec.dataset});
      const bool has_data = std::ranges::any_of(worker.datasets, [&](const DatasetInfo& dataset) {
        return dataset.name == stored.spec.dataset &&
               (pin == stored_.pins().end() || pin->second == dataset.sha256);
      });
      if (!has_data) continue;
      if (worker.shared_cores > 0 && worker.free_cores == 0) continue;
      const Taken taken = taken_of(worker);
      for (std::size_t slot = 0; slot < worker.slots.size(); ++slot) {
        ASSERT_TRUE(taken.slots[slot] ||
                    worker.slots[slot].memory_bytes < taken.memory_bytes + stored.spec.memory_bytes)
            << name(id) << " waits although slot " << slot << " of " << worker.name << " is free";
      }
    }
  }
}

void World::check_rebuilt() const {
  Core rebuilt(settings_, stored_.snapshot(), now_);
  for (const Effect& effect : rebuilt.started()) {
    const auto* const job = std::get_if<SaveJob>(&effect);
    ADD_FAILURE() << "a restart changes rows: effect " << effect.index()
                  << (job == nullptr ? std::string() : " of " + name(job->job));
  }
  for (const auto& [id, stored] : stored_.jobs()) {
    ASSERT_EQ(rebuilt.row(id), stored.state) << name(id);
    ASSERT_EQ(rebuilt.experiment_of(id), core_->experiment_of(id));
  }
  for (const std::string& worker : open_) {
    const WorkerInfo info = *core_->worker(worker_id(worker));
    // A worker that is stopping must not be taken for a fresh one while it says so again.
    const bool is_stopping = stopping_.contains(worker);
    if (is_stopping) rebuilt.step(SetDraining{info.worker_id, true}, now_);
    const Effects effects = rebuilt.step(
        SessionOpened{sessions_.at(worker), info.worker_id, info.name, info.version, info.numerics,
                      info.slots, info.datasets, info.attempts, 0, info.shared_cores},
        now_);
    if (is_stopping) {
      rebuilt.step(WorkerStopping{sessions_.at(worker)}, now_);
      rebuilt.step(SetDraining{info.worker_id, info.draining}, now_);
    }
    for (const Effect& effect : effects) {
      // Alone, the worker's copies may agree where they did not before: then the two cores may
      // part.
      if (std::holds_alternative<SavePin>(effect)) return;
      if (const auto* send = std::get_if<Send>(&effect)) {
        ASSERT_FALSE(std::holds_alternative<Offer>(send->message))
            << text(*send) << " only after a restart";
        if (const auto* welcome = std::get_if<Welcome>(&send->message)) {
          ASSERT_EQ(welcome->kept, info.attempts);
        }
      }
    }
  }
  // A delay begins anew with a restart, and so does a lease; both show in the reasons.
  bool delays = false;
  for (const auto& [id, stored] : stored_.jobs()) {
    delays = delays || std::holds_alternative<WaitsForRetry>(rebuilt.explain(id, now_).front());
  }
  for (const auto& [id, stored] : stored_.jobs()) {
    const std::vector<Reason> before = core_->explain(id, now_);
    const std::vector<Reason> after = rebuilt.explain(id, now_);
    if (std::holds_alternative<WaitsForRetry>(after.front())) continue;
    ASSERT_EQ(before.size(), after.size()) << name(id);
    for (std::size_t i = 0; i < before.size(); ++i) {
      ASSERT_EQ(before[i].index(), after[i].index())
          << name(id) << ": " << text(before[i]) << ", rebuilt: " << text(after[i]);
      const bool is_lease = std::holds_alternative<IsRunning>(before[i]);
      const bool is_order = std::holds_alternative<QueuedBehind>(before[i]);
      if (is_lease || (is_order && (delays || durations_vary_))) continue;
      ASSERT_EQ(text(before[i]), text(after[i])) << name(id);
    }
  }
}

}  // namespace bitrung::core
