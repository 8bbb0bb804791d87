// The scheduler alone, without a store, a session or a worker: how many transitions of jobs it
// makes in a second, and how much memory a waiting job takes in it.
//
// One worker with many slots runs a graph; every offer is answered by "started" and "succeeded", as
// a session would. A transition is a change of a job's state as the core says it (SaveJob): blocked
// to ready, ready to offered, offered to running, running to succeeded. Prints one JSON object.
#include <malloc.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "server/core/core.h"

namespace bitrung::core {
namespace {

using Clock = std::chrono::steady_clock;

Digest digest_of(std::uint64_t number) {
  return sha256(fmt::format("job {}", number));
}

std::vector<NewJob> graph(std::uint32_t layers, std::uint32_t width, std::uint64_t seed) {
  std::vector<NewJob> jobs;
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    for (std::uint32_t i = 0; i < width; ++i) {
      NewJob& job = jobs.emplace_back();
      job.spec = digest_of(seed + jobs.size());
      job.dataset = "synthetic";
      job.cost_class = "resnet20 w4a4 synthetic";
      job.flops = 1e9;
      if (layer == 0) continue;
      for (const std::uint32_t parent : {i, (i + 1) % width}) {
        NewJob::Input& input = job.inputs.emplace_back();
        input.role = InputRole::kTeacher;
        input.parent = (layer - 1) * width + parent;
      }
    }
  }
  return jobs;
}

SessionOpened worker(std::uint32_t slots) {
  SessionOpened opened;
  opened.session = SessionId{1};
  opened.worker_id = "worker";
  opened.name = "worker";
  for (std::uint32_t i = 0; i < slots; ++i) opened.slots.push_back({"cpu", "cpu", 0, 1});
  opened.datasets.push_back({"synthetic", digest_of(0)});
  return opened;
}

struct Counts {
  std::uint64_t transitions = 0;
  std::uint64_t steps = 0;
  std::uint64_t succeeded = 0;
};

// Runs what is offered until nothing is.
class Runner {
 public:
  explicit Runner(Core& core) : core_(core) {}

  void step(const Event& event) {
    ++counts_.steps;
    const Now now{std::chrono::milliseconds(static_cast<std::int64_t>(counts_.steps / 1000)), 1};
    for (Effect& effect : core_.step(event, now)) {
      if (std::holds_alternative<SaveJob>(effect)) ++counts_.transitions;
      auto* send = std::get_if<Send>(&effect);
      if (send == nullptr) continue;
      if (auto* offer = std::get_if<Offer>(&send->message)) offers_.push_back(offer->key);
    }
  }
  Counts run() {
    while (!offers_.empty()) {
      const AttemptKey key = offers_.front();
      offers_.pop_front();
      step(AttemptStarted{SessionId{1}, key, 0});
      AttemptSucceeded success{SessionId{1}, key, {}};
      success.result.duration_seconds = 1;
      success.result.artifact = digest_of(1);
      step(success);
      ++counts_.succeeded;
    }
    return counts_;
  }

 private:
  Core& core_;
  std::deque<AttemptKey> offers_;
  Counts counts_;
};

double measure(std::uint32_t layers, std::uint32_t width, std::uint32_t slots) {
  Core core({}, {}, {});
  Runner runner(core);
  runner.step(worker(slots));
  Submit submit{graph(layers, width, 1)};
  const auto start = Clock::now();
  runner.step(std::move(submit));
  const Counts counts = runner.run();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (counts.succeeded != std::uint64_t{layers} * width) {
    fmt::print(stderr, "core_bench: {} of {} jobs succeeded\n", counts.succeeded, layers * width);
    std::exit(1);
  }
  return static_cast<double>(counts.transitions) / seconds;
}

// Bytes of the heap per job of `experiments` x 100,000 independent jobs that wait.
double waiting_bytes(std::uint32_t experiments) {
  constexpr std::uint32_t kJobs = 100'000;
  Core core({}, {}, {});
  ::malloc_trim(0);
  const std::size_t before = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
  for (std::uint32_t i = 0; i < experiments; ++i) {
    Submit submit{graph(1, kJobs, std::uint64_t{i} * kJobs + 1)};
    core.step(submit, {});
  }
  const std::size_t after = ::mallinfo2().uordblks + ::mallinfo2().hblkhd;
  return static_cast<double>(after - before) / (static_cast<double>(experiments) * kJobs);
}

}  // namespace
}  // namespace bitrung::core

int main(int argc, char** argv) {
  using namespace bitrung::core;
  const bool is_profile = argc > 1 && std::strcmp(argv[1], "--profile") == 0;
  const int repeats = is_profile ? 20 : 1;
  double flat = 0;
  double layered = 0;
  for (int i = 0; i < repeats; ++i) {
    flat = measure(1, 10'000, 256);
    layered = measure(100, 100, 256);
  }
  if (is_profile) return 0;
  fmt::print(R"({{"flat_transitions_per_s":{:.0f},"layered_transitions_per_s":{:.0f},)"
             R"("waiting_job_bytes_100k":{:.0f},"waiting_job_bytes_1m":{:.0f}}})"
             "\n",
             flat, layered, waiting_bytes(1), waiting_bytes(10));
  return 0;
}
