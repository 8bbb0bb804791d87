#include "server/auth/permissions.h"

#include <algorithm>
#include <array>

namespace bitrung::auth {
namespace {

using enum Role;

constexpr auto kNames =
    std::to_array<std::string_view>({"viewer", "submitter", "operator", "admin", "worker"});

// Cancelling and retrying another one's experiment wants an operator; the service looks at whose it
// is.
constexpr auto kPermissions = std::to_array<Permission>({
    {.method = "bitrung.v1.AccessService/WhoAmI", .least = kViewer, .worker = true},
    {.method = "bitrung.v1.AccessService/CreateToken", .least = kAdmin, .audited = true},
    {.method = "bitrung.v1.AccessService/ListTokens", .least = kAdmin},
    {.method = "bitrung.v1.AccessService/RevokeToken", .least = kAdmin, .audited = true},
    {.method = "bitrung.v1.AccessService/CreateEnrolment", .least = kOperator, .audited = true},
    {.method = "bitrung.v1.AccessService/EnrolWorker", .least = {}, .anyone = true},
    {.method = "bitrung.v1.AccessService/RevokeWorker", .least = kOperator, .audited = true},
    {.method = "bitrung.v1.AccessService/ListAudit", .least = kAdmin},
    {.method = "bitrung.v1.ArtifactService/UploadArtifact", .least = kSubmitter, .worker = true},
    {.method = "bitrung.v1.ArtifactService/DownloadArtifact", .least = kViewer, .worker = true},
    {.method = "bitrung.v1.ArtifactService/GetArtifact", .least = kViewer, .worker = true},
    {.method = "bitrung.v1.ExperimentService/SubmitExperiment",
     .least = kSubmitter,
     .audited = true},
    {.method = "bitrung.v1.ExperimentService/PlanExperiment", .least = kViewer},
    {.method = "bitrung.v1.ExperimentService/GetExperiment", .least = kViewer},
    {.method = "bitrung.v1.ExperimentService/ListExperiments", .least = kViewer},
    {.method = "bitrung.v1.ExperimentService/WatchExperiment", .least = kViewer},
    {.method = "bitrung.v1.ExperimentService/CancelExperiment",
     .least = kSubmitter,
     .audited = true},
    {.method = "bitrung.v1.ExperimentService/RetryExperiment",
     .least = kSubmitter,
     .audited = true},
    {.method = "bitrung.v1.FleetService/ListWorkers", .least = kViewer},
    {.method = "bitrung.v1.FleetService/DrainWorker", .least = kOperator, .audited = true},
    {.method = "bitrung.v1.FleetService/GetServer", .least = kViewer},
    {.method = "bitrung.v1.JobService/GetJob", .least = kViewer},
    {.method = "bitrung.v1.JobService/GetReport", .least = kViewer},
    {.method = "bitrung.v1.JobService/ListJobs", .least = kViewer},
    {.method = "bitrung.v1.JobService/ExplainJob", .least = kViewer},
    {.method = "bitrung.v1.JobService/StreamLogs", .least = kViewer},
    {.method = "bitrung.v1.JobService/GetSeries", .least = kViewer},
    {.method = "bitrung.v1.JobService/WatchSeries", .least = kViewer},
    {.method = "bitrung.v1.ResultsService/GetResults", .least = kViewer},
    {.method = "bitrung.v1.ResultsService/Compare", .least = kViewer},
    {.method = "bitrung.v1.WorkerService/OpenSession", .least = {}, .worker = true},
    // gRPC's own services.
    {.method = "grpc.health.v1.Health/Check", .least = kViewer, .worker = true},
    {.method = "grpc.health.v1.Health/Watch", .least = kViewer, .worker = true},
    {.method = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", .least = kViewer},
});

}  // namespace

std::string_view name(Role role) {
  return kNames[static_cast<std::size_t>(role)];
}

std::optional<Role> parse_role(std::string_view text) {
  const auto found = std::ranges::find(kNames, text);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Role>(found - kNames.begin());
}

std::span<const Permission> permissions() {
  return kPermissions;
}

const Permission* find_permission(std::string_view method) {
  const auto found = std::ranges::find(kPermissions, method, &Permission::method);
  return found == kPermissions.end() ? nullptr : &*found;
}

}  // namespace bitrung::auth
