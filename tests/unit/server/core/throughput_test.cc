// How many transitions per second the core makes, printed and not judged: a hundred layers of a
// hundred jobs, each with two parents, driven to the end by a hundred workers.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <variant>

#include "server/core/core.h"

namespace bitrung::core {
namespace {

constexpr std::uint32_t kLayers = 100;
constexpr std::uint32_t kWidth = 100;
constexpr std::int64_t kWorkers = 100;

Submit layered_graph() {
  Submit submit;
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    for (std::uint32_t i = 0; i < kWidth; ++i) {
      NewJob& job = submit.jobs.emplace_back();
      job.spec = sha256(fmt::format("{} {}", layer, i));
      job.dataset = "cifar10";
      job.cost_class = "resnet20";
      job.flops = 1e15 + i;
      if (layer > 0) {
        const std::uint32_t above = (layer - 1) * kWidth;
        job.inputs.push_back({InputRole::kTeacher, above + i, std::nullopt});
        job.inputs.push_back({InputRole::kInit, above + (i + 1) % kWidth, std::nullopt});
      }
    }
  }
  return submit;
}

TEST(Throughput, LayeredGraph_IsDrivenToItsEnd) {
  Core core({}, {}, {});
  Now now;
  std::deque<Send> offers;
  const auto step = [&](const Event& event) {
    now.monotonic += std::chrono::milliseconds{1};
    now.wall_ms += 1;
    for (Effect& effect : core.step(event, now)) {
      auto* send = std::get_if<Send>(&effect);
      if (send != nullptr && std::holds_alternative<Offer>(send->message)) {
        offers.push_back(std::move(*send));
      }
    }
  };
  for (std::int64_t i = 1; i <= kWorkers; ++i) {
    step(SessionOpened{SessionId{i},
                       fmt::format("worker {}", i),
                       fmt::format("w{}", i),
                       "1",
                       0,
                       {{"cuda:0", "a device", 1, 1}},
                       {{"cifar10", sha256("data")}},
                       {},
                       0});
  }
  const auto begin = std::chrono::steady_clock::now();
  step(layered_graph());
  const auto submitted = std::chrono::steady_clock::now();
  std::size_t succeeded = 0;
  db::ResultRow result;
  result.duration_seconds = 10;
  while (!offers.empty()) {
    const SessionId session = offers.front().session;
    const AttemptKey key = std::get<Offer>(offers.front().message).key;
    offers.pop_front();
    step(AttemptStarted{session, key, 0});
    result.artifact.bytes[0] = static_cast<std::uint8_t>(succeeded);
    step(AttemptSucceeded{session, key, result});
    ++succeeded;
  }
  const auto end = std::chrono::steady_clock::now();
  ASSERT_EQ(succeeded, std::size_t{kLayers} * kWidth);
  // blocked -> ready -> offered -> running -> succeeded; the first layer was never blocked.
  const double transitions = 4.0 * static_cast<double>(succeeded) - kWidth;
  const std::chrono::duration<double> duration = end - submitted;
  fmt::print("{} jobs: submitted in {:.1f} ms, {:.0f} transitions in {:.3f} s, {:.0f} per second\n",
             succeeded, std::chrono::duration<double, std::milli>(submitted - begin).count(),
             transitions, duration.count(), transitions / duration.count());
}

}  // namespace
}  // namespace bitrung::core
