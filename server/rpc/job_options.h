// A job as the tables of results see it: which entry its name belongs to, and every option under a
// dotted name. Pure, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "db/rows.h"

namespace bitrung::rpc {

// A name like "assisted.bits=4.seed=20" taken apart.
struct JobName {
  std::string entry;     // "assisted"
  std::string rest;      // "bits=4.seed=20"
  std::string seedless;  // "assisted.bits=4": equal for jobs that differ in the seed alone.
  std::string path;      // Of "paths.path=32-16-4": "32-16-4"; else empty.
  std::string from;      // Of "search.bits=4.from=16": "16"; else empty.
};
JobName parse_job_name(std::string_view name);

// Values by dotted name: "distill.temperature" -> "5". Texts are without quotes; arrays and values
// that are not plain are JSON.
using Options = std::map<std::string, std::string, std::less<>>;

// One name of one job. A job with aliases is several of these.
struct NamedJob {
  const db::JobRow* job = nullptr;
  JobName name;
  // Those of the canonical options, and "model", "dataset", "method", "bits" in short, "seed",
  // "path", "from" and "teacher" (its names without seeds) where the job has one.
  Options options;

  const std::string* option(std::string_view option_name) const;
};

// Every name of every job, in the order of the jobs. Borrows the rows.
std::vector<NamedJob> named_jobs(const std::vector<db::JobRow>& jobs);

// The options that tell apart the jobs within the groups: those in `first`, then the others,
// without seed, model, data set, method and bits. A name that tells no more apart than those before
// it is left out: temperature_end, which follows temperature, adds nothing.
std::vector<std::string> differing_options(const std::vector<std::vector<const NamedJob*>>& groups,
                                           std::vector<std::string> first = {});

// Orders values of one option: absent ones first, then numbers by size (bits: most first), then
// texts by letters.
bool value_before(std::string_view option, const std::string* left, const std::string* right);

// What is wrong with the name of an option that no job has, with the nearest names; nothing if one
// has it.
std::optional<std::string> unknown_option(std::string_view wanted,
                                          const std::vector<NamedJob>& jobs);

}  // namespace bitrung::rpc
