// Random worlds: workers that come and go, lose offers, repeat themselves and speak out of turn;
// people who cancel and retry; restarts and jumps of time. World checks its invariants after every
// step; here are the ones that need the step before, and that everything ends once nothing goes
// wrong any more.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

constexpr std::uint64_t kSeeds = 40;
constexpr int kStepsPerSeed = 300;
constexpr int kBenignRoundsMax = 2'000;
constexpr std::size_t kExperimentsMax = 6;

// xorshift64*: the same sequence everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e37'79b9'7f4a'7c15 + 1) {}

  std::uint32_t below(std::size_t end) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<std::uint32_t>(((state_ * 0x2545'f491'4f6c'dd1d) >> 32) % end);
  }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <typename Container>
  auto pick(const Container& from) {
    return *std::next(from.begin(), below(from.size()));
  }

 private:
  std::uint64_t state_;
};

const std::array<std::string, 3> kWorkers = {"w1", "w2", "w3"};
const std::array<Machine, 3> kMachines = {
    Machine{.slots = {16, 8}, .datasets = {{"data", "copy A"}, {"other", "copy O"}}},
    Machine{.slots = {16}, .datasets = {{"data", "copy B"}, {"other", "copy P"}}},
    Machine{.slots = {8, 8, 16}, .datasets = {{"data", "copy A"}, {"other", "copy P"}}}};

class RandomWorld {
 public:
  explicit RandomWorld(std::uint64_t seed) : random_(seed) {
    world_.set_durations_vary();
    submit();
  }

  void step() {
    const std::string worker = random_.pick(kWorkers);
    std::set<AttemptKey>& held = held_[worker];
    const bool connected = world_.is_connected(worker);
    switch (random_.below(24)) {
      case 0:
        if (experiments_ < kExperimentsMax) submit();
        break;
      case 1:
        if (connected) world_.leave(worker);
        break;
      case 2:
      case 3:
        join(worker);
        break;
      case 4:
        world_.drain(worker, random_.one_in(2));
        if (connected && random_.one_in(4)) world_.stopping(worker);
        break;
      case 5:
        if (connected) world_.change_datasets(worker, kMachines[random_.below(3)].datasets);
        break;
      case 6:
        world_.advance(milliseconds{random_.below(90'000)});
        break;
      case 7:
        world_.sleep(milliseconds{random_.below(90'000)});
        break;
      case 8:
        world_.step(WakeUp{});
        break;
      case 9:
        if (random_.one_in(3)) world_.step(CancelJobs{some_jobs()});
        break;
      case 10:
        retry();
        break;
      case 11:
        if (random_.one_in(3)) world_.restart();
        break;
      case 12:
      case 13:
        if (connected) heartbeat(worker);
        break;
      case 14:
      case 15:
        speak_out_of_turn();
        break;
      default:
        if (connected && !held.empty()) report(worker, random_.pick(held));
        break;
    }
    take_messages();
    check_terminal();
  }

  // Everybody is there, nothing fails: every job ends.
  void run_to_the_end() {
    for (std::size_t i = 0; i < kWorkers.size(); ++i) {
      world_.drain(kWorkers[i], false);
      world_.join(kWorkers[i], kMachines[i], text(held_[kWorkers[i]]));
      take_messages();
    }
    for (int round = 0; round < kBenignRoundsMax; ++round) {
      for (const std::string& worker : kWorkers) {
        const std::set<AttemptKey> held = held_[worker];
        for (const AttemptKey& key : held) {
          const bool is_cancelled = to_cancel_.contains(key);
          if (is_cancelled) {
            world_.step(AttemptCancelled{world_.session(worker), key});
          } else {
            world_.step(AttemptStarted{world_.session(worker), key, 0});
            world_.step(success(worker, key));
          }
          take_messages();
        }
        world_.step(
            Heartbeat{world_.session(worker), 1, {held_[worker].begin(), held_[worker].end()}});
        take_messages();
      }
      world_.advance(milliseconds{1'000});
      take_messages();
      check_terminal();
      if (testing::Test::HasFailure() || all_terminal()) break;
    }
    EXPECT_TRUE(all_terminal()) << "a job never ended";
  }

 private:
  void submit() {
    std::string graph;
    const std::uint32_t count = 1 + random_.below(8);
    for (std::uint32_t i = 0; i < count; ++i) {
      // Few specs: equal jobs are common. Teachers are later lines as often as earlier ones.
      graph += fmt::format("j{} spec=s{} retries={} priority={} flops={} memory={} class=c{}", i,
                           random_.below(6), random_.below(3), random_.below(2),
                           random_.below(3) * 10, random_.below(2) * 12, random_.below(3));
      if (random_.one_in(4)) graph += " dataset=other";
      const bool upwards = experiments_ % 2 == 0;
      const std::uint32_t parents = upwards ? i : count - 1 - i;
      const auto parent = [&] {
        const std::uint32_t distance = 1 + random_.below(parents);
        return upwards ? i - distance : i + distance;
      };
      if (parents > 0 && !random_.one_in(3)) {
        const std::uint32_t one = parent();
        const std::uint32_t other = parent();
        if (one != other && random_.one_in(2)) {
          graph += fmt::format(" <- best j{} j{}", one, other);
        } else {
          graph += fmt::format(" <- {}j{}", random_.one_in(6) ? "source " : "", one);
          if (graph.ends_with(fmt::format("source j{}", one))) {
            graph += "\n";
            continue;
          }
        }
        if (random_.one_in(3)) graph += fmt::format(", init j{}", parent());
        if (random_.one_in(4)) graph += fmt::format(", j{}", parent());
      }
      graph += "\n";
    }
    ++experiments_;
    world_.submit(graph);
  }

  void join(const std::string& worker) {
    std::set<AttemptKey>& held = held_[worker];
    if (random_.one_in(6)) held.clear();  // It lost its disk.
    const std::size_t machine =
        static_cast<std::size_t>(std::ranges::find(kWorkers, worker) - kWorkers.begin());
    std::string says = text(held);
    if (!spoken_.empty() && random_.one_in(8)) says += " " + text({random_.pick(spoken_)});
    world_.join(worker, random_.one_in(6) ? kMachines[random_.below(3)] : kMachines[machine], says);
  }

  void heartbeat(const std::string& worker) {
    std::vector<AttemptKey> keys;
    for (const AttemptKey& key : held_[worker]) {
      if (!random_.one_in(6)) keys.push_back(key);
    }
    if (!spoken_.empty() && random_.one_in(6)) keys.push_back(random_.pick(spoken_));
    world_.step(Heartbeat{world_.session(worker), random_.below(1000), keys});
  }

  void report(const std::string& worker, AttemptKey key) {
    const SessionId session = world_.session(worker);
    spoken_.insert(key);
    switch (random_.below(8)) {
      case 0:
      case 1:
        world_.step(AttemptStarted{session, key, 0});
        break;
      case 2:
        world_.step(CheckpointStored{session, key, random_.below(5),
                                     sha256(std::to_string(random_.below(1000)))});
        break;
      case 3:
      case 4:
      case 5:
        world_.step(success(worker, key));
        break;
      case 6:
        world_.step(
            AttemptFailed{session, key, static_cast<FailureClass>(random_.below(9)), "text"});
        break;
      default:
        world_.step(AttemptCancelled{session, key});
        break;
    }
  }

  // Any worker, about any attempt that was ever or never handed out.
  void speak_out_of_turn() {
    const std::string worker = random_.pick(kWorkers);
    if (!world_.is_connected(worker)) return;
    AttemptKey key{JobId{random_.below(world_.stored().jobs().size() + 2)}, random_.below(6)};
    if (!spoken_.empty() && !random_.one_in(4)) key = random_.pick(spoken_);
    report(worker, key);
  }

  void retry() {
    const std::vector<JobId> jobs = some_jobs();
    for (const auto& [id, stored] : world_.stored().jobs()) {
      // A retry may reopen what it names, its ancestors and its descendants: not looked at more
      // closely.
      if (stored.state.state != JobState::kSucceeded) states_.erase(id);
    }
    world_.step(RetryJobs{jobs});
  }

  std::vector<JobId> some_jobs() {
    std::vector<JobId> jobs;
    for (const auto& [id, stored] : world_.stored().jobs()) {
      if (random_.one_in(6)) jobs.push_back(id);
    }
    return jobs;
  }

  AttemptSucceeded success(const std::string& worker, AttemptKey key) {
    AttemptSucceeded event{world_.session(worker), key, {}};
    // Few values: equal accuracies are common, and so is none.
    if (!random_.one_in(4)) event.result.validation_accuracy = 80 + random_.below(3);
    event.result.duration_seconds = random_.below(100);
    event.result.artifact = artifact_of(key.job, key.attempt);
    return event;
  }

  void take_messages() {
    for (const Send& sent : world_.sent()) {
      const auto worker = std::ranges::find_if(kWorkers, [&](const std::string& each) {
        return world_.is_connected(each) && world_.session(each) == sent.session;
      });
      if (worker == kWorkers.end()) continue;
      std::set<AttemptKey>& held = held_[*worker];
      if (const auto* offer = std::get_if<Offer>(&sent.message)) {
        std::uint32_t& latest = latest_attempt_[offer->key.job];
        EXPECT_LT(latest, offer->key.attempt);
        latest = offer->key.attempt;
        if (!random_.one_in(10)) held.insert(offer->key);  // Otherwise it was lost on the way.
      } else if (const auto* fence = std::get_if<Fence>(&sent.message)) {
        held.erase(fence->key);
      } else if (const auto* reply = std::get_if<OutcomeReply>(&sent.message)) {
        if (!random_.one_in(10)) held.erase(reply->key);
      } else if (const auto* cancel = std::get_if<Cancel>(&sent.message)) {
        to_cancel_.insert(cancel->key);
      } else if (const auto* welcome = std::get_if<Welcome>(&sent.message)) {
        for (const AttemptKey& key : welcome->fenced) held.erase(key);
      }
    }
    world_.forget_messages();
  }

  void check_terminal() {
    for (const auto& [id, stored] : world_.stored().jobs()) {
      const auto before = states_.find(id);
      if (before != states_.end() && is_terminal(before->second)) {
        EXPECT_EQ(before->second, stored.state.state) << "job " << number(id) << " did not stay";
      }
      states_[id] = stored.state.state;
    }
  }

  bool all_terminal() const {
    return std::ranges::all_of(world_.stored().jobs(),
                               [](const auto& job) { return is_terminal(job.second.state.state); });
  }

  std::string text(const std::set<AttemptKey>& keys) const {
    std::string line;
    for (const AttemptKey& key : keys) {
      if (world_.core().contains(key.job)) {
        line += fmt::format("{}#{} ", world_.name(key.job), key.attempt);
      }
    }
    return line;
  }

  Random random_;
  World world_;
  std::size_t experiments_ = 0;
  std::map<std::string, std::set<AttemptKey>> held_;  // What each worker believes to hold.
  std::set<AttemptKey> to_cancel_;
  std::set<AttemptKey> spoken_;
  std::map<JobId, JobState> states_;
  std::map<JobId, std::uint32_t> latest_attempt_;
};

TEST(Random, Worlds_KeepTheirInvariantsAndEnd) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    RandomWorld world(seed);
    for (int step = 0; step < kStepsPerSeed; ++step) {
      SCOPED_TRACE(fmt::format("seed {}, step {}", seed, step));
      world.step();
      if (HasFailure()) return;
    }
    SCOPED_TRACE(fmt::format("seed {}, benign end", seed));
    world.run_to_the_end();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace bitrung::core
