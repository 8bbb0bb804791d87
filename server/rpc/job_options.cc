#include "server/rpc/job_options.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/nearest_names.h"

namespace bitrung::rpc {
namespace {

using nlohmann::json;

constexpr std::size_t kDigestShown = 12;
constexpr std::size_t kNamesListedMax = 60;

void flatten(const json& value, const std::string& prefix, Options& out) {
  for (const auto& [key, child] : value.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (child.is_object()) {
      flatten(child, name, out);
    } else {
      out[name] = child.is_string() ? child.get<std::string>() : child.dump();
    }
  }
}

// Takes ".KEY=VALUE" or a leading "KEY=VALUE" out of the text, VALUE up to the next dot.
std::string take_part(std::string& text, std::string_view key) {
  const std::string wanted = fmt::format("{}=", key);
  for (std::size_t at = text.find(wanted); at != std::string::npos;
       at = text.find(wanted, at + 1)) {
    if (at > 0 && text[at - 1] != '.') continue;
    const std::size_t begin = at + wanted.size();
    const std::size_t end = std::min(text.find('.', begin), text.size());
    std::string value = text.substr(begin, end - begin);
    const std::size_t first = at > 0 ? at - 1 : 0;
    text.erase(first, end - first);
    if (at == 0 && text.starts_with('.')) text.erase(0, 1);
    return value;
  }
  return {};
}

std::string bits_text(const db::JobSpecRow& spec) {
  if (spec.weight_bits == spec.activation_bits) return fmt::format("{}", spec.weight_bits);
  return fmt::format("w{}a{}", spec.weight_bits, spec.activation_bits);
}

Options options_of(const db::JobSpecRow& spec) {
  Options options;
  const json parsed = json::parse(spec.spec_json, nullptr, false);
  if (parsed.is_object()) flatten(parsed, "", options);
  options["model"] = spec.model;
  options["dataset"] = spec.dataset;
  options["method"] = spec.method;
  options["bits"] = bits_text(spec);
  options["seed"] = fmt::format("{}", spec.seed);
  return options;
}

// "alone.bits=32", several joined by "+", the candidates of a choice as "best of A|B"; empty for
// none.
std::string teachers_of(const db::JobSpecRow& spec,
                        const std::map<JobId, std::string>& seedless_names) {
  std::string text;
  std::uint32_t choice = 0;  // Of the previous teacher.
  for (const db::InputRow& input : spec.inputs) {
    if (input.role != InputRole::kTeacher) continue;
    std::string teacher;
    if (!input.parent) {
      teacher = "artifact:" + input.artifact->hex().substr(0, kDigestShown);
    } else if (const auto found = seedless_names.find(*input.parent);
               found != seedless_names.end()) {
      teacher = found->second;
    }
    const bool is_further = input.choice != 0 && input.choice == choice;
    const std::string_view joint = text.empty() ? "" : is_further ? "|" : "+";
    text +=
        fmt::format("{}{}{}", joint, input.choice != 0 && !is_further ? "best of " : "", teacher);
    choice = input.choice;
  }
  return text;
}

// What names the lines of the default table, and what the seed decides.
bool is_row_or_seed(std::string_view option) {
  static constexpr std::string_view kNames[] = {
      "model",        "dataset",          "method", "method.weights", "method.activations", "bits",
      "bits.weights", "bits.activations", "seed"};
  return std::ranges::find(kNames, option) != std::end(kNames);
}

// In how many kinds the jobs of all groups fall if only these options count.
std::size_t count_classes(const std::vector<std::vector<const NamedJob*>>& groups,
                          const std::vector<std::string>& names) {
  std::size_t count = 0;
  for (const auto& group : groups) {
    std::set<std::vector<std::string_view>> kinds;
    for (const NamedJob* job : group) {
      std::vector<std::string_view> values;
      for (const std::string& name : names) {
        const std::string* value = job->option(name);
        // No value is written with this character in it.
        values.push_back(value == nullptr ? std::string_view("\x01") : *value);
      }
      kinds.insert(std::move(values));
    }
    count += kinds.size();
  }
  return count;
}

std::optional<double> as_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "w2a32" as 2.
std::optional<double> bits_number(std::string_view text) {
  if (text.starts_with('w')) text = text.substr(1, text.find('a') - 1);
  return as_number(text);
}

}  // namespace

JobName parse_job_name(std::string_view full) {
  JobName name;
  const std::size_t dot = full.find('.');
  name.entry = full.substr(0, dot);
  if (dot != std::string_view::npos) name.rest = full.substr(dot + 1);
  std::string rest = name.rest;
  take_part(rest, "seed");
  name.seedless = rest.empty() ? name.entry : fmt::format("{}.{}", name.entry, rest);
  name.path = take_part(rest, "path");
  name.from = take_part(rest, "from");
  return name;
}

const std::string* NamedJob::option(std::string_view option_name) const {
  const auto found = options.find(option_name);
  return found == options.end() ? nullptr : &found->second;
}

std::vector<NamedJob> named_jobs(const std::vector<db::JobRow>& jobs) {
  std::map<JobId, std::string> seedless_names;
  for (const db::JobRow& job : jobs)
    seedless_names[job.spec.id] = parse_job_name(job.spec.name).seedless;
  std::vector<NamedJob> named;
  for (const db::JobRow& job : jobs) {
    Options options = options_of(job.spec);
    if (std::string teachers = teachers_of(job.spec, seedless_names); !teachers.empty())
      options["teacher"] = std::move(teachers);
    const auto add = [&](const std::string& full) {
      NamedJob& one = named.emplace_back(NamedJob{&job, parse_job_name(full), options});
      if (!one.name.path.empty()) one.options["path"] = one.name.path;
      if (!one.name.from.empty()) one.options["from"] = one.name.from;
    };
    add(job.spec.name);
    for (const std::string& alias : job.spec.aliases) add(alias);
  }
  return named;
}

std::vector<std::string> differing_options(const std::vector<std::vector<const NamedJob*>>& groups,
                                           std::vector<std::string> first) {
  // A path says who taught, so it comes before the teacher and the options; the teacher's name is
  // the last resort.
  std::vector<std::string> candidates = std::move(first);
  candidates.insert(candidates.end(), {"path", "from"});
  const std::vector<std::string> leading = candidates;
  struct Seen {
    const std::string* value = nullptr;
    std::size_t equal = 0;
  };
  std::map<std::string_view, Seen> seen;
  std::size_t jobs = 0;
  for (const auto& group : groups) {
    for (const NamedJob* job : group) {
      ++jobs;
      for (const auto& [name, value] : job->options) {
        Seen& one = seen[name];
        if (one.value == nullptr) one.value = &value;
        one.equal += *one.value == value ? 1 : 0;
      }
    }
  }
  for (const auto& [name, one] : seen) {
    const bool constant = one.equal == jobs;
    if (constant || is_row_or_seed(name) || name == "path" || name == "from" || name == "teacher")
      continue;
    candidates.emplace_back(name);
  }
  candidates.emplace_back("teacher");

  std::vector<std::string> kept;
  std::size_t classes = groups.size();
  for (const std::string& name : candidates) {
    kept.push_back(name);
    const std::size_t finer = count_classes(groups, kept);
    if (finer > classes) {
      classes = finer;
    } else {
      kept.pop_back();
    }
  }
  // What came early may say nothing beside what came later: that there is a teacher, beside its
  // temperature.
  for (std::size_t i = 0; i < kept.size();) {
    if (std::ranges::find(leading, kept[i]) != leading.end()) {
      ++i;
      continue;
    }
    std::vector<std::string> without = kept;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    if (count_classes(groups, without) == classes) {
      kept = std::move(without);
    } else {
      ++i;
    }
  }
  return kept;
}

bool value_before(std::string_view option, const std::string* left, const std::string* right) {
  if (left == nullptr || right == nullptr) return left == nullptr && right != nullptr;
  if (*left == *right) return false;
  const bool is_bits = option == "bits" || option.starts_with("bits.") || option == "from";
  const auto left_number = is_bits ? bits_number(*left) : as_number(*left);
  const auto right_number = is_bits ? bits_number(*right) : as_number(*right);
  if (left_number.has_value() != right_number.has_value()) return left_number.has_value();
  if (left_number && *left_number != *right_number) {
    return is_bits ? *left_number > *right_number : *left_number < *right_number;
  }
  return *left < *right;
}

std::optional<std::string> unknown_option(std::string_view wanted,
                                          const std::vector<NamedJob>& jobs) {
  std::set<std::string> names;
  for (const NamedJob& job : jobs) {
    for (const auto& [name, value] : job.options) names.insert(name);
  }
  if (names.contains(std::string(wanted))) return std::nullopt;
  const std::vector<std::string> known(names.begin(), names.end());
  std::string hint;
  for (const std::string& name : known) {
    // "temperature" for "distill.temperature", "optimizer" for "optimizer.kind".
    if (name.ends_with(fmt::format(".{}", wanted)) || name.starts_with(fmt::format("{}.", wanted)))
      hint += fmt::format("{}{}", hint.empty() ? "" : ", ", name);
  }
  if (!hint.empty()) {
    hint = fmt::format("did you mean {}?", hint);
  } else {
    hint = db::did_you_mean(wanted, known);
    while (hint.ends_with(' ')) hint.pop_back();
  }
  if (hint.empty()) {
    for (std::size_t i = 0; i < std::min(known.size(), kNamesListedMax); ++i)
      hint += fmt::format("{}{}", i == 0 ? "there are " : ", ", known[i]);
  }
  return fmt::format("no job of the experiment has an option \"{}\"; {}", wanted.substr(0, 80),
                     hint);
}

}  // namespace bitrung::rpc
