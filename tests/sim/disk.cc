#include "tests/sim/disk.h"

#include <fmt/format.h>

#include <algorithm>

#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::sim {
namespace {

absl::Status refused(const char* why) {
  return absl::InternalError(why);
}

}  // namespace

bool is_live(AttemptState state) {
  return state == AttemptState::kOffered || state == AttemptState::kRunning;
}

class SimStore final : public db::Store {
 public:
  SimStore(Disk& disk, std::unique_ptr<db::Store> real) : disk_(disk), real_(std::move(real)) {
    ++disk_.tables_.term;
    if (real_ && real_->term() != disk_.tables_.term) disagree("the term");
  }
  ~SimStore() override { disk_.roll_back(); }

  std::int64_t term() const override { return disk_.tables_.term; }

  absl::StatusOr<db::Snapshot> load() override {
    db::Snapshot snapshot;
    const Tables& tables = disk_.tables_;
    for (const Tables::Job& job : tables.jobs) {
      db::Snapshot::Job& loaded = snapshot.jobs.emplace_back();
      loaded.spec = job.spec;
      loaded.spec.spec_json.clear();
      loaded.spec.aliases.clear();
      loaded.state = job.state;
      const Tables::Attempt* latest = tables.attempt({job.spec.id, job.state.attempt});
      if (latest != nullptr && is_live(latest->row.state)) loaded.live_attempt = latest->row;
    }
    for (const auto& [key, sha256] : tables.pins) {
      snapshot.pins.push_back({key.first, key.second, sha256});
    }
    for (const auto& [id, worker] : tables.workers) snapshot.workers.push_back(worker);
    snapshot.next_job_id = static_cast<std::int64_t>(tables.jobs.size()) + 1;
    snapshot.next_experiment_id = static_cast<std::int64_t>(tables.experiments.size()) + 1;
    if (real_) compare_loads(snapshot);
    return snapshot;
  }

  absl::Status begin() override {
    BITRUNG_CHECK(!disk_.in_transaction_);
    disk_.in_transaction_ = true;
    return agree("begin", absl::OkStatus(), [](db::Store& real) { return real.begin(); });
  }

  absl::Status commit() override {
    BITRUNG_CHECK(disk_.in_transaction_);
    switch (disk_.hooks_.on_commit()) {
      case CommitFate::kDiesBefore:
      case CommitFate::kFails:
        return absl::ResourceExhaustedError("commit: the disk is full");
      case CommitFate::kDone:
      case CommitFate::kDiesAfter:
        break;
    }
    const absl::Status status =
        agree("commit", absl::OkStatus(), [](db::Store& real) { return real.commit(); });
    disk_.in_transaction_ = false;
    disk_.undo_.clear();
    const Changes changes = std::exchange(disk_.changes_, {});
    disk_.hooks_.committed(changes);
    return status;
  }

  absl::Status insert_experiment(const db::ExperimentRow& row) override {
    Tables& tables = disk_.tables_;
    absl::Status status;
    if (tables.requests.contains(row.request_id) || tables.experiments.contains(row.id)) {
      status = refused("an experiment of this number or request is stored");
    } else {
      tables.experiments[row.id] = row;
      tables.requests.emplace(row.request_id, Tables::Request{row.request_sha256, row.id});
      undo([&tables, id = row.id, request = row.request_id] {
        tables.experiments.erase(id);
        tables.requests.erase(request);
      });
    }
    return agree("insert_experiment", status,
                 [&](db::Store& real) { return real.insert_experiment(row); });
  }

  absl::Status insert_joined_request(std::string_view request_id, const Digest& request_sha256,
                                     ExperimentId id) override {
    Tables& tables = disk_.tables_;
    absl::Status status;
    if (tables.requests.contains(request_id) || !tables.experiments.contains(id)) {
      status = refused("a request of this id is stored, or its experiment is not");
    } else {
      tables.requests.emplace(request_id, Tables::Request{request_sha256, id});
      undo([&tables, request = std::string(request_id)] { tables.requests.erase(request); });
    }
    return agree("insert_joined_request", status, [&](db::Store& real) {
      return real.insert_joined_request(request_id, request_sha256, id);
    });
  }

  absl::Status insert_job(const db::JobSpecRow& spec, const db::JobStateRow& state) override {
    Tables& tables = disk_.tables_;
    BITRUNG_CHECK(number(spec.id) == static_cast<std::int64_t>(tables.jobs.size()) + 1);
    disk_.changes_.jobs.try_emplace(spec.id, std::nullopt);
    tables.jobs.push_back({spec, state});
    undo([&tables] { tables.jobs.pop_back(); });
    return agree("insert_job", absl::OkStatus(),
                 [&](db::Store& real) { return real.insert_job(spec, state); });
  }

  absl::Status update_job(const db::JobStateRow& state) override {
    Tables& tables = disk_.tables_;
    const auto index = static_cast<std::size_t>(number(state.id) - 1);
    BITRUNG_CHECK(index < tables.jobs.size());
    db::JobStateRow& stored = tables.jobs[index].state;
    absl::Status status;
    if (stored.state == JobState::kSucceeded &&
        (state.state != stored.state || state.result != stored.result ||
         state.identity != stored.identity)) {
      status = refused("the result of a succeeded job is final");
    } else if ((state.state == JobState::kSucceeded) != state.result.has_value()) {
      status = refused("a job has a result exactly when it has succeeded");
    } else {
      disk_.changes_.jobs.try_emplace(state.id, stored);
      undo([&tables, index, before = stored] { tables.jobs[index].state = before; });
      stored = state;
    }
    return agree("update_job", status, [&](db::Store& real) { return real.update_job(state); });
  }

  absl::Status set_experiment_finished(ExperimentId id, std::int64_t finished_at_ms) override {
    db::ExperimentRow& row = disk_.tables_.experiments.at(id);
    undo([&row, before = row.finished_at_ms] { row.finished_at_ms = before; });
    row.finished_at_ms = finished_at_ms;
    return agree("set_experiment_finished", absl::OkStatus(),
                 [&](db::Store& real) { return real.set_experiment_finished(id, finished_at_ms); });
  }

  absl::Status save_attempt(const db::AttemptRow& row) override {
    return agree("save_attempt", save_attempt_row(row),
                 [&](db::Store& real) { return real.save_attempt(row); });
  }

  absl::Status insert_pin(const db::PinRow& row) override {
    Tables& tables = disk_.tables_;
    const std::pair key(row.experiment, row.dataset);
    absl::Status status;
    if (!tables.pins.emplace(key, row.sha256).second) {
      status = refused("the data set is pinned");
    } else {
      undo([&tables, key] { tables.pins.erase(key); });
    }
    return agree("insert_pin", status, [&](db::Store& real) { return real.insert_pin(row); });
  }

  absl::Status insert_report(JobId job, std::string_view report_json) override {
    Tables& tables = disk_.tables_;
    absl::Status status;
    if (!tables.reports.emplace(job, report_json).second) {
      status = refused("the job has a report");
    } else {
      undo([&tables, job] { tables.reports.erase(job); });
    }
    return agree("insert_report", status,
                 [&](db::Store& real) { return real.insert_report(job, report_json); });
  }

  absl::Status save_worker(const db::WorkerRow& row) override {
    Tables& tables = disk_.tables_;
    const auto found = tables.workers.find(row.id);
    if (found == tables.workers.end()) {
      undo([&tables, id = row.id] { tables.workers.erase(id); });
    } else {
      undo([&tables, before = found->second] { tables.workers[before.id] = before; });
    }
    tables.workers[row.id] = row;
    return agree("save_worker", absl::OkStatus(),
                 [&](db::Store& real) { return real.save_worker(row); });
  }

  absl::Status record_artifact(const Digest& sha256, std::uint64_t size_bytes,
                               std::int64_t now_ms) override {
    Tables& tables = disk_.tables_;
    if (tables.artifacts.emplace(sha256, size_bytes).second) {
      undo([&tables, sha256] { tables.artifacts.erase(sha256); });
    }
    return agree("record_artifact", absl::OkStatus(),
                 [&](db::Store& real) { return real.record_artifact(sha256, size_bytes, now_ms); });
  }

  absl::StatusOr<std::uint64_t> append_points(JobId job, std::uint32_t attempt,
                                              std::uint64_t first_sequence,
                                              const std::vector<db::PointRow>& points) override {
    return append(
        job, attempt, first_sequence, points, &Tables::Attempt::points, "append_points",
        [&](db::Store& real) { return real.append_points(job, attempt, first_sequence, points); });
  }

  absl::StatusOr<std::uint64_t> append_logs(JobId job, std::uint32_t attempt,
                                            std::uint64_t first_line,
                                            const std::vector<db::LogRow>& lines) override {
    return append(
        job, attempt, first_line, lines, &Tables::Attempt::lines, "append_logs",
        [&](db::Store& real) { return real.append_logs(job, attempt, first_line, lines); });
  }

  absl::StatusOr<std::optional<db::ExperimentRow>> find_request(
      std::string_view request_id) override {
    std::optional<db::ExperimentRow> found;
    const auto request = disk_.tables_.requests.find(request_id);
    if (request != disk_.tables_.requests.end()) {
      found = disk_.tables_.experiments.at(request->second.id);
      found->request_id = request_id;
      found->request_sha256 = request->second.sha256;
    }
    if (real_) {
      const auto other = real_->find_request(request_id);
      if (!other.ok() || *other != found) disagree("find_request");
    }
    return found;
  }

  absl::StatusOr<std::optional<ExperimentId>> find_active(std::string_view name,
                                                          const Digest& graph_sha256) override {
    std::optional<ExperimentId> found;
    for (const auto& [id, row] : disk_.tables_.experiments) {
      if (row.name == name && row.graph_sha256 == graph_sha256 && has_open_job(id)) found = id;
    }
    if (real_) {
      const auto other = real_->find_active(name, graph_sha256);
      if (!other.ok() || *other != found) disagree("find_active");
    }
    return found;
  }

  absl::StatusOr<OfferText> offer_text(JobId id) override {
    const db::JobSpecRow& spec = disk_.tables_.job(id).spec;
    const std::string& experiment = disk_.tables_.experiments.at(spec.experiment).name;
    return OfferText{fmt::format("{}/{}", experiment, spec.name), spec.spec_json, spec.dataset,
                     spec.timeout_seconds};
  }

 private:
  void undo(std::function<void()> step) {
    BITRUNG_CHECK(disk_.in_transaction_);
    disk_.undo_.push_back(std::move(step));
  }

  void disagree(std::string_view where) {
    disk_.hooks_.disagreement(fmt::format("the model of the store and SQLite differ in {}", where));
  }

  template <typename Call>
  absl::Status agree(std::string_view where, absl::Status status, const Call& call) {
    if (real_ && call(*real_).ok() != status.ok()) disagree(where);
    return status;
  }

  bool has_open_job(ExperimentId id) const {
    return std::ranges::any_of(disk_.tables_.jobs, [id](const Tables::Job& job) {
      return job.spec.experiment == id && !is_terminal(job.state.state);
    });
  }

  absl::Status save_attempt_row(const db::AttemptRow& row) {
    Tables& tables = disk_.tables_;
    const AttemptId id(row.job, row.attempt);
    const auto found = tables.attempts.find(id);
    if (found != tables.attempts.end() && !is_live(found->second.row.state) &&
        found->second.row != row) {
      return refused("an attempt that has ended is final");
    }
    for (auto other = tables.attempts.lower_bound({row.job, 0});
         other != tables.attempts.end() && other->first.first == row.job; ++other) {
      if (other->first == id) continue;
      const AttemptState state = other->second.row.state;
      if (is_live(state) && is_live(row.state)) return refused("a job has one live attempt");
      if (state == AttemptState::kSucceeded && row.state == state) {
        return refused("a job has one winner");
      }
    }
    if (found == tables.attempts.end()) {
      disk_.changes_.attempts.try_emplace(id, std::nullopt);
      undo([&tables, id] { tables.attempts.erase(id); });
      tables.attempts[id].row = row;
    } else {
      disk_.changes_.attempts.try_emplace(id, found->second.row);
      undo([&tables, id, before = found->second.row] { tables.attempts[id].row = before; });
      found->second.row = row;
    }
    return absl::OkStatus();
  }

  template <typename Row, typename Call>
  absl::StatusOr<std::uint64_t> append(JobId job, std::uint32_t attempt, std::uint64_t first,
                                       const std::vector<Row>& rows,
                                       std::vector<Row> Tables::Attempt::*column,
                                       std::string_view where, const Call& call) {
    const absl::StatusOr<std::uint64_t> watermark = append_rows(job, attempt, first, rows, column);
    if (real_) {
      const absl::StatusOr<std::uint64_t> other = call(*real_);
      if (other.status().code() != watermark.status().code() ||
          (other.ok() && *other != *watermark)) {
        disagree(where);
      }
    }
    return watermark;
  }

  template <typename Row>
  absl::StatusOr<std::uint64_t> append_rows(JobId job, std::uint32_t attempt, std::uint64_t first,
                                            const std::vector<Row>& rows,
                                            std::vector<Row> Tables::Attempt::*column) {
    BITRUNG_CHECK(disk_.in_transaction_);
    Tables& tables = disk_.tables_;
    const AttemptId id(job, attempt);
    const auto found = tables.attempts.find(id);
    if (found == tables.attempts.end()) return absl::NotFoundError("there is no such attempt");
    std::vector<Row>& stored = found->second.*column;
    if (rows.empty()) return stored.size();
    if (first > stored.size() + 1) {
      return absl::OutOfRangeError(
          fmt::format("rows go on at {}, but {} would be the next", first, stored.size() + 1));
    }
    const std::uint64_t known = stored.size() + 1 - first;
    if (known >= rows.size()) return stored.size();
    undo([&tables, id, column, size = stored.size()] {
      (tables.attempts[id].*column).resize(size);
    });
    stored.insert(stored.end(), rows.begin() + static_cast<std::ptrdiff_t>(known), rows.end());
    disk_.hooks_.appended(id);
    return stored.size();
  }

  void compare_loads(const db::Snapshot& model) {
    const absl::StatusOr<db::Snapshot> real = real_->load();
    if (!real.ok()) return disagree(fmt::format("load: {}", real.status().ToString()));
    if (real->next_job_id != model.next_job_id ||
        real->next_experiment_id != model.next_experiment_id) {
      disagree("load: the next numbers");
    }
    if (real->pins != model.pins) disagree("load: pins");
    if (real->workers != model.workers) disagree("load: workers");
    if (real->jobs.size() != model.jobs.size()) return disagree("load: the number of jobs");
    for (std::size_t i = 0; i < model.jobs.size(); ++i) {
      const db::Snapshot::Job& one = model.jobs[i];
      const db::Snapshot::Job& other = real->jobs[i];
      if (one.spec != other.spec) disagree(fmt::format("load: the spec of job {}", i + 1));
      if (one.state != other.state) disagree(fmt::format("load: the state of job {}", i + 1));
      if (one.live_attempt != other.live_attempt) {
        disagree(fmt::format("load: the live attempt of job {}", i + 1));
      }
    }
  }

  Disk& disk_;
  std::unique_ptr<db::Store> real_;
};

Disk::Disk(DiskHooks hooks, std::optional<std::filesystem::path> directory)
    : hooks_(std::move(hooks)), directory_(std::move(directory)) {}

std::unique_ptr<db::Store> Disk::open_store() {
  std::unique_ptr<db::Store> real;
  if (directory_) {
    auto opened = db::Store::open(*directory_);
    if (opened.ok()) {
      real = *std::move(opened);
    } else {
      hooks_.disagreement(opened.status().ToString());
    }
  }
  return std::make_unique<SimStore>(*this, std::move(real));
}

void Disk::roll_back() {
  for (auto step = undo_.rbegin(); step != undo_.rend(); ++step) (*step)();
  undo_.clear();
  changes_ = {};
  in_transaction_ = false;
}

}  // namespace bitrung::sim
