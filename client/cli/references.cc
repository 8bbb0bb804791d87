#include "client/cli/references.h"

#include <fmt/format.h>

#include <algorithm>

#include "db/base/status.h"

namespace bitrung::cli {
namespace {

absl::StatusOr<v1::JobReference> split(const std::string& word) {
  const std::size_t slash = word.find('/');
  v1::JobReference reference;
  reference.set_experiment(word.substr(0, slash));
  reference.set_job(word.substr(slash + 1));
  if (reference.experiment().empty() || reference.job().empty() ||
      reference.job().find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" names no job; EXPERIMENT/JOB is expected, e.g. 3/alone.bits=4", word));
  }
  return reference;
}

}  // namespace

absl::StatusOr<std::string> newest_experiment(Connection& connection) {
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::Experiment> newest,
                           connection.list_experiments({}, 1));
  if (newest.empty()) {
    return absl::NotFoundError(
        fmt::format("no experiment on the server at {} yet; start with bitrung run FILE",
                    connection.address()));
  }
  return fmt::format("{}", newest.front().experiment_id());
}

absl::StatusOr<std::string> experiment_of(Connection& connection,
                                          const std::vector<std::string>& words) {
  if (!words.empty()) return words.front();
  return newest_experiment(connection);
}

absl::StatusOr<std::vector<v1::JobReference>> parse_job_references(
    const std::vector<std::string>& words, const std::optional<std::string>& experiment) {
  const auto has_slash = [](const std::string& word) {
    return word.find('/') != std::string::npos;
  };
  std::vector<v1::JobReference> references;
  if (words.size() == 2 && !experiment && std::ranges::none_of(words, has_slash)) {
    v1::JobReference& reference = references.emplace_back();
    reference.set_experiment(words[0]);
    reference.set_job(words[1]);
    return references;
  }
  for (const std::string& word : words) {
    if (has_slash(word)) {
      BITRUNG_ASSIGN_OR_RETURN(references.emplace_back(), split(word));
    } else {
      v1::JobReference& reference = references.emplace_back();
      reference.set_experiment(experiment.value_or(""));
      reference.set_job(word);
    }
  }
  return references;
}

absl::StatusOr<std::vector<v1::JobReference>> jobs_of(
    Connection& connection, const std::vector<std::string>& words,
    const std::optional<std::string>& experiment) {
  BITRUNG_ASSIGN_OR_RETURN(std::vector<v1::JobReference> references,
                           parse_job_references(words, experiment));
  std::string newest;
  for (v1::JobReference& reference : references) {
    if (!reference.experiment().empty()) continue;
    if (newest.empty()) {
      BITRUNG_ASSIGN_OR_RETURN(newest, newest_experiment(connection));
    }
    reference.set_experiment(newest);
  }
  return references;
}

absl::StatusOr<v1::JobReference> one_job_of(Connection& connection, std::string_view command,
                                            const std::vector<std::string>& words,
                                            const std::optional<std::string>& experiment) {
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::JobReference> jobs,
                           jobs_of(connection, words, experiment));
  if (jobs.size() != 1) {
    return absl::InvalidArgumentError(fmt::format("{} takes one job: EXPERIMENT/JOB", command));
  }
  return jobs.front();
}

absl::StatusOr<Selection> parse_selection(const std::vector<std::string>& words) {
  Selection selection;
  for (const std::string& word : words) {
    if (word.find('/') == std::string::npos) {
      if (selection.experiment.empty()) {
        selection.experiment = word;
      } else {
        selection.jobs.push_back(word);
      }
      continue;
    }
    BITRUNG_ASSIGN_OR_RETURN(const v1::JobReference reference, split(word));
    if (!selection.experiment.empty() && selection.experiment != reference.experiment()) {
      return absl::InvalidArgumentError(
          fmt::format("jobs of two experiments, {} and {}; one command takes jobs of one",
                      selection.experiment, reference.experiment()));
    }
    selection.experiment = reference.experiment();
    selection.jobs.push_back(reference.job());
  }
  return selection;
}

}  // namespace bitrung::cli
