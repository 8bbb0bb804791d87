#include "client/experiment/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "client/experiment/rungs.h"
#include "client/experiment/text.h"
#include "db/base/check.h"
#include "db/base/status.h"
#include "db/words.h"

namespace bitrung::client {
namespace {

constexpr std::size_t kNameBytesMax = 128;

const std::vector<std::string>& top_keys() {
  static const std::vector<std::string> keys = {"experiment", "defaults", "replicate", "jobs"};
  return keys;
}

std::vector<std::string> entry_keys() {
  std::vector<std::string> keys = top_option_names();
  keys.insert(keys.end(), {"sweep", "ladder", "paths", "search"});
  return keys;
}

// A key under which options vary.
bool is_axes_key(std::string_view key) {
  return key == "sweep" || key == "ladder" || key == "paths";
}

bool is_known(std::string_view name, const std::vector<std::string>& names) {
  return std::ranges::find(names, name) != names.end();
}

// Some value of the axis sets this leaf.
bool sets_leaf(const Axis& axis, const OptionInfo& leaf) {
  return leaf.name == axis.sets || (leaf.group() == axis.sets &&
                                    std::ranges::any_of(axis.values, [&](const AxisValue& value) {
                                      return sets_leaf(axis.sets, *value.node, leaf);
                                    }));
}

bool is_entry_name(std::string_view name) {
  return is_valid_name(name) && name.find_first_of(".=") == std::string_view::npos;
}

// A map, or nothing where a key without a value stands for an empty one.
absl::Status check_map(const YamlNode& node, std::string_view name, std::string_view expected,
                       const Source& source) {
  if (node.kind == YamlNode::Kind::kMap || node.kind == YamlNode::Kind::kNull) {
    return absl::OkStatus();
  }
  return source.invalid(node.where,
                        fmt::format("{} is {}; expected {}", name, shown(node), expected));
}

class DocumentReader {
 public:
  DocumentReader(const YamlNode& root, const Source& source) : root_(root), source_(source) {}

  absl::StatusOr<Document> read() {
    BITRUNG_RETURN_IF_ERROR(check_top());
    BITRUNG_RETURN_IF_ERROR(read_name());
    if (const YamlNode* defaults = root_.find("defaults")) {
      BITRUNG_RETURN_IF_ERROR(read_defaults(*defaults));
    }
    if (const YamlNode* replicate = root_.find("replicate")) {
      BITRUNG_RETURN_IF_ERROR(check_map(*replicate, "replicate", kSweepExpected, source_));
      replicate_ = replicate;
    }
    BITRUNG_RETURN_IF_ERROR(read_entries());
    return std::move(document_);
  }

 private:
  static constexpr std::string_view kSweepExpected =
      "a mapping of options to lists of values, such as {seed: [20, 31]}";

  absl::Status check_top() const {
    if (root_.kind == YamlNode::Kind::kNull) {
      return source_.invalid({}, "the file is empty; it needs \"experiment: NAME\" and \"jobs:\"");
    }
    if (root_.kind != YamlNode::Kind::kMap) {
      return source_.invalid(root_.where,
                             fmt::format("the file is {}; expected a mapping with the keys {}",
                                         shown(root_), listed(top_keys(), "and")));
    }
    for (const MapEntry& entry : root_.entries) {
      if (is_known(entry.key, top_keys())) continue;
      if (is_known(entry.key, top_option_names())) {
        return source_.invalid(
            entry.where, fmt::format("option {} is not allowed at the top level; put it under "
                                     "\"defaults\" for all jobs, or under a job",
                                     in_quotes(entry.key)));
      }
      return source_.invalid(entry.where,
                             unknown_option(entry.key, "at the top level", top_keys()));
    }
    for (const std::string_view key : {"experiment", "jobs"}) {
      if (root_.find(key) == nullptr) {
        return source_.invalid({},
                               fmt::format("{} is missing; the file needs \"experiment: NAME\" and "
                                           "\"jobs:\" with at least one job",
                                           in_quotes(key)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status read_name() {
    const YamlNode& node = *root_.find("experiment");
    if (node.kind != YamlNode::Kind::kScalar || !is_valid_name(node.text)) {
      return source_.invalid(
          node.where, fmt::format("experiment is {}; expected a name: {}", shown(node), kNameRule));
    }
    document_.name = node.text;
    return absl::OkStatus();
  }

  absl::Status read_defaults(const YamlNode& node) {
    BITRUNG_RETURN_IF_ERROR(check_map(node, "defaults", "a mapping of options", source_));
    for (const MapEntry& entry : node.entries) {
      if (is_axes_key(entry.key) || entry.key == "search") {
        return source_.invalid(
            entry.where, fmt::format("{} is not allowed in defaults; put it under a job, or use "
                                     "\"replicate\" to vary every job",
                                     entry.key));
      }
      if (entry.key == "quantize" || entry.key == "evaluate") {
        return source_.invalid(
            entry.where,
            fmt::format("{} is not allowed in defaults; put it under a job", entry.key));
      }
      if (!is_known(entry.key, top_option_names())) {
        return source_.invalid(entry.where,
                               unknown_option(entry.key, "in defaults", top_option_names()));
      }
      BITRUNG_RETURN_IF_ERROR(
          defaults_.apply(entry.key, entry.value, Layer::kDefaults, "defaults", source_));
    }
    return absl::OkStatus();
  }

  absl::Status read_entries() {
    const YamlNode& jobs = *root_.find("jobs");
    if (jobs.kind != YamlNode::Kind::kMap || jobs.entries.empty()) {
      const std::string what = jobs.kind == YamlNode::Kind::kMap ? "an empty mapping" : shown(jobs);
      return source_.invalid(
          jobs.where,
          fmt::format("jobs is {}; expected a mapping of names to jobs, at least one", what));
    }
    for (const MapEntry& entry : jobs.entries) {
      BITRUNG_ASSIGN_OR_RETURN(Entry read, read_entry(entry));
      read.first_job = document_.job_count;
      document_.job_count += read.job_count;
      if (document_.job_count > kJobsMax) {
        return source_.exhausted(
            entry.where,
            fmt::format("with job {} the experiment expands to {} jobs, the limit is {}; split the "
                        "experiment",
                        entry.key, with_separators(document_.job_count),
                        with_separators(kJobsMax)));
      }
      document_.entries.push_back(std::move(read));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Entry> read_entry(const MapEntry& written) {
    if (!is_entry_name(written.key)) {
      return source_.invalid(
          written.where,
          fmt::format("job name {} is not allowed; expected 1 to {} characters out of "
                      "letters, digits and _ -",
                      in_quotes(written.key), kNameBytesMax));
    }
    // A teacher or init option could not say that it means the job and not the word.
    if (written.key == "none" || written.key == "scratch") {
      return source_.invalid(
          written.where,
          fmt::format("job name {} is a value of the options teacher and init; choose "
                      "another name",
                      in_quotes(written.key)));
    }
    const std::string place = "job " + written.key;
    BITRUNG_RETURN_IF_ERROR(check_map(written.value, place, "a mapping of options", source_));
    Entry entry{.name = written.key, .where = written.where, .base = defaults_};
    for (const MapEntry& option : written.value.entries) {
      if (is_axes_key(option.key)) continue;
      if (option.key == "search") {
        BITRUNG_RETURN_IF_ERROR(read_search(option, written.value, place, entry));
        continue;
      }
      if (!is_known(option.key, top_option_names())) {
        return source_.invalid(option.where,
                               unknown_option(option.key, "in " + place, entry_keys()));
      }
      BITRUNG_RETURN_IF_ERROR(
          entry.base.apply(option.key, option.value, Layer::kJob, place, source_));
    }
    // Read after the options, because a value's label shows what it becomes on top of them.
    for (const MapEntry& option : written.value.entries) {
      if (!is_axes_key(option.key)) continue;
      BITRUNG_ASSIGN_OR_RETURN(std::vector<Axis> axes, read_axes_of(option, place, entry.base));
      if (option.key != "sweep") {
        BITRUNG_RETURN_IF_ERROR(make_rungs(option, entry, axes.front()));
      }
      std::ranges::move(axes, std::back_inserter(entry.axes));
    }
    if (replicate_ != nullptr) {
      BITRUNG_ASSIGN_OR_RETURN(
          std::vector<Axis> axes,
          read_axes(*replicate_, "replicate", sweep_option_names(), Layer::kDefaults, entry.base));
      std::ranges::move(axes, std::back_inserter(entry.axes));
    }
    BITRUNG_RETURN_IF_ERROR(check_axes(entry, place));
    choose_keys(entry);
    BITRUNG_RETURN_IF_ERROR(count_jobs(entry));
    BITRUNG_RETURN_IF_ERROR(check_name_lengths(entry));
    return entry;
  }

  absl::Status read_search(const MapEntry& option, const YamlNode& written,
                           const std::string& place, Entry& entry) const {
    if (option.value.kind != YamlNode::Kind::kScalar || option.value.text != "best-path") {
      return source_.invalid(
          option.value.where,
          fmt::format("search of {} is {}; expected best-path", place, shown(option.value)));
    }
    if (written.find("paths") == nullptr) {
      return source_.invalid(
          option.where, fmt::format("search of {} needs paths, such as paths: {{bits: [32, 16, "
                                    "8, 4, 2, 1]}}; add them, or remove search",
                                    place));
    }
    entry.search = option.where;
    return absl::OkStatus();
  }

  absl::Status make_rungs(const MapEntry& option, Entry& entry, Axis& axis) const {
    if (entry.rungs) {
      return source_.invalid(option.where,
                             fmt::format("job {} has both a ladder and paths; a ladder is one of "
                                         "the paths, so remove it, or move it to another job",
                                         entry.name));
    }
    entry.rungs = entry.axes.size();
    if (option.key == "ladder") {
      make_ladder(axis);
    } else if (entry.search) {
      make_best_path(axis);
    } else {
      const std::size_t rungs = axis.values.size();
      const std::uint64_t paths = path_count(rungs);
      if (paths > kJobsMax) {
        return source_.exhausted(
            axis.where,
            fmt::format("paths of job {} has {} rungs, from which {} paths lead down "
                        "(2^{}), the limit is {} jobs; take fewer rungs, or say "
                        "search: best-path",
                        entry.name, rungs, rungs > 64 ? "more than 2^63" : with_separators(paths),
                        rungs - 1, with_separators(kJobsMax)));
      }
      make_paths(axis);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<Axis>> read_axes_of(const MapEntry& option, const std::string& place,
                                                 const Options& base) const {
    const bool is_sweep = option.key == "sweep";
    const std::string axes_place = fmt::format("{} of {}", option.key, place);
    const std::string_view expected =
        is_sweep
            ? std::string_view("a mapping of options to lists of values, such as {bits: [32, 4]}")
            : std::string_view("a mapping such as {bits: [32, 16, 8, 4]}");
    if (option.value.kind != YamlNode::Kind::kMap || option.value.entries.empty()) {
      const bool is_map = option.value.kind == YamlNode::Kind::kMap;
      return source_.invalid(
          option.value.where,
          fmt::format("{} is {}; expected {}", axes_place,
                      is_map ? "an empty mapping" : shown(option.value), expected));
    }
    static const std::vector<std::string> rung_names = {"bits"};
    return read_axes(option.value, axes_place, is_sweep ? sweep_option_names() : rung_names,
                     Layer::kJob, base);
  }

  absl::StatusOr<std::vector<Axis>> read_axes(const YamlNode& map, const std::string& place,
                                              const std::vector<std::string>& names, Layer layer,
                                              const Options& base) const {
    std::vector<Axis> axes;
    for (const MapEntry& entry : map.entries) {
      if (!is_known(entry.key, names)) {
        return source_.invalid(entry.where, unknown_option(entry.key, "in " + place, names));
      }
      Axis axis{.option = entry.key,
                .sets = entry.key,
                .key = {},
                .place = place,
                .where = entry.where,
                .layer = layer,
                .values = {}};
      if (entry.value.kind != YamlNode::Kind::kSequence || entry.value.items.empty()) {
        const bool is_list = entry.value.kind == YamlNode::Kind::kSequence;
        return source_.invalid(
            entry.value.where,
            fmt::format("{} in {} is {}; expected a list of values, such as [{}]", entry.key, place,
                        is_list ? "an empty list" : shown(entry.value),
                        entry.value.kind == YamlNode::Kind::kScalar ? entry.value.text : "32, 4"));
      }
      if (entry.value.items.size() > kJobsMax) {
        return source_.exhausted(
            entry.value.where,
            fmt::format("{} in {} has {} values, the limit is {} jobs; split the experiment",
                        entry.key, place, with_separators(entry.value.items.size()),
                        with_separators(kJobsMax)));
      }
      std::set<std::string> canonicals;
      std::set<std::string> labels;
      for (const YamlNode& item : entry.value.items) {
        Options options = base;
        BITRUNG_RETURN_IF_ERROR(options.apply(axis.option, item, layer, place, source_));
        AxisValue value{.node = &item,
                        .label = value_label(options, axis.option, item),
                        .canonical = options.canonical_text(axis.option, item)};
        if (!canonicals.insert(value.canonical).second) {
          return source_.invalid(
              item.where, fmt::format("{} in {} lists the value {} twice; remove one", entry.key,
                                      place, value.label));
        }
        // Different values may look the same once reduced to the alphabet of names.
        const std::string plain = value.label;
        for (int n = 2; !labels.insert(value.label).second; ++n) {
          value.label = fmt::format("{}-{}", plain, n);
        }
        axis.values.push_back(std::move(value));
      }
      axes.push_back(std::move(axis));
    }
    return axes;
  }

  // No option may have two sources within one entry that both claim to be the last word.
  absl::Status check_axes(const Entry& entry, std::string_view place) const {
    for (std::size_t i = 0; i < entry.axes.size(); ++i) {
      const Axis& axis = entry.axes[i];
      for (const OptionInfo& row : option_table()) {
        if (!sets_leaf(axis, row)) continue;
        for (std::size_t j = 0; j < i; ++j) {
          const Axis& other = entry.axes[j];
          if (!sets_leaf(other, row)) continue;
          return source_.invalid(
              axis.where, fmt::format("{} in {} and {} in {} set the same option of {}; remove one",
                                      axis.sets, axis.place, other.sets, other.place, place));
        }
        if (entry.base.layer(row.option) != Layer::kJob) continue;
        return source_.invalid(entry.base.where(row.option),
                               fmt::format("{} sets {}, which {} varies; remove one of the two",
                                           place, row.name, axis.place));
      }
    }
    return absl::OkStatus();
  }

  static void choose_keys(Entry& entry) {
    const auto last_part = [](const std::string& option) {
      return option.substr(option.rfind('.') + 1);
    };
    for (Axis& axis : entry.axes) {
      if (!axis.key.empty()) continue;
      const std::string short_key = last_part(axis.option);
      const auto sharing = std::ranges::count_if(
          entry.axes, [&](const Axis& other) { return last_part(other.option) == short_key; });
      axis.key = sharing > 1 ? axis.option : short_key;
    }
  }

  absl::Status count_jobs(Entry& entry) const {
    std::uint64_t count = 1;
    for (const Axis& axis : entry.axes) {
      std::uint64_t product = 0;
      // Each axis is below the limit, so the product of one more exceeds it long before 64 bits;
      // the check costs nothing and holds if the limit is raised.
      const bool overflows = __builtin_mul_overflow(count, axis.values.size(), &product);
      if (overflows || product > kJobsMax) return too_many_jobs(entry);
      count = product;
    }
    entry.job_count = static_cast<std::size_t>(count);
    return absl::OkStatus();
  }

  absl::Status too_many_jobs(const Entry& entry) const {
    std::string factors;
    std::uint64_t product = 1;
    bool overflows = false;
    for (const Axis& axis : entry.axes) {
      factors += fmt::format("{}{} {}", factors.empty() ? "" : " x ", axis.values.size(), axis.key);
      overflows = overflows || __builtin_mul_overflow(product, axis.values.size(), &product);
    }
    return source_.exhausted(
        entry.where,
        fmt::format(
            "job {} expands to {} jobs ({}), the limit is {}; sweep fewer values or split the "
            "experiment",
            entry.name, overflows ? "more than 2^64" : with_separators(product), factors,
            with_separators(kJobsMax)));
  }

  // The longest name is the one with the longest label of each axis.
  absl::Status check_name_lengths(const Entry& entry) const {
    std::string longest = entry.name;
    for (const Axis& axis : entry.axes) {
      const auto& value = *std::ranges::max_element(
          axis.values, {}, [](const AxisValue& v) { return v.label.size(); });
      longest += fmt::format(".{}={}", axis.key, value.label);
    }
    if (longest.size() <= kNameBytesMax) return absl::OkStatus();
    return source_.invalid(
        entry.where,
        fmt::format("job name {} has {} characters, the limit is {}; shorten the name of "
                    "the job or sweep fewer options in it",
                    longest, longest.size(), kNameBytesMax));
  }

  const YamlNode& root_;
  const Source& source_;
  Options defaults_ = Options::built_in();
  const YamlNode* replicate_ = nullptr;
  Document document_;
};

// Turns the short form of a group into its map, so that its other values can be set one by one:
// "schedule: cosine", "method: lsq", "bits: w1a32".
void write_out(std::string_view group, YamlNode& node) {
  std::vector<std::pair<std::string, std::string>> values;
  if (group == "schedule") {
    values = {{"kind", node.text}};
  } else if (group == "method") {
    values = {{"weights", node.text}, {"activations", node.text}};
  } else if (const auto bits = parse_bits_word(node.text); group == "bits" && bits) {
    values = {{"weights", fmt::format("{}", bits->weights)},
              {"activations", fmt::format("{}", bits->activations)}};
  }
  if (values.empty()) return;
  YamlNode map{
      .kind = YamlNode::Kind::kMap, .where = node.where, .text = {}, .items = {}, .entries = {}};
  for (auto& [key, text] : values) {
    YamlNode value = node;
    value.text = std::move(text);
    map.entries.push_back({std::move(key), node.where, std::move(value)});
  }
  node = std::move(map);
}

// The steps of an override's path. Below `sweep`, `replicate` and `bits.layers` the rest is one
// key, for names have dots there.
std::vector<std::string> path_steps(std::string_view path) {
  std::vector<std::string> steps;
  while (true) {
    const bool is_rest_one_key =
        (steps.size() == 1 && steps[0] == "replicate") ||
        (steps.size() == 3 && steps[0] == "jobs" && steps[2] == "sweep") ||
        (steps.size() > 1 && steps[steps.size() - 2] == "bits" && steps.back() == "layers");
    const std::size_t dot = is_rest_one_key ? std::string_view::npos : path.find('.');
    steps.emplace_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return steps;
    path.remove_prefix(dot + 1);
  }
}

}  // namespace

std::vector<std::size_t> Entry::positions(std::size_t job) const {
  std::vector<std::size_t> result(axes.size());
  for (std::size_t i = axes.size(); i > 0; --i) {
    const std::size_t size = axes[i - 1].values.size();
    result[i - 1] = job % size;
    job /= size;
  }
  return result;
}

std::string Entry::job_name(const std::vector<std::size_t>& at) const {
  std::string result = name;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    result += '.';
    result += axes[i].key;
    result += '=';
    result += axes[i].values[at[i]].label;
  }
  return result;
}

absl::Status apply_override(YamlNode& root, const Override& override, int override_index,
                            const Source& source) {
  const Location where{.line = 0, .override_index = override_index};
  BITRUNG_ASSIGN_OR_RETURN(YamlNode value, parse_yaml(override.second, source, override_index));
  // The value of a key in the file could not be nested deeper either.
  const std::vector<std::string> steps = path_steps(override.first);
  if (root.kind == YamlNode::Kind::kNull) root.kind = YamlNode::Kind::kMap;
  YamlNode* node = &root;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (node->kind == YamlNode::Kind::kNull) {
      *node = YamlNode{
          .kind = YamlNode::Kind::kMap, .where = where, .text = {}, .items = {}, .entries = {}};
    }
    if (node->kind == YamlNode::Kind::kScalar && i > 0) write_out(steps[i - 1], *node);
    if (node->kind != YamlNode::Kind::kMap) {
      return source.invalid(where, fmt::format("{} is {}, not a mapping; set it as a whole",
                                               i == 0 ? "the file" : steps[i - 1], shown(*node)));
    }
    const bool is_last = i + 1 == steps.size();
    YamlNode* next = node->find(steps[i]);
    if (next == nullptr) {
      // A job that exists only through a mistyped name would train with nothing but defaults.
      if (i == 1 && steps[0] == "jobs" && !is_last) {
        std::vector<std::string> names;
        for (const MapEntry& entry : node->entries) names.push_back(entry.key);
        const auto meant = nearest(steps[i], names);
        return source.invalid(where,
                              fmt::format("the file has no job {}; {}", in_quotes(steps[i]),
                                          meant ? fmt::format("did you mean {}?", in_quotes(*meant))
                                                : fmt::format("it has {}", listed(names, "and"))));
      }
      node->entries.push_back({steps[i], where,
                               YamlNode{.kind = YamlNode::Kind::kNull,
                                        .where = where,
                                        .text = {},
                                        .items = {},
                                        .entries = {}}});
      next = &node->entries.back().value;
    }
    if (is_last) {
      std::ranges::find(node->entries, steps[i], &MapEntry::key)->where = where;
      *next = std::move(value);
      return absl::OkStatus();
    }
    node = next;
  }
  return absl::OkStatus();
}

absl::StatusOr<Document> read_document(const YamlNode& root, const Source& source) {
  return DocumentReader(root, source).read();
}

}  // namespace bitrung::client
