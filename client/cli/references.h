// Experiments and jobs as people name them: a number, a name, EXPERIMENT/JOB, or nothing for the
// newest.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bitrung/v1/job_service.pb.h"
#include "client/cli/connection.h"

namespace bitrung::cli {

// Number of the newest experiment, as text; NOT_FOUND with what to do when there is none.
absl::StatusOr<std::string> newest_experiment(Connection& connection);

// The first word, or the newest experiment when there is none.
absl::StatusOr<std::string> experiment_of(Connection& connection,
                                          const std::vector<std::string>& words);

// Words that name jobs, before the newest experiment is looked up: `experiment` is empty where it
// is needed. "E/J" names both; two words without a slash are E and J; other words are jobs of
// `experiment`, if given.
absl::StatusOr<std::vector<v1::JobReference>> parse_job_references(
    const std::vector<std::string>& words, const std::optional<std::string>& experiment);

// The same with the newest experiment filled in.
absl::StatusOr<std::vector<v1::JobReference>> jobs_of(Connection& connection,
                                                      const std::vector<std::string>& words,
                                                      const std::optional<std::string>& experiment);

// The only job the words name; `command` begins the message when they name several or none.
absl::StatusOr<v1::JobReference> one_job_of(Connection& connection, std::string_view command,
                                            const std::vector<std::string>& words,
                                            const std::optional<std::string>& experiment);

// What cancel and retry take: EXPERIMENT [JOB…] or EXPERIMENT/JOB…, all of one experiment.
struct Selection {
  std::string experiment;
  std::vector<std::string> jobs;  // Empty for all.
};
absl::StatusOr<Selection> parse_selection(const std::vector<std::string>& words);

}  // namespace bitrung::cli
