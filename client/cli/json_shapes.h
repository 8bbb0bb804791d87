// The JSON objects of the command line. OUTPUT.md documents each; a key may be added, never renamed
// or removed.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "bitrung/v1/experiment_service.pb.h"
#include "bitrung/v1/fleet_service.pb.h"
#include "bitrung/v1/job_service.pb.h"
#include "bitrung/v1/results_service.pb.h"

namespace bitrung::cli {

// Keys stay in the order they are written.
using Json = nlohmann::ordered_json;

// The text, or null for an empty one.
Json text_or_null(const std::string& text);

// The texts as an array.
template <class Texts>
Json strings(const Texts& texts) {
  Json array = Json::array();
  for (const std::string& text : texts) array.push_back(text);
  return array;
}

Json result_job_json(const v1::Job& job);  // A job as `results` shows it.
Json status_job_json(const v1::Job& job);  // The same with where it stands.
Json experiment_json(const v1::Experiment& experiment);
Json worker_json(const v1::Worker& worker);
Json series_json(const v1::Series& series);
Json log_line_json(const v1::LogLine& line);

// Indented, with a line end; text that is not UTF-8 is replaced, never refused.
std::string json_text(const Json& json);
// On one line, with a line end.
std::string json_line(const Json& json);

}  // namespace bitrung::cli
