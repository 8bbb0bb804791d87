// The client's part of the coordinator's benchmarks: submits graphs of no-op jobs to a running
// server, waits for their end, and prints what it measured as one JSON object. coordinator.py
// starts the programs and calls it; see README.md for what each measurement is.
//
// Jobs are those that `bitrung-worker --no-op` takes; simulated workers, for `fleet` and as the
// probe of `points`, are sessions of this process.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/job_service.grpc.pb.h"
#include "bitrung/v1/worker_service.grpc.pb.h"
#include "client/experiment/to_proto.h"
#include "db/base/digest.h"
#include "db/base/login_file.h"
#include "db/base/status.h"
#include "db/base/tls13.h"
#include "worker/agent/no_op.h"

namespace bitrung::bench {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<std::size_t>(share * last)];
}

[[noreturn]] void die(const std::string& text) {
  fmt::print(stderr, "coordinator_bench: {}\n", text);
  std::exit(1);
}

void check(const grpc::Status& status, const char* what) {
  if (!status.ok()) {
    die(fmt::format("{}: {} (gRPC code {})", what, status.error_message(),
                    static_cast<int>(status.error_code())));
  }
}

struct Connection {
  std::string target;
  std::optional<LoginFile> login;  // For a target over TLS.

  std::shared_ptr<grpc::Channel> open() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    if (!login)
      return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = login->authority_pem;
    return grpc::CreateCustomChannel(target, grpc::SslCredentials(tls), arguments);
  }
  void authorize(grpc::ClientContext& context) const {
    if (login) context.AddMetadata("authorization", "Bearer " + login->token);
  }
};

// The options of a training as the client writes them out, for a job that only a no-op worker
// takes.
std::string spec(std::uint64_t seed, std::uint32_t numerics) {
  return fmt::format(
      R"({{"augment":["crop","flip"],"batch_size":128,"bits":{{"activations":4,"weights":4}},)"
      R"("dataset":"synthetic","distill":{{"temperature":5.0,"weight":0.5}},"epochs":160,)"
      R"("init":"scratch","kind":"train","method":{{"activations":"pact","weights":"dorefa"}},)"
      R"("model":"resnet20","numerics":{},"optimizer":{{"kind":"sgd","learning_rate":0.1,)"
      R"("momentum":0.9,"nesterov":false,"weight_decay":0.0001}},"quantize_first_last":false,)"
      R"("schedule":{{"at":[0.5,0.75],"factor":0.1,"kind":"step","warmup_epochs":0}},"seed":{},)"
      R"("synthetic":{{"seed":1,"test_images":1000,"train_images":7000}},"validation":5000}})",
      numerics, seed);
}

v1::JobNode& add_job(google::protobuf::RepeatedPtrField<v1::JobNode>& jobs, std::string name,
                     std::uint64_t seed, std::uint32_t numerics = agent::kNoOpNumerics) {
  v1::JobNode& job = *jobs.Add();
  job.set_name(std::move(name));
  job.set_spec_json(spec(seed, numerics));
  job.set_devices(1);
  job.set_estimated_flops(1e9);
  return job;
}

void add_teacher(v1::JobNode& job, std::uint32_t parent) {
  v1::JobInput& input = *job.add_inputs();
  input.set_role(v1::INPUT_ROLE_TEACHER);
  input.set_job_index(parent);
}

std::string random_id() {
  const int file = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  std::uint64_t bytes[2] = {};
  if (file < 0 || ::read(file, bytes, sizeof bytes) != sizeof bytes)
    die("cannot read /dev/urandom");
  ::close(file);
  return fmt::format("{:016x}{:016x}", bytes[0], bytes[1]);
}

class Client {
 public:
  explicit Client(const Connection& connection)
      : connection_(connection),
        channel_(connection.open()),
        experiments_(v1::ExperimentService::NewStub(channel_)),
        jobs_(v1::JobService::NewStub(channel_)),
        artifacts_(v1::ArtifactService::NewStub(channel_)) {
    if (!channel_->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(30)))
      die("cannot connect to " + connection.target);
  }

  // Number of the experiment.
  std::int64_t submit(const v1::SubmitExperimentRequest& request) {
    grpc::ClientContext context;
    connection_.authorize(context);
    v1::SubmitExperimentResponse response;
    check(experiments_->SubmitExperiment(&context, request, &response), "submit");
    return response.experiment().experiment_id();
  }

  v1::PlanExperimentResponse plan(const v1::PlanExperimentRequest& request) {
    grpc::ClientContext context;
    connection_.authorize(context);
    v1::PlanExperimentResponse response;
    check(experiments_->PlanExperiment(&context, request, &response), "plan");
    return response;
  }

  v1::Experiment experiment(std::int64_t id) {
    grpc::ClientContext context;
    connection_.authorize(context);
    v1::GetExperimentRequest request;
    request.set_experiment(std::to_string(id));
    v1::GetExperimentResponse response;
    check(experiments_->GetExperiment(&context, request, &response), "get experiment");
    return response.experiment();
  }

  // Asks every few milliseconds; ends the program if a job did not succeed.
  void wait_for_success(std::int64_t id, double seconds_max) {
    const auto start = Clock::now();
    while (true) {
      const v1::Experiment now = experiment(id);
      if (now.state() == v1::EXPERIMENT_STATE_SUCCEEDED) return;
      if (now.state() != v1::EXPERIMENT_STATE_ACTIVE) die("an experiment did not succeed");
      if (seconds_since(start) > seconds_max) {
        std::string states;
        for (const auto& [state, count] : now.jobs_by_state())
          states += fmt::format(" {}: {}", state, count);
        die(fmt::format("experiment {} is not done after {} s:{}", id, seconds_max, states));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
  }

  v1::GetSeriesResponse series(const v1::GetSeriesRequest& request) {
    grpc::ClientContext context;
    connection_.authorize(context);
    v1::GetSeriesResponse response;
    check(jobs_->GetSeries(&context, request, &response), "get series");
    return response;
  }

  std::string upload(const std::string& data) {
    const std::string digest = sha256(data).hex();
    grpc::ClientContext context;
    connection_.authorize(context);
    v1::UploadArtifactResponse response;
    const auto writer = artifacts_->UploadArtifact(&context, &response);
    v1::UploadArtifactRequest request;
    request.set_sha256(digest);
    request.set_size_bytes(data.size());
    request.set_data(data);
    writer->Write(request);
    writer->WritesDone();
    check(writer->Finish(), "upload");
    return digest;
  }

  v1::JobService::Stub& jobs() { return *jobs_; }
  const Connection& connection() const { return connection_; }

 private:
  const Connection& connection_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ExperimentService::Stub> experiments_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
};

v1::SubmitExperimentRequest new_request(const std::string& name) {
  v1::SubmitExperimentRequest request;
  request.set_request_id(random_id());
  request.set_name(name);
  request.set_source_yaml("experiment: " + name + "\n");
  return request;
}

// Seeds of an experiment's jobs; different calls never give equal jobs.
std::uint64_t first_seed() {
  return static_cast<std::uint64_t>(std::strtoull(random_id().substr(0, 7).c_str(), nullptr, 16))
         << 24U;
}

v1::SubmitExperimentRequest independent(std::uint32_t count, std::uint64_t seed) {
  v1::SubmitExperimentRequest request = new_request("independent");
  for (std::uint32_t i = 0; i < count; ++i)
    add_job(*request.mutable_jobs(), fmt::format("job.{:06}", i), seed + i);
  return request;
}

// What is measured begins with what the command line does with the jobs of a file.
json run_graph(Client& client, v1::SubmitExperimentRequest request, double seconds_max) {
  const auto start = Clock::now();
  client::share_specs(request.mutable_jobs(), request.mutable_shared_specs());
  const std::int64_t id = client.submit(request);
  const double submitted = seconds_since(start);
  client.wait_for_success(id, seconds_max);
  const double done = seconds_since(start);
  const int count = request.jobs_size();
  return {{"jobs", count},
          {"experiment", id},
          {"submit_s", submitted},
          {"run_s", done - submitted},
          {"total_s", done},
          {"run_jobs_per_s", count / (done - submitted)},
          {"total_jobs_per_s", count / done}};
}

json flat(Client& client, std::uint32_t count) {
  run_graph(client, independent(100, first_seed()), 60);  // Opens what opens lazily.
  return run_graph(client, independent(count, first_seed()), 300);
}

json layered(Client& client, std::uint32_t layers, std::uint32_t width) {
  run_graph(client, independent(100, first_seed()), 60);
  v1::SubmitExperimentRequest request = new_request("layered");
  const std::uint64_t seed = first_seed();
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    for (std::uint32_t i = 0; i < width; ++i) {
      v1::JobNode& job = add_job(*request.mutable_jobs(), fmt::format("l{:03}.{:03}", layer, i),
                                 seed + std::uint64_t{layer} * width + i);
      if (layer == 0) continue;
      add_teacher(job, (layer - 1) * width + i);
      add_teacher(job, (layer - 1) * width + (i + 1) % width);
    }
  }
  return run_graph(client, std::move(request), 300);
}

json chain(Client& client, std::uint32_t length) {
  run_graph(client, independent(100, first_seed()), 60);
  v1::SubmitExperimentRequest request = new_request("chain");
  const std::uint64_t seed = first_seed();
  for (std::uint32_t i = 0; i < length; ++i) {
    v1::JobNode& job = add_job(*request.mutable_jobs(), fmt::format("link.{:05}", i), seed + i);
    if (i > 0) add_teacher(job, i - 1);
  }
  return run_graph(client, std::move(request), 300);
}

// Plans and submits jobs that nobody takes yet.
json submit_waiting(Client& client, std::uint32_t count, std::uint64_t seed, bool planned) {
  v1::SubmitExperimentRequest request = independent(count, seed);
  const auto start = Clock::now();
  client::share_specs(request.mutable_jobs(), request.mutable_shared_specs());
  json out = {{"jobs", count},
              {"seed", seed},
              {"share_s", seconds_since(start)},
              {"request_bytes", request.ByteSizeLong()}};
  if (planned) {
    v1::PlanExperimentRequest plan;
    *plan.mutable_jobs() = request.jobs();
    *plan.mutable_shared_specs() = request.shared_specs();
    const v1::PlanExperimentResponse answer = client.plan(plan);
    out["plan_s"] = seconds_since(start);
    std::uint32_t cached = 0;
    for (const v1::PlannedJob& job : answer.jobs()) cached += job.cached() ? 1 : 0;
    out["planned_cached"] = cached;
  }
  const auto submit_start = Clock::now();
  const std::int64_t id = client.submit(request);
  out["submit_s"] = seconds_since(submit_start);
  out["total_s"] = seconds_since(start);
  out["experiment"] = id;
  out["cached"] = client.experiment(id).cached_count();
  return out;
}

json read_series(Client& client, std::int64_t experiment, const std::string& name) {
  const v1::Experiment about = client.experiment(experiment);
  json out;
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::uint64_t points = 0;
    std::uint32_t series = 0;
    const auto start = Clock::now();
    // 1,000 jobs are the limit of a call.
    for (std::uint32_t first = 0; first < about.job_count(); first += 1000) {
      v1::GetSeriesRequest request;
      request.add_names(name);
      request.set_buckets_max(100);
      for (std::uint32_t i = first; i < std::min(first + 1000, about.job_count()); ++i) {
        v1::JobReference& job = *request.add_jobs();
        job.set_experiment(std::to_string(experiment));
        job.set_job(fmt::format("job.{:06}", i));
      }
      const v1::GetSeriesResponse response = client.series(request);
      for (const v1::Series& each : response.series()) {
        points += each.point_count();
        ++series;
      }
    }
    best = std::min(best, seconds_since(start));
    out = {{"series", series}, {"points", points}};
  }
  out["best_s"] = best;
  return out;
}

// A worker as a session of this process, with one slot: does at once what it is offered, or holds
// the attempt for `on_started`.
class SimulatedWorker final
    : public grpc::ClientBidiReactor<v1::OpenSessionRequest, v1::OpenSessionResponse> {
 public:
  struct Options {
    std::string name;
    std::uint32_t numerics = agent::kNoOpNumerics;
    std::string artifact;
    std::string dataset_sha256;
    std::string dataset = "synthetic";
    bool holds = false;
  };

  SimulatedWorker(const Connection& connection, Options options)
      : options_(std::move(options)),
        channel_(connection.open()),
        stub_(v1::WorkerService::NewStub(channel_)) {
    connection.authorize(context_);
    stub_->async()->OpenSession(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
    v1::OpenSessionRequest request;
    v1::Hello& hello = *request.mutable_hello();
    hello.set_worker_id(random_id());
    hello.set_name(options_.name);
    hello.set_version("bench");
    hello.set_numerics(options_.numerics);
    hello.add_slots()->set_device("none");
    v1::Dataset& dataset = *hello.add_datasets();
    dataset.set_name(options_.dataset);
    dataset.set_sha256(options_.dataset_sha256);
    send(std::move(request));
  }

  void heartbeat() {
    v1::OpenSessionRequest request;
    {
      const std::lock_guard lock(mutex_);
      if (!open_) return;
      v1::Heartbeat& beat = *request.mutable_heartbeat();
      beat.set_sequence(++sequence_);
      if (held_) *beat.add_attempts()->mutable_key() = *held_;
      beat_at_ = Clock::now();
    }
    send(std::move(request));
  }

  void send(v1::OpenSessionRequest request) {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    outgoing_.push_back(std::move(request));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  void succeed(const v1::AttemptKey& key) {
    v1::OpenSessionRequest request;
    v1::Outcome& outcome = *request.mutable_outcome();
    *outcome.mutable_key() = key;
    outcome.mutable_succeeded()->set_artifact_sha256(options_.artifact);
    outcome.mutable_succeeded()->set_duration_seconds(0.001);
    outcome.mutable_succeeded()->set_images_per_second(1);
    send(std::move(request));
  }

  // Ends the session and waits for it.
  void close() {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    if (!std::exchange(released_, true)) RemoveHold();
    done_.wait(lock, [this] { return over_; });
  }

  std::optional<v1::AttemptKey> wait_for_attempt() {
    std::unique_lock lock(mutex_);
    done_.wait_for(lock, std::chrono::seconds(30), [this] { return held_.has_value(); });
    return held_;
  }

  bool is_open() const {
    const std::lock_guard lock(mutex_);
    return open_ && !ended_;
  }
  std::uint64_t completed() const { return completed_; }
  std::uint64_t fenced() const { return fenced_; }
  std::vector<double> heartbeat_seconds() const {
    const std::lock_guard lock(mutex_);
    return beats_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return end();
    handle();
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    outgoing_.pop_front();
    if (!ok || ended_) return;
    if (!outgoing_.empty()) StartWrite(&outgoing_.front());
  }
  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    over_ = true;
    ended_ = true;
    done_.notify_all();
  }

 private:
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    if (!std::exchange(released_, true)) RemoveHold();
  }

  void handle() {
    if (incoming_.has_welcome()) {
      const std::lock_guard lock(mutex_);
      open_ = true;
    } else if (incoming_.has_heartbeat()) {
      const std::lock_guard lock(mutex_);
      beats_.push_back(seconds_since(beat_at_));
    } else if (incoming_.has_fence()) {
      ++fenced_;
    } else if (incoming_.has_outcome()) {
      ++completed_;
      const std::lock_guard lock(mutex_);
      held_.reset();
    } else if (incoming_.has_offer()) {
      const v1::AttemptKey key = incoming_.offer().key();
      {
        const std::lock_guard lock(mutex_);
        held_ = key;
        done_.notify_all();
      }
      v1::OpenSessionRequest started;
      *started.mutable_started()->mutable_key() = key;
      send(std::move(started));
      if (!options_.holds) succeed(key);
    }
  }

  const Options options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  std::deque<v1::OpenSessionRequest> outgoing_;
  v1::OpenSessionResponse incoming_;
  std::optional<v1::AttemptKey> held_;
  bool open_ = false;
  bool ended_ = false;
  bool over_ = false;
  bool released_ = false;
  std::uint64_t sequence_ = 0;
  Clock::time_point beat_at_;
  std::vector<double> beats_;
  std::atomic<std::uint64_t> completed_{0};
  std::atomic<std::uint64_t> fenced_{0};
};

// Calls every worker's heartbeat() once per second, spread over the second.
class Heart {
 public:
  explicit Heart(std::vector<std::unique_ptr<SimulatedWorker>>& workers)
      : thread_([this, &workers] {
          constexpr std::size_t kParts = 50;
          for (std::size_t part = 0; !stop_; part = (part + 1) % kParts) {
            for (std::size_t i = part; i < workers.size(); i += kParts) workers[i]->heartbeat();
            std::this_thread::sleep_for(std::chrono::milliseconds(1000 / kParts));
          }
        }) {}
  ~Heart() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

json fleet(Client& client, std::uint32_t count, double seconds) {
  const std::string artifact = client.upload(agent::no_op_model());
  const std::string dataset = sha256("bench").hex();
  const auto start = Clock::now();
  std::vector<std::unique_ptr<SimulatedWorker>> workers;
  for (std::uint32_t i = 0; i < count; ++i) {
    workers.push_back(std::make_unique<SimulatedWorker>(
        client.connection(), SimulatedWorker::Options{.name = fmt::format("simulated-{:04}", i),
                                                      .artifact = artifact,
                                                      .dataset_sha256 = dataset}));
  }
  const auto open = [&] {
    return std::count_if(workers.begin(), workers.end(),
                         [](const auto& worker) { return worker->is_open(); });
  };
  while (open() < std::ssize(workers)) {
    if (seconds_since(start) > 60) die(fmt::format("only {} sessions opened in 60 s", open()));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  json out = {{"workers", count}, {"join_s", seconds_since(start)}};
  std::vector<double> submits;
  std::uint64_t jobs = 0;
  {
    const Heart heart(workers);
    const auto begin = Clock::now();
    std::vector<std::int64_t> experiments;
    while (seconds_since(begin) < seconds) {
      const v1::SubmitExperimentRequest request = independent(200, first_seed());
      const auto submit_start = Clock::now();
      experiments.push_back(client.submit(request));
      submits.push_back(seconds_since(submit_start));
      jobs += 200;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    for (const std::int64_t id : experiments) client.wait_for_success(id, 120);
    out["jobs_per_s"] = static_cast<double>(jobs) / seconds_since(begin);
  }
  std::uint64_t fenced = 0;
  std::vector<double> beats;
  for (const auto& worker : workers) {
    fenced += worker->fenced();
    const std::vector<double> own = worker->heartbeat_seconds();
    beats.insert(beats.end(), own.begin(), own.end());
  }
  out["sessions_lost"] = std::ssize(workers) - open();
  out["fenced"] = fenced;
  out["jobs"] = jobs;
  out["submits"] = submits.size();
  out["submit_p50_s"] = percentile(submits, 0.5);
  out["submit_p99_s"] = percentile(submits, 0.99);
  out["heartbeats"] = beats.size();
  out["heartbeat_p99_s"] = percentile(beats, 0.99);
  for (auto& worker : workers) worker->close();
  return out;
}

// Points of a session of this process, one each 20 ms, as another client's stream sees them.
class Probe {
 public:
  explicit Probe(Client& client) {
    v1::SubmitExperimentRequest request = new_request("probe");
    constexpr std::uint32_t kProbeNumerics = agent::kNoOpNumerics - 1;
    v1::JobNode& job = add_job(*request.mutable_jobs(), "probe", first_seed(), kProbeNumerics);
    // A data set of its own: the worker's copy of the usual one is another.
    std::string options = job.spec_json();
    const std::string_view usual = "\"dataset\":\"synthetic\"";
    job.set_spec_json(options.replace(options.find(usual), usual.size(), "\"dataset\":\"probe\""));
    const std::int64_t experiment = client.submit(request);
    worker_ = std::make_unique<SimulatedWorker>(
        client.connection(),
        SimulatedWorker::Options{.name = "probe",
                                 .numerics = kProbeNumerics,
                                 .artifact = client.upload(agent::no_op_model()),
                                 .dataset_sha256 = sha256("probe").hex(),
                                 .dataset = "probe",
                                 .holds = true});
    const auto key = worker_->wait_for_attempt();
    if (!key) die("the probe was offered nothing");
    key_ = *key;
    reader_ = std::thread([this, &client, experiment] {
      client.connection().authorize(watch_);
      v1::WatchSeriesRequest watch;
      watch.mutable_job()->set_experiment(std::to_string(experiment));
      watch.mutable_job()->set_job("probe");
      const auto stream = client.jobs().WatchSeries(&watch_, watch);
      v1::WatchSeriesResponse response;
      while (stream->Read(&response)) {
        const auto now = Clock::now();
        const std::lock_guard lock(mutex_);
        for (const v1::Point& point : response.points()) {
          const auto sent = sent_.find(point.step());
          if (sent == sent_.end()) continue;
          seen_.push_back(std::chrono::duration<double>(now - sent->second).count());
        }
      }
      stream->Finish();
    });
    writer_ = std::thread([this] {
      for (std::int64_t step = 1; !stop_; ++step) {
        v1::OpenSessionRequest message;
        v1::Metrics& metrics = *message.mutable_metrics();
        *metrics.mutable_key() = key_;
        metrics.set_first_sequence(static_cast<std::uint64_t>(step));
        metrics.add_names("probe");
        v1::MetricPoint& point = *metrics.add_points();
        point.set_step(step);
        point.set_value(1);
        {
          const std::lock_guard lock(mutex_);
          sent_[step] = Clock::now();
        }
        worker_->send(std::move(message));
        if (step % 50 == 0) worker_->heartbeat();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
  }

  std::vector<double> finish() {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    stop_ = true;
    writer_.join();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    watch_.TryCancel();
    reader_.join();
    worker_->succeed(key_);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    worker_->close();
    return seen_;
  }

 private:
  std::unique_ptr<SimulatedWorker> worker_;
  v1::AttemptKey key_;
  grpc::ClientContext watch_;
  std::mutex mutex_;
  std::unordered_map<std::int64_t, Clock::time_point> sent_;
  std::vector<double> seen_;
  std::atomic<bool> stop_{false};
  std::thread reader_;
  std::thread writer_;
};

json points(Client& client, std::uint32_t jobs, std::uint32_t points_per_job) {
  Probe probe(client);
  json out = run_graph(client, independent(jobs, first_seed()), 300);
  const std::vector<double> seen = probe.finish();
  const double total = static_cast<double>(jobs) * points_per_job;
  out["points"] = total;
  out["points_per_s"] = total / out["total_s"].get<double>();
  out["probes"] = seen.size();
  out["seen_p50_s"] = percentile(seen, 0.5);
  out["seen_max_s"] = percentile(seen, 1.0);
  return out;
}

int main_with(int argc, char** argv) {
  require_tls13();
  Connection connection;
  std::string login_file;
  std::uint32_t jobs = 10'000;
  std::uint32_t layers = 100;
  std::uint32_t width = 100;
  std::uint32_t points_per_job = 0;
  std::uint32_t workers = 1000;
  double seconds = 20;
  std::uint64_t seed = 0;
  std::int64_t experiment = 0;
  std::string series = "train_loss";
  bool with_plan = true;

  CLI::App app("Measures a running bitrung-server; see tests/bench/README.md.");
  app.add_option("--server", connection.target)->required();
  app.add_option("--login", login_file);
  app.require_subcommand(1);
  std::function<json(Client&)> chosen;
  const auto command = [&](const char* name, std::function<json(Client&)> run) {
    CLI::App* sub = app.add_subcommand(name);
    sub->callback([&chosen, run = std::move(run)] { chosen = run; });
    sub->add_option("--jobs", jobs);
    return sub;
  };
  command("flat", [&](Client& client) { return flat(client, jobs); });
  CLI::App* sub =
      command("layered", [&](Client& client) { return layered(client, layers, width); });
  sub->add_option("--layers", layers);
  sub->add_option("--width", width);
  command("chain", [&](Client& client) { return chain(client, jobs); });
  sub = command("submit", [&](Client& client) {
    return submit_waiting(client, jobs, seed != 0 ? seed : first_seed(), with_plan);
  });
  sub->add_option("--seed", seed, "of an earlier submit, for equal jobs");
  sub->add_flag("!--no-plan", with_plan);
  sub = command("wait", [&](Client& client) {
    const auto start = Clock::now();
    client.wait_for_success(experiment, 600);
    return json{{"total_s", seconds_since(start)}};
  });
  sub->add_option("--experiment", experiment)->required();
  sub = command("points", [&](Client& client) { return points(client, jobs, points_per_job); });
  sub->add_option("--points", points_per_job, "that the worker reports per job")->required();
  sub = command("series", [&](Client& client) { return read_series(client, experiment, series); });
  sub->add_option("--experiment", experiment)->required();
  sub->add_option("--name", series);
  sub = command("fleet", [&](Client& client) { return fleet(client, workers, seconds); });
  sub->add_option("--workers", workers);
  sub->add_option("--seconds", seconds);
  CLI11_PARSE(app, argc, argv);

  if (!login_file.empty()) {
    const auto login = read_login_file(login_file, LoginFile::Kind::kLogin);
    if (!login.ok()) die(std::string(message(login.status())));
    connection.login = *login;
  }
  Client client(connection);
  fmt::print("{}\n", chosen(client).dump());
  return 0;
}

}  // namespace
}  // namespace bitrung::bench

int main(int argc, char** argv) {
  return bitrung::bench::main_with(argc, argv);
}
