#include "tests/sim/simulation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "db/base/check.h"

namespace bitrung::sim {
namespace {

constexpr Micros kCalmMax = 2LL * 3'600 * kSecond;
constexpr std::uint64_t kStepsMax = 3'000'000;
constexpr std::uint64_t kStepsPerAudit = 512;
// Events that may be planned at once, far above what any of the processes may cause.
constexpr std::size_t kPlannedMax = 100'000;

thread_local std::uint64_t seed_in_progress = 0;
thread_local std::uint64_t step_in_progress = 0;

}  // namespace

std::uint64_t current_seed() {
  return seed_in_progress;
}
std::uint64_t current_step() {
  return step_in_progress;
}

Simulation::Simulation(const Options& options)
    : options_(options),
      random_(options.seed),
      faults_(Faults::draw(random_)),
      disk_(DiskHooks{.on_commit = [this] { return server_->commit_fate(); },
                      .committed =
                          [this](const Changes& changes) {
                            note("commit", static_cast<std::int64_t>(changes.jobs.size()),
                                 static_cast<std::int64_t>(changes.attempts.size()));
                            checker_.committed(changes, server_->now().monotonic);
                          },
                      .appended = [this](AttemptId id) { checker_.appended(id); },
                      .disagreement = [this](const std::string& what) { broken("model", what); }},
            options.sqlite_directory),
      checker_(disk_),
      network_(*this) {
  seed_in_progress = options.seed;
  step_in_progress = 0;
  settings.lease = std::chrono::milliseconds(random_.between(6'000, 60'000));
  settings.lease_margin = std::chrono::milliseconds(1'000 + settings.lease.count() / 6);
  settings.retry_delay_first = std::chrono::milliseconds(random_.between(0, 2'000));
  settings.retry_delay_max = std::chrono::milliseconds(30'000);
  settings.losses_max = static_cast<std::uint32_t>(random_.between(3, 20));
  heartbeat_interval = std::chrono::milliseconds(random_.between(500, settings.lease.count() / 5));
  silence_timeout = std::chrono::milliseconds(random_.between(20'000, 60'000));
  const auto clock = [this] {
    const std::int64_t most = faults_.clock_rate_ppm_max;
    return HostClock(random_.between(1'000, 1'000'000'000), random_.between(-most, most));
  };
  server_ = std::make_unique<ServerHost>(*this, clock());
  const std::size_t workers = 1 + random_.below(5);
  for (std::size_t i = 0; i < workers; ++i) {
    const bool shares_cores = random_.one_in(2);
    workers_.push_back(std::make_unique<WorkerHost>(
        *this, i, static_cast<std::uint32_t>(1 + random_.below(shares_cores ? 5 : 3)), shares_cores,
        clock()));
  }
  client_ = std::make_unique<Client>(*this);
}

Simulation::~Simulation() = default;

void Simulation::print(const std::string& line) const {
  fmt::print("{:>12.6f} {}\n", static_cast<double>(loop_.now()) / 1e6, line);
}

void Simulation::note(std::string_view what, std::int64_t a, std::int64_t b, std::int64_t c) {
  constexpr std::uint64_t kPrime = 0x0000'0100'0000'01b3;
  for (const char letter : what) {
    hash_ = (hash_ ^ static_cast<unsigned char>(letter)) * kPrime;
  }
  for (const std::int64_t value : {loop_.now(), a, b, c}) {
    hash_ = (hash_ ^ static_cast<std::uint64_t>(value)) * kPrime;
  }
  if (options_.print_trace) print(fmt::format("{} {} {} {}", what, a, b, c));
}

void Simulation::every(std::int64_t Faults::*seconds, std::function<void()> what) {
  if (faults_.*seconds == 0) return;
  loop_.after(random_.between(0, 2 * faults_.*seconds * kSecond), [this, seconds, what] {
    if (calm_) return;
    what();
    every(seconds, what);
  });
}

void Simulation::plan_faults() {
  const Micros lease = settings.lease.count() * kMilli;
  const auto any_worker = [this]() -> WorkerHost& {
    return *workers_[random_.below(workers_.size())];
  };
  every(&Faults::partition_every_s, [this, lease] {
    const std::size_t worker = random_.below(workers_.size());
    const Micros until = loop_.now() + random_.between(100 * kMilli, 3 * lease);
    const std::size_t how = random_.below(3);
    note("partition", static_cast<std::int64_t>(worker), static_cast<std::int64_t>(how), until);
    if (how != 0) network_.block(worker, Direction::kToServer, until);
    if (how != 1) network_.block(worker, Direction::kToWorker, until);
    if (until - loop_.now() > 15 * kSecond && !random_.one_in(3)) {
      loop_.after(random_.between(kSecond, 30 * kSecond),
                  [this, worker] { network_.break_all_of_worker(worker, "timed out"); });
    }
  });
  every(&Faults::server_kill_every_s, [this] { server_->kill("server is killed"); });
  every(&Faults::server_pause_every_s,
        [this, lease] { server_->pause(random_.between(100 * kMilli, 2 * lease)); });
  every(&Faults::wall_jump_every_s, [this] {
    constexpr std::int64_t kTenYears = 10LL * 365 * 86'400 * 1'000;
    const std::int64_t most = random_.one_in(2) ? kTenYears : 3'600'000;
    const std::int64_t by = random_.between(-most, most);
    note("wall clock jumps", by);
    server_->jump_wall_clock(by);
  });
  every(&Faults::worker_kill_every_s, [this, any_worker] {
    const bool power = random_.permille(faults_.power_loss_permille);
    any_worker().kill(power, power && random_.permille(faults_.disk_loss_permille));
  });
  every(&Faults::worker_pause_every_s, [this, any_worker, lease] {
    any_worker().pause(random_.between(100 * kMilli, 3 * lease));
  });
  every(&Faults::worker_leave_every_s, [any_worker] { any_worker().shut_down(); });
  every(&Faults::datasets_every_s, [this, any_worker] {
    if (random_.one_in(2)) return any_worker().restore_datasets();
    any_worker().find_datasets({});
  });
  every(&Faults::person_every_s, [this] { client_->meddle(); });
}

void Simulation::end_faults() {
  note("faults end");
  calm_ = true;
  faults_ = Faults{};
  // Partitions and pauses under way last as long as they were going to.
  server_->start();
  for (const auto& worker : workers_) {
    worker->start();
    worker->restore_datasets();
  }
  client_->stop_draining();
}

bool Simulation::has_ended() {
  return client_->all_answered() &&
         std::ranges::all_of(disk_.tables().jobs,
                             [](const Tables::Job& job) { return is_terminal(job.state.state); }) &&
         std::ranges::all_of(workers_, [](const auto& worker) { return worker->is_idle(); });
}

void Simulation::explain_stuck() {
  std::string text = "not everything ended:";
  if (!client_->all_answered()) text += " a submit was never answered;";
  for (const Tables::Job& job : disk_.tables().jobs) {
    if (is_terminal(job.state.state)) continue;
    text += fmt::format(" job {} is {} (attempt {});", number(job.spec.id), name(job.state.state),
                        job.state.attempt);
  }
  for (const auto& worker : workers_) {
    if (!worker->is_idle()) text += " " + worker->describe();
  }
  broken("I13", text);
}

void Simulation::step() {
  ++steps_;
  step_in_progress = steps_;
  loop_.run_one();
  if (steps_ % kStepsPerAudit == 0) checker_.audit(loop_.now());
  if (loop_.planned() > kPlannedMax) broken("I12", "the queues grow without end");
  if (steps_ > kStepsMax) broken("I13", "it never comes to rest");
}

Outcome Simulation::run() {
  server_->start();
  for (const auto& worker : workers_) {
    loop_.after(random_.between(0, 5 * kSecond), [&worker] { worker->start(); });
  }
  const std::size_t experiments = 1 + random_.below(4);
  const Micros faults_last = random_.between(30, 300) * kSecond;
  for (std::size_t i = 0; i < experiments; ++i) {
    loop_.after(random_.between(0, faults_last), [this] { client_->submit(); });
  }
  // A reader asks for a reason now and then, in both phases.
  std::function<void()> ask = [this, &ask] {
    const std::vector<Tables::Job>& jobs = disk_.tables().jobs;
    if (!jobs.empty()) server_->explain(jobs[random_.below(jobs.size())].spec.id);
    loop_.after(random_.between(kSecond, 10 * kSecond), ask);
  };
  ask();
  plan_faults();
  bool calm_planned = false;
  loop_.at(faults_last + kSecond, [this, &calm_planned] {
    end_faults();
    calm_planned = true;
  });
  bool ended = false;
  while (!checker_.broken() && !ended) {
    step();
    if (!calm_planned) continue;
    ended = steps_ % 64 == 0 && has_ended();
    if (loop_.now() > faults_last + kCalmMax) {
      explain_stuck();
      break;
    }
  }
  checker_.audit(loop_.now());

  Outcome outcome;
  outcome.broken = checker_.broken();
  outcome.trace_hash = hash_;
  outcome.steps = steps_;
  outcome.virtual_seconds = static_cast<double>(loop_.now()) / 1e6;
  outcome.jobs = disk_.tables().jobs.size();
  outcome.succeeded = static_cast<std::uint64_t>(std::ranges::count_if(
      disk_.tables().jobs,
      [](const Tables::Job& job) { return job.state.state == JobState::kSucceeded; }));
  outcome.attempts = disk_.tables().attempts.size();
  outcome.server_starts = server_->starts();
  for (const auto& worker : workers_) outcome.worker_starts += worker->starts();
  outcome.overlap_seconds = static_cast<double>(checker_.overlap()) / 1e6;
  return outcome;
}

}  // namespace bitrung::sim
