#include "tests/disk/workload.h"

#include <sqlite3.h>

#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "db/base/digest.h"
#include "db/base/status.h"
#include "server/engine/engine.h"
#include "tests/unit/db/forwarding_store.h"

namespace bitrung::disk {
namespace {

using core::AttemptKey;
using engine::Engine;

// The real store; says when it has committed.
class WatchedStore final : public db::ForwardingStore {
 public:
  WatchedStore(std::unique_ptr<db::Store> store, std::function<void()> committed)
      : ForwardingStore(std::move(store)), committed_(std::move(committed)) {}

  absl::Status commit() override {
    BITRUNG_RETURN_IF_ERROR(store_->commit());
    committed_();
    return absl::OkStatus();
  }

 private:
  std::function<void()> committed_;
};

class ManualClock final : public engine::Clock {
 public:
  core::Now now() override { return now_; }
  void advance(std::chrono::milliseconds by) {
    now_.monotonic += by;
    now_.wall_ms += by.count();
  }

 private:
  core::Now now_{std::chrono::milliseconds(1'000'000), 1'700'000'000'000};
};

// j0 ── j1 ── j2 …, and beside them one job without a teacher.
engine::NewExperiment chain(const std::string& request_id, int jobs) {
  engine::NewExperiment experiment{.request_id = request_id,
                                   .name = "study-" + request_id,
                                   .source_yaml = "experiment: " + request_id + "\n",
                                   .submitted_by = "anna",
                                   .request_sha256 = sha256(request_id),
                                   .graph_sha256 = sha256("graph of " + request_id),
                                   .join_active = false,
                                   .rows = {},
                                   .nodes = {}};
  for (int i = 0; i < jobs; ++i) {
    db::JobSpecRow row;
    row.name = fmt::format("j{}", i);
    // Two pages of options, as a large study has them.
    row.spec_json = fmt::format(R"({{"of":"{} {}","rest":"{}"}})", request_id, i,
                                std::string(5000, static_cast<char>('a' + i)));
    row.spec_sha256 = sha256(row.spec_json);
    row.model = "resnet8";
    row.dataset = "synthetic";
    row.method = "dorefa";
    row.epochs = 3;
    row.numerics = 1;
    row.retries = 2;
    core::NewJob node;
    node.spec = row.spec_sha256;
    node.dataset = row.dataset;
    node.cost_class = core::cost_class(row);
    node.numerics = 1;
    node.retries = 2;
    if (i > 0 && i < jobs - 1) {
      const auto parent = static_cast<std::uint32_t>(i - 1);
      node.inputs.push_back({InputRole::kTeacher, parent, std::nullopt});
      row.inputs.push_back({InputRole::kTeacher, JobId{parent}, std::nullopt});
    }
    experiment.rows.push_back(std::move(row));
    experiment.nodes.push_back(std::move(node));
  }
  return experiment;
}

class Script {
 public:
  Script(const FaultDisk& disk, std::filesystem::path directory, bool contents)
      : disk_(disk), directory_(std::move(directory)), contents_(contents) {}

  Witness run() {
    const auto first = [this] {
      return std::vector<Step>{
          hello("w1"),    submit("a", 5), work(),  work(),           work(),
          submit("b", 4), work(),         work(),  work(),           work(),
          submit("a", 5), work(),         work(),  cancel(JobId{8}), cancel_for_now(JobId{9}),
          work(),         work(),         pass(2), work(),           work(),
          work(),         work()};
    };
    const auto second = [this] {
      return std::vector<Step>{hello("w1"), hello("w2"), work(),          work(), work(),
                               work(),      pass(2),     submit("c", 6),  work(), work(),
                               work(),      drain("w2"), work(),          work(), submit("b", 4),
                               work(),      work(),      retry(JobId{9}), work(), work()};
    };
    const auto third = [this] {
      // w1 does not come back: its attempts are lost.
      return std::vector<Step>{hello("w2"), pass(100), work(),         undrain("w2"), work(),
                               work(),      work(),    work(),         work(),        pass(2),
                               work(),      work(),    work(),         work(),        work(),
                               work(),      work(),    submit("d", 3), work(),        work()};
    };
    for (const auto& life : {std::function(first), std::function(second), std::function(third)}) {
      witness_.ended = live(life());
      if (!witness_.ended.ok()) break;
    }
    return std::move(witness_);
  }

 private:
  using Step = std::function<void(Engine&)>;

  static constexpr int kCancel = 100;  // A phase.

  struct Worker {
    SessionId session{};
    bool is_connected = false;           // In this life of the server.
    std::map<AttemptKey, int> attempts;  // With the next phase of each.
  };

  // Hears what a session is told.
  class Sink final : public engine::SessionSink {
   public:
    Sink(Script& script, std::string worker) : script_(script), worker_(std::move(worker)) {}
    void send(engine::ToWorker message) override { script_.hear(worker_, message); }

   private:
    Script& script_;
    const std::string worker_;
  };

  // One life of a server: from its start to its end, or to the failure that ends it.
  absl::Status live(std::vector<Step> steps) {
    BITRUNG_ASSIGN_OR_RETURN(auto opened, db::Store::open(directory_, kStoreOptions));
    witness_.terms.push_back({position(), opened->term()});
    if (witness_.commits.empty()) committed();
    WatchedStore store(std::move(opened), [this] { committed(); });
    engine::Publisher publisher;
    core::Settings settings;
    settings.term = store.term();
    absl::Status failure;
    failed_ = false;
    for (auto& [name, worker] : workers_) worker.is_connected = false;
    Engine engine(store, settings, clock_, publisher, [&](const absl::Status& status) {
      failure = status;
      failed_ = true;
    });
    BITRUNG_RETURN_IF_ERROR(engine.load());
    // Each step is a turn: the next one is asked for when the answer of this one has come.
    std::size_t next = 0;
    std::function<void()> go_on = [&] {
      if (next == steps.size()) return engine.stop();
      ++witness_.steps;
      steps[next++](engine);
      engine.workers([&](const absl::StatusOr<std::vector<core::WorkerInfo>>& answer) {
        if (answer.ok()) go_on();
      });
    };
    go_on();
    engine.run();
    return failure;
  }

  Step submit(const std::string& request_id, int jobs) {
    return [this, request_id, jobs](Engine& engine) {
      engine.submit(chain(request_id, jobs),
                    [this, request_id, jobs](const absl::StatusOr<engine::SubmitAnswer>& answer) {
                      if (!answer.ok()) return;
                      told(
                          fmt::format("submit {}", request_id),
                          fmt::format("SELECT count(*) = {} FROM job WHERE experiment_id = (SELECT "
                                      "id FROM experiment WHERE request_id = '{}' AND id = {})",
                                      jobs, request_id, number(answer->id)));
                    });
    };
  }

  Step cancel(JobId job) {
    return [this, job](Engine& engine) {
      engine.cancel({job}, [this, job](const absl::StatusOr<std::uint32_t>& count) {
        if (!count.ok() || *count == 0) return;
        told(fmt::format("cancel {}", number(job)),
             fmt::format("SELECT state IN ('cancelled', 'cancelling') FROM job WHERE id = {}",
                         number(job)));
      });
    };
  }
  // Cancels and retries: nothing that must be so for ever.
  Step cancel_for_now(JobId job) {
    return [job](Engine& engine) {
      engine.cancel({job}, [](const absl::StatusOr<std::uint32_t>&) {});
    };
  }
  Step retry(JobId job) {
    return [this, job](Engine& engine) {
      engine.retry({job}, [this, job](const absl::StatusOr<std::uint32_t>& count) {
        if (!count.ok() || *count == 0) return;
        told(fmt::format("retry {}", number(job)),
             fmt::format("SELECT state <> 'cancelled' FROM job WHERE id = {}", number(job)));
      });
    };
  }

  Step drain(const std::string& worker, bool draining = true) {
    return [this, worker, draining](Engine& engine) {
      engine.drain(worker, draining, [this, worker](const absl::StatusOr<core::WorkerInfo>& info) {
        if (info.ok()) {
          told("drain", fmt::format("SELECT count(*) FROM worker WHERE name = '{}'", worker));
        }
      });
    };
  }
  Step undrain(const std::string& worker) { return drain(worker, false); }

  Step pass(int seconds) {
    return [this, seconds](Engine& engine) {
      clock_.advance(std::chrono::seconds(seconds));
      engine.post(core::WakeUp{});
    };
  }

  Step hello(const std::string& name) {
    return [this, name](Engine& engine) {
      Worker& worker = workers_[name];
      worker.session = engine.open_session(std::make_shared<Sink>(*this, name));
      worker.is_connected = true;
      core::SessionOpened event{.session = worker.session,
                                .worker_id = "id-of-" + name,
                                .name = name,
                                .version = "test",
                                .numerics = 1,
                                .slots = {{"cpu", "a cpu", 1, 1}, {"cpu", "a cpu", 1, 1}},
                                .datasets = {{"synthetic", sha256("data")}},
                                .held = {},
                                .term_seen = 0};
      for (const auto& [key, phase] : worker.attempts) event.held.push_back(key);
      engine.post(std::move(event));
    };
  }

  // Every attempt does its next thing.
  Step work() {
    return [this](Engine& engine) {
      clock_.advance(std::chrono::milliseconds(100));
      // Here and not when the engine's timer says so, which has the time of the machine.
      engine.post(core::WakeUp{});
      for (auto& [name, worker] : workers_) {
        if (!worker.is_connected) continue;
        for (auto& [key, phase] : worker.attempts) act(engine, worker.session, key, phase++);
      }
    };
  }

  void act(Engine& engine, SessionId session, AttemptKey key, int phase) {
    const std::string name = fmt::format("{}/{}", number(key.job), key.attempt);
    switch (phase) {
      case 0:
        engine.post(core::AttemptStarted{session, key, 0});
        engine.points(session, key, 1, points(1, 60));
        break;
      case 1:
        engine.points(session, key, 31, points(31, 400));  // Half of them a second time.
        engine.logs(session, key, 1, std::vector<db::LogRow>(20, {0, 0, 5, "a line of text"}));
        break;
      case 2:
        engine.artifact_stored(sha256("checkpoint of " + name), 77);
        engine.post(core::CheckpointStored{session, key, 1, sha256("checkpoint of " + name)});
        engine.post(core::Heartbeat{session, 1, {key}});
        break;
      case 3:
        if (number(key.job) % 4 == 3 && key.attempt == 1) {
          engine.post(core::AttemptFailed{session, key, FailureClass::kTrainerCrashed, "gone"});
          break;
        }
        engine.artifact_stored(sha256("network of " + name), 78);
        {
          db::ResultRow result;
          result.test_accuracy = 71.5;
          result.best_epoch = 3;
          result.duration_seconds = 4;
          result.images_per_second = 500;
          result.artifact = sha256("network of " + name);
          engine.post(
              core::AttemptSucceeded{session, key, result, R"({"evaluation":{"top1":71.5}})"});
        }
        break;
      case kCancel:
        engine.post(core::AttemptCancelled{session, key});
        break;
      default:
        engine.post(core::Heartbeat{session, 2, {key}});
    }
  }

  static std::vector<db::PointRow> points(int first, int last) {
    std::vector<db::PointRow> points;
    for (int i = first; i <= last; ++i) {
      points.push_back({i % 2 == 0 ? "train_loss" : "test_loss", i, 1.0 / i});
    }
    return points;
  }

  void hear(const std::string& name, const engine::ToWorker& message) {
    Worker& worker = workers_[name];
    const auto where = [](const AttemptKey& key) {
      return fmt::format("job_id = {} AND attempt = {}", number(key.job), key.attempt);
    };
    if (const auto* welcome = std::get_if<core::Welcome>(&message)) {
      told("welcome", fmt::format("SELECT count(*) FROM worker WHERE id = 'id-of-{}'", name));
      for (const AttemptKey& key : welcome->fenced) worker.attempts.erase(key);
    } else if (const auto* offer = std::get_if<engine::FullOffer>(&message)) {
      worker.attempts.emplace(offer->offer.key, 0);
      told(fmt::format("offer {}", where(offer->offer.key)),
           fmt::format("SELECT count(*) FROM attempt WHERE {}", where(offer->offer.key)));
    } else if (const auto* recorded = std::get_if<engine::PointsRecorded>(&message)) {
      told(fmt::format("points {} to {}", where(recorded->key), recorded->watermark),
           fmt::format("SELECT point_watermark >= {0} AND point_watermark = (SELECT "
                       "sum(point_count) FROM series WHERE {1}) FROM attempt WHERE {1}",
                       recorded->watermark, where(recorded->key)));
    } else if (const auto* lines = std::get_if<engine::LogsRecorded>(&message)) {
      told(fmt::format("lines {} to {}", where(lines->key), lines->watermark),
           fmt::format("SELECT line_watermark >= {0} AND line_watermark = (SELECT count(*) FROM "
                       "log_line WHERE {1}) FROM attempt WHERE {1}",
                       lines->watermark, where(lines->key)));
    } else if (const auto* outcome = std::get_if<core::OutcomeReply>(&message)) {
      worker.attempts.erase(outcome->key);
      told(fmt::format("outcome {}", where(outcome->key)),
           fmt::format("SELECT state IN ('succeeded', 'failed', 'cancelled') FROM attempt WHERE {}",
                       where(outcome->key)));
    } else if (const auto* fenced = std::get_if<core::Fence>(&message)) {
      worker.attempts.erase(fenced->key);
    } else if (const auto* cancelled = std::get_if<core::Cancel>(&message)) {
      worker.attempts[cancelled->key] = kCancel;
    }
  }

  void told(std::string what, std::string sql) {
    if (failed_) witness_.told_after_failure.push_back(what);
    witness_.acknowledgements.push_back({position(), std::move(what), std::move(sql)});
  }
  void committed() {
    witness_.commits.push_back({position(), contents_ ? Question(directory_).content() : ""});
  }
  std::size_t position() const { return disk_.journal().size(); }

  const FaultDisk& disk_;
  const std::filesystem::path directory_;
  const bool contents_;
  ManualClock clock_;
  std::map<std::string, Worker> workers_;
  bool failed_ = false;
  Witness witness_;
};

}  // namespace

Witness run_workload(const FaultDisk& disk, const std::filesystem::path& directory, bool contents) {
  // The reader looks for the file before it asks SQLite.
  std::ofstream(directory / db::kDatabaseFile).flush();
  return Script(disk, directory, contents).run();
}

Question::Question(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / db::kDatabaseFile;
  sqlite3_open_v2(file.c_str(), &handle_, SQLITE_OPEN_READONLY, nullptr);
}

Question::~Question() {
  sqlite3_close(handle_);
}

std::vector<std::string> Question::rows(const std::string& sql) {
  std::vector<std::string> lines;
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(handle_, sql.c_str(), -1, &statement, nullptr);
  while (code == SQLITE_OK) {
    const int step = sqlite3_step(statement);
    if (step != SQLITE_ROW) {
      code = step;
      break;
    }
    std::string& line = lines.emplace_back();
    for (int i = 0; i < sqlite3_column_count(statement); ++i) {
      if (i > 0) line += '|';
      const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, i));
      if (bytes == nullptr) continue;
      line.append(bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement, i)));
    }
  }
  if (code != SQLITE_DONE) lines = {sqlite3_errmsg(handle_)};
  sqlite3_finalize(statement);
  return lines;
}

std::string Question::content() {
  std::string all;
  const auto add = [&](const std::string& sql) {
    for (const std::string& row : rows(sql)) all += row + '\n';
  };
  add("PRAGMA user_version");
  add("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name");
  for (const std::string& table :
       rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
            "ORDER BY name")) {
    all += table + '\n';
    add(fmt::format("SELECT * FROM {} {} ORDER BY 1, 2", table,
                    table == "meta" ? "WHERE key <> 'term'" : ""));
  }
  return sha256(all).hex();
}

}  // namespace bitrung::disk
