#include "tests/sim/client.h"

#include <fmt/format.h>

#include <algorithm>

#include "db/base/check.h"
#include "server/core/graph.h"
#include "tests/sim/simulation.h"

namespace bitrung::sim {
namespace {

constexpr Micros kPatience = 5 * kSecond;

Digest content_digest(std::uint64_t number) {
  Digest digest;
  for (std::size_t i = 0; i < 8; ++i) {
    digest.bytes[i] = static_cast<std::uint8_t>(mix(number) >> (8 * i));
  }
  return digest;
}

}  // namespace

engine::NewExperiment Client::draw_experiment() {
  Random& random = sim_.random();
  engine::NewExperiment experiment;
  const std::size_t number = requests_.size() + 1;
  if (!requests_.empty() && random.one_in(5)) {
    // The same graph once more, as `bitrung run` sends it: joins the first while that is active.
    experiment = requests_[random.below(requests_.size())].experiment;
    experiment.request_id = fmt::format("request-{}", number);
    experiment.request_sha256 = content_digest(random.next());
    experiment.join_active = true;
    return experiment;
  }
  experiment.name = fmt::format("experiment-{}", number);
  experiment.request_id = fmt::format("request-{}", number);
  experiment.request_sha256 = content_digest(random.next());
  experiment.graph_sha256 = content_digest(number);
  const auto count = 1 + random.below(9);
  for (std::size_t i = 0; i < count; ++i) {
    // Few specs: equal jobs are common, inside an experiment and across.
    const std::uint64_t spec = random.below(12);
    const std::string dataset = random.one_in(4) ? "split" : "common";
    core::NewJob node;
    node.spec = content_digest(1'000 + spec);
    node.dataset = dataset;
    node.flops = static_cast<double>(random.below(3)) * 10;
    node.numerics = 1;
    node.retries = static_cast<std::uint32_t>(random.below(4));
    node.priority = static_cast<std::int32_t>(random.below(2));
    db::JobSpecRow row;
    row.name = fmt::format("job-{}", i);
    row.spec_json = fmt::format("{{\"dataset\":\"{}\"}}", dataset);
    row.spec_sha256 = node.spec;
    row.model = fmt::format("model-{}", random.below(3));
    row.dataset = dataset;
    row.method = "method";
    row.numerics = 1;
    row.epochs = 1;
    row.retries = node.retries;
    row.priority = node.priority;
    row.estimated_flops = node.flops;
    row.timeout_seconds = random.one_in(8) ? static_cast<double>(random.between(5, 60)) : 0;
    node.cost_class = core::cost_class(row);
    const auto add = [&](InputRole role, std::size_t parent, std::uint32_t choice) {
      node.inputs.push_back({role, static_cast<std::uint32_t>(parent), std::nullopt, choice});
      row.inputs.push_back({role, JobId{static_cast<std::int64_t>(parent)}, std::nullopt, choice});
    };
    if (i > 0 && !random.one_in(3)) {
      const std::size_t one = random.below(i);
      const std::size_t other = random.below(i);
      if (one != other && random.one_in(3)) {
        add(InputRole::kTeacher, one, 1);
        add(InputRole::kTeacher, other, 1);
      } else {
        add(InputRole::kTeacher, one, 0);
      }
      if (random.one_in(4)) add(InputRole::kInit, random.below(i), 0);
    }
    experiment.nodes.push_back(std::move(node));
    experiment.rows.push_back(std::move(row));
  }
  BITRUNG_CHECK(core::check_graph(experiment.nodes).ok());
  return experiment;
}

void Client::submit() {
  Request request;
  request.experiment = draw_experiment();
  request.id = request.experiment.request_id;
  requests_.push_back(std::move(request));
  send(requests_.size() - 1);
}

void Client::send(std::size_t index) {
  if (requests_[index].answered) return;
  sim_.note("submit", static_cast<std::int64_t>(index));
  sim_.network().call(
      std::nullopt, Direction::kToServer,
      [this, index] {
        sim_.server().submit(requests_[index].experiment,
                             [this, index](const absl::StatusOr<engine::SubmitAnswer>& answer) {
                               if (!answer.ok()) return;
                               sim_.network().call(
                                   std::nullopt, Direction::kToWorker,
                                   [this, index] { requests_[index].answered = true; }, false);
                             });
      },
      true);
  // Sometimes while the first is still under way.
  sim_.loop().after(sim_.random().between(100 * kMilli, kPatience), [this, index] { send(index); });
}

void Client::repeat() {
  if (requests_.empty()) return;
  Random& random = sim_.random();
  engine::NewExperiment again = requests_[random.below(requests_.size())].experiment;
  if (random.one_in(2)) again.request_sha256 = content_digest(random.next());
  // Only a content that is known can be refused: a repeat may overtake the first.
  if (!sim_.disk().tables().requests.contains(again.request_id)) return;
  sim_.network().call(
      std::nullopt, Direction::kToServer,
      [this, again] {
        sim_.server().submit(again, [](const absl::StatusOr<engine::SubmitAnswer>&) {});
      },
      true);
}

std::vector<JobId> Client::some_jobs() {
  std::vector<JobId> jobs;
  const std::size_t count = sim_.disk().tables().jobs.size();
  for (std::size_t i = 1; i <= count; ++i) {
    if (sim_.random().one_in(6)) jobs.push_back(JobId{static_cast<std::int64_t>(i)});
  }
  return jobs;
}

void Client::meddle() {
  Random& random = sim_.random();
  switch (random.below(4)) {
    case 0:
      sim_.note("cancel");
      return sim_.network().call(
          std::nullopt, Direction::kToServer,
          [this, jobs = some_jobs()] { sim_.server().cancel(jobs, [](bool) {}); }, true);
    case 1:
      sim_.note("retry");
      return sim_.network().call(
          std::nullopt, Direction::kToServer,
          [this, jobs = some_jobs()] { sim_.server().retry(jobs); }, true);
    case 2:
      return repeat();
    default: {
      const std::string worker = sim_.worker(random.below(sim_.worker_count())).id();
      sim_.server().drain(worker, random.one_in(2));
      return;
    }
  }
}

void Client::stop_draining() {
  for (std::size_t i = 0; i < sim_.worker_count(); ++i) {
    sim_.server().drain(sim_.worker(i).id(), false);
  }
}

bool Client::all_answered() const {
  return std::ranges::all_of(requests_, &Request::answered);
}

}  // namespace bitrung::sim
