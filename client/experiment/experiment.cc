#include "client/experiment/experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

#include "client/experiment/document.h"
#include "client/experiment/expand.h"
#include "client/experiment/network.h"
#include "client/experiment/text.h"
#include "client/experiment/yaml_tree.h"
#include "db/base/check.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::client {

std::string method_name(std::string_view weights, std::string_view activations) {
  return weights == activations ? std::string(weights) : fmt::format("{}/{}", weights, activations);
}

absl::StatusOr<Override> parse_override(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view path = text.substr(0, equals);
  if (equals == std::string_view::npos || path.empty() || path.starts_with('.') ||
      path.ends_with('.') || path.find("..") != std::string_view::npos) {
    return absl::InvalidArgumentError(fmt::format(
        "--set {}: expected OPTION=VALUE, such as defaults.epochs=1 or jobs.NAME.bits=4", text));
  }
  return Override(path, text.substr(equals + 1));
}

absl::StatusOr<Graph> load_experiment(const std::filesystem::path& file,
                                      const std::vector<Override>& overrides) {
  const std::string name = file.string();
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(fmt::format("{}: there is no such file", name));
  }
  if (!error && status.type() != std::filesystem::file_type::regular) {
    const bool is_directory = status.type() == std::filesystem::file_type::directory;
    return absl::InvalidArgumentError(
        fmt::format("{} is {}; expected an experiment file", name,
                    is_directory ? "a directory" : "not a regular file"));
  }
  const std::uintmax_t bytes = error ? 0 : std::filesystem::file_size(file, error);
  if (!error && bytes > kFileBytesMax) {
    return absl::ResourceExhaustedError(fmt::format(
        "{}: the file has {} bytes, the limit is {}; a sweep or a ladder says the same in a "
        "few lines",
        name, with_separators(bytes), with_separators(kFileBytesMax)));
  }
  BITRUNG_ASSIGN_OR_RETURN(const std::string text, read_file(file, kFileBytesMax));
  return parse_experiment(text, name, file.parent_path(), overrides);
}

absl::StatusOr<Graph> parse_experiment(std::string_view text, std::string_view display_name,
                                       const std::filesystem::path& directory,
                                       const std::vector<Override>& overrides) {
  std::vector<std::string> override_texts;
  for (const auto& [path, value] : overrides) {
    override_texts.push_back(fmt::format("{}={}", path, value));
  }
  const Source source{std::string(display_name), std::move(override_texts)};
  BITRUNG_ASSIGN_OR_RETURN(YamlNode root, parse_yaml(text, source, -1));
  for (std::size_t i = 0; i < overrides.size(); ++i) {
    BITRUNG_RETURN_IF_ERROR(apply_override(root, overrides[i], static_cast<int>(i), source));
  }
  BITRUNG_ASSIGN_OR_RETURN(const Document document, read_document(root, source));
  BITRUNG_ASSIGN_OR_RETURN(Graph graph, expand(document, directory, source));
  graph.source_yaml = text;
  return graph;
}

double training_flops(const Graph& graph, std::size_t job_index) {
  const Job& job = graph.jobs.at(job_index);
  const auto spec = nlohmann::json::parse(job.spec_json);
  const DatasetInfo dataset = dataset_info(job.dataset);
  const auto count = [&spec](const char* group, const char* key) {
    return spec.at(group).at(key).get<std::int64_t>();
  };
  const auto own_macs = static_cast<double>(forward_macs(job.model, dataset));
  if (job.kind != JobKind::kTrain) {
    const bool is_synthetic = job.dataset == "synthetic";
    std::int64_t images = spec.at("validation").get<std::int64_t>() +
                          (is_synthetic ? count("synthetic", "test_images") : dataset.test_images);
    if (job.kind == JobKind::kQuantize) {
      images += count("calibration", "batch_size") *
                (count("calibration", "batches") + count("calibration", "batch_norm"));
    }
    return 2.0 * own_macs * static_cast<double>(images);
  }
  std::int64_t images = spec.at("train_images").get<std::int64_t>();
  if (images == 0) {
    images = job.dataset == "synthetic" ? count("synthetic", "train_images") : dataset.train_images;
  }
  images -= spec.at("validation").get<std::int64_t>();

  double teacher_macs = 0;
  std::size_t outside = 0;
  for (const Input& input : job.inputs) {
    if (input.role != InputRole::kTeacher) continue;
    const std::string teacher =
        input.jobs.empty() ? spec.at("teachers").at(outside++).at("model").get<std::string>()
                           : graph.jobs.at(input.jobs.front()).model;
    teacher_macs += static_cast<double>(forward_macs(teacher, dataset));
  }
  if (teacher_macs > 0) teacher_macs *= 1 - spec.at("distill").at("self_study").get<double>();
  // Forward once, backward twice that: the gradients of the input and of the weights.
  const double macs = 3 * own_macs + teacher_macs;
  return 2.0 * macs * static_cast<double>(images) * static_cast<double>(job.epochs);
}

std::size_t critical_path_length(const Graph& graph) {
  std::vector<std::size_t> length(graph.jobs.size(), 0);
  std::size_t longest = 0;
  for (const std::size_t job : parents_first(graph.jobs)) {
    for (const Input& input : graph.jobs[job].inputs) {
      for (const std::size_t parent : input.jobs) {
        length[job] = std::max(length[job], length[parent]);
      }
    }
    longest = std::max(longest, ++length[job]);
  }
  return longest;
}

}  // namespace bitrung::client
