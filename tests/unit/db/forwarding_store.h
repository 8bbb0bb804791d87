// A store that hands everything on to another one, for tests that change or watch a part of it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "db/store.h"

namespace bitrung::db {

class ForwardingStore : public Store {
 public:
  explicit ForwardingStore(std::unique_ptr<Store> store) : store_(std::move(store)) {}

  std::int64_t term() const override { return store_->term(); }
  absl::StatusOr<Snapshot> load() override { return store_->load(); }
  absl::Status begin() override { return store_->begin(); }
  absl::Status commit() override { return store_->commit(); }
  absl::Status insert_experiment(const ExperimentRow& row) override {
    return store_->insert_experiment(row);
  }
  absl::Status insert_job(const JobSpecRow& spec, const JobStateRow& state) override {
    return store_->insert_job(spec, state);
  }
  absl::Status update_job(const JobStateRow& state) override { return store_->update_job(state); }
  absl::Status set_experiment_finished(ExperimentId id, std::int64_t at) override {
    return store_->set_experiment_finished(id, at);
  }
  absl::Status save_attempt(const AttemptRow& row) override { return store_->save_attempt(row); }
  absl::Status insert_pin(const PinRow& row) override { return store_->insert_pin(row); }
  absl::Status insert_report(JobId job, std::string_view report) override {
    return store_->insert_report(job, report);
  }
  absl::Status save_worker(const WorkerRow& row) override { return store_->save_worker(row); }
  absl::Status record_artifact(const Digest& sha256, std::uint64_t size,
                               std::int64_t now) override {
    return store_->record_artifact(sha256, size, now);
  }
  absl::StatusOr<std::uint64_t> append_points(JobId job, std::uint32_t attempt, std::uint64_t first,
                                              const std::vector<PointRow>& points) override {
    return store_->append_points(job, attempt, first, points);
  }
  absl::StatusOr<std::uint64_t> append_logs(JobId job, std::uint32_t attempt, std::uint64_t first,
                                            const std::vector<LogRow>& lines) override {
    return store_->append_logs(job, attempt, first, lines);
  }
  absl::Status insert_joined_request(std::string_view request_id, const Digest& request_sha256,
                                     ExperimentId id) override {
    return store_->insert_joined_request(request_id, request_sha256, id);
  }
  absl::StatusOr<std::optional<ExperimentRow>> find_request(std::string_view id) override {
    return store_->find_request(id);
  }
  absl::StatusOr<std::optional<ExperimentId>> find_active(std::string_view name,
                                                          const Digest& graph) override {
    return store_->find_active(name, graph);
  }
  absl::StatusOr<OfferText> offer_text(JobId id) override { return store_->offer_text(id); }

 protected:
  std::unique_ptr<Store> store_;
};

}  // namespace bitrung::db
