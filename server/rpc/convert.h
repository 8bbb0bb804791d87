// Between the wire and the server's own words. The only place that knows both spellings of a state.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "bitrung/v1/fleet_service.pb.h"
#include "bitrung/v1/job_service.pb.h"
#include "bitrung/v1/types.pb.h"
#include "db/rows.h"
#include "db/store.h"
#include "server/core/core.h"
#include "server/rpc/context.h"

namespace bitrung::rpc {

v1::JobState to_proto(JobState state);
v1::AttemptState to_proto(AttemptState state);
v1::ExperimentState to_proto(ExperimentState state);
v1::FailureClass to_proto(FailureClass failure);
v1::InputRole to_proto(InputRole role);
// InvalidArgument for unspecified or unknown values.
absl::StatusOr<FailureClass> from_proto(v1::FailureClass failure);
absl::StatusOr<InputRole> from_proto(v1::InputRole role);

void to_proto(const db::ResultRow& row, v1::JobResult& result);
void to_proto(const db::AttemptRow& row, v1::Attempt& attempt);
void to_proto(const engine::Progress& progress, v1::Progress& out);
void to_proto(const core::WorkerInfo& info, v1::Worker& worker);

// InvalidArgument if a number is not finite or the digest is malformed.
absl::StatusOr<db::ResultRow> from_proto(const v1::JobResult& result);
// A digest in hex; InvalidArgument naming `what` otherwise.
absl::StatusOr<Digest> parse_digest(std::string_view hex, std::string_view what);

// The job's teachers by the names of its inputs: "a", "a, b", "best of a, b" until one is chosen.
std::string teacher_text(const db::JobRow& row, const std::vector<std::string>& names);

// A job with its teacher's and parents' names and, while it runs, its progress.
absl::StatusOr<v1::Job> job_view(const Context& context, const db::JobRow& row);
// An experiment with its counts and state.
absl::StatusOr<v1::Experiment> experiment_view(const Context& context,
                                               const db::ExperimentRow& row);
// "active" while a job is not terminal, else by the worst job.
ExperimentState experiment_state(const db::ExperimentCounts& counts);

// The job that a reference names.
absl::StatusOr<db::JobRow> find_job(const Context& context, const v1::JobReference& reference);
// What was measured of the job's network. FAILED_PRECONDITION if it has not succeeded, NOT_FOUND if
// there is no report; both say what to do.
absl::StatusOr<std::string> report_of(const Context& context, const db::JobRow& job);

}  // namespace bitrung::rpc
