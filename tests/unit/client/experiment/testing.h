// Shared by the tests of the experiment file: text in, graph or message out.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "client/experiment/experiment.h"
#include "db/base/status.h"

namespace bitrung::client {

inline absl::StatusOr<Graph> parse(std::string_view text, const std::vector<std::string>& set = {},
                                   const std::filesystem::path& directory = {}) {
  std::vector<Override> overrides;
  for (const std::string& text_of_one : set) {
    BITRUNG_ASSIGN_OR_RETURN(Override one, parse_override(text_of_one));
    overrides.push_back(std::move(one));
  }
  return parse_experiment(text, "ladder.yaml", directory, overrides);
}

// The graph of a text that must be right.
inline Graph graph_of(std::string_view text, const std::vector<std::string>& set = {},
                      const std::filesystem::path& directory = {}) {
  absl::StatusOr<Graph> graph = parse(text, set, directory);
  EXPECT_TRUE(graph.ok()) << message(graph.status());
  return graph.ok() ? *std::move(graph) : Graph();
}

// The message of a text that must be wrong.
inline std::string error_of(std::string_view text, const std::vector<std::string>& set = {},
                            const std::filesystem::path& directory = {}) {
  const absl::StatusOr<Graph> graph = parse(text, set, directory);
  if (graph.ok()) return "no error";
  return std::string(message(graph.status()));
}

// One line per job: "name = alias = alias <- teacher parent, init parent", "teacher best of a, b".
inline std::string drawn(const Graph& graph) {
  std::string text;
  for (const Job& job : graph.jobs) {
    text += job.name;
    for (const std::string& alias : job.aliases) text += " = " + alias;
    for (std::size_t i = 0; i < job.inputs.size(); ++i) {
      const Input& input = job.inputs[i];
      text += i == 0 ? " <- " : ", ";
      text += name(input.role);
      text += " ";
      if (input.jobs.empty()) text += input.file->filename().string();
      if (input.jobs.size() > 1) text += "best of ";
      for (std::size_t j = 0; j < input.jobs.size(); ++j) {
        text += (j == 0 ? "" : ", ") + graph.jobs.at(input.jobs[j]).name;
      }
    }
    text += "\n";
  }
  return text;
}

inline const Job& job_named(const Graph& graph, std::string_view name) {
  for (const Job& job : graph.jobs) {
    if (job.name == name || std::ranges::find(job.aliases, name) != job.aliases.end()) return job;
  }
  ADD_FAILURE() << "no job " << name;
  static const Job none;
  return none;
}

}  // namespace bitrung::client
