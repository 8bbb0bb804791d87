#include "client/experiment/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <unordered_map>
#include <utility>

#include "client/experiment/network.h"
#include "client/experiment/outside_file.h"
#include "client/experiment/text.h"
#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::client {
namespace {

// The trainer's numerics version that this client's specs are written for (PROTOCOL.md).
constexpr int kNumerics = 1;
// What the server takes (SubmitExperiment, "Limits").
constexpr std::size_t kChildrenMax = 10'000;
constexpr std::size_t kNamesShownMax = 4;
constexpr std::size_t kCycleNamesShownMax = 12;
// Of one entry, when a mistyped name is compared with the names of its jobs.
constexpr std::size_t kNamesComparedMax = 2000;

std::string bits_json(const BitsValue& bits) {
  return fmt::format(R"({{"activations":{},"weights":{}}})", bits.activations, bits.weights);
}

std::string method_json(std::string_view weights, std::string_view activations) {
  return fmt::format(R"({{"activations":"{}","weights":"{}"}})", activations, weights);
}

std::string schedule_json(const Options& options) {
  std::string step;
  if (options.word(Option::kScheduleKind) == "step") {
    std::string at;
    for (const double fraction : options.fractions(Option::kScheduleAt)) {
      at += fmt::format("{}{}", at.empty() ? "" : ",", real_text(fraction));
    }
    step = fmt::format(R"("at":[{}],"factor":{},)", at,
                       real_text(options.real(Option::kScheduleFactor)));
  }
  return fmt::format(R"({{{}"kind":"{}","warmup_epochs":{}}})", step,
                     options.word(Option::kScheduleKind), options.integer(Option::kWarmupEpochs));
}

std::string augment_json(const Options& options) {
  std::string words;
  const auto all = info(Option::kAugment).words;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if ((options.integer(Option::kAugment) >> i & 1) == 0) continue;
    words += fmt::format(R"({}"{}")", words.empty() ? "" : ",", all[i]);
  }
  return fmt::format("[{}]", words);
}

// What a spec says of the job's inputs.
struct SpecInputs {
  bool has_teacher = false;
  std::string_view init = "scratch";
  std::string init_artifact;  // Hex digits, for "artifact" only.
  std::string teacher_json;   // Of an outside teacher, else empty.
  std::string teacher_model;  // Likewise.
};

// The canonical spec: keys in order, no white space. Written directly, because an experiment may
// have 100,000 of them; all words come from closed lists, so nothing needs an escape.
std::string spec_json(const Options& options, const SpecInputs& inputs) {
  using enum Option;
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, R"({{"augment":{},"batch_size":{},"bits":{},"dataset":"{}",)",
                 augment_json(options), options.integer(kBatchSize), bits_json(options.bits()),
                 options.word(kDataset));
  if (inputs.has_teacher) {
    fmt::format_to(out, R"("distill":{{"kind":"kd","temperature":{},"weight":{}}},)",
                   real_text(options.real(kDistillTemperature)),
                   real_text(options.real(kDistillWeight)));
  }
  fmt::format_to(out, R"("epochs":{},"init":"{}",)", options.integer(kEpochs), inputs.init);
  if (!inputs.init_artifact.empty()) {
    fmt::format_to(out, R"("init_artifact":"{}",)", inputs.init_artifact);
  }
  fmt::format_to(out, R"("kind":"train","method":{},"model":"{}","numerics":{},)",
                 method_json(options.word(kMethodWeights), options.word(kMethodActivations)),
                 options.word(kModel), kNumerics);
  fmt::format_to(
      out,
      R"("optimizer":{{"kind":"{}","learning_rate":{},"momentum":{},"nesterov":{},"weight_decay":{}}},)",
      options.word(kOptimizerKind), real_text(options.real(kLearningRate)),
      real_text(options.real(kMomentum)), options.integer(kNesterov) != 0,
      real_text(options.real(kWeightDecay)));
  fmt::format_to(out, R"("schedule":{},"seed":{},)", schedule_json(options),
                 options.integer(kSeed));
  if (options.word(kDataset) == "synthetic") {
    fmt::format_to(out, R"("synthetic":{{"seed":{},"test_images":{},"train_images":{}}},)",
                   options.integer(kSyntheticSeed), options.integer(kSyntheticTestImages),
                   options.integer(kSyntheticTrainImages));
  }
  if (!inputs.teacher_json.empty()) fmt::format_to(out, R"("teacher":{},)", inputs.teacher_json);
  fmt::format_to(out, R"("train_images":{},"validation":{}}})", options.integer(kTrainImages),
                 options.integer(kValidation));
  return text;
}

std::string_view option_name(InputRole role) {
  return role == InputRole::kTeacher ? "teacher" : "init";
}

// Finds a value of an axis without walking it, since both the axis and its users may be many.
struct AxisIndex {
  std::unordered_map<std::string_view, std::size_t> by_label;
  std::unordered_map<std::string_view, std::size_t> by_canonical;
};

// Where a job's inputs are named, for messages after all jobs are there.
struct Places {
  Location teacher;  // For a ladder's rung where the ladder is.
  Location init;
  bool starts_from_teacher = false;
};

// A job in the making.
struct Draft {
  const Entry& entry;
  const std::vector<std::size_t> at;  // Which value of each axis it has.
  const Options& options;
  Job job;
  Places places;
  SpecInputs spec;
};

class Expander {
 public:
  Expander(const Document& document, const std::filesystem::path& directory, const Source& source)
      : document_(document), directory_(directory), source_(source) {
    for (const Entry& entry : document.entries) entry_by_name_.emplace(entry.name, &entry);
  }

  absl::StatusOr<Graph> expand() {
    jobs_.reserve(document_.job_count);
    places_.reserve(document_.job_count);
    for (const Entry& entry : document_.entries) {
      for (std::size_t i = 0; i < entry.job_count; ++i) BITRUNG_RETURN_IF_ERROR(add_job(entry, i));
    }
    for (std::size_t i = 0; i < jobs_.size(); ++i) BITRUNG_RETURN_IF_ERROR(check_parents(i));
    const std::vector<std::size_t> order = parents_first(jobs_);
    if (order.size() < jobs_.size()) return cycle(order);
    return merge(order);
  }

 private:
  absl::Status add_job(const Entry& entry, std::size_t number) {
    std::vector<std::size_t> at = entry.positions(number);
    Options options = entry.base;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const Axis& axis = entry.axes[i];
      BITRUNG_RETURN_IF_ERROR(
          options.apply(axis.option, *axis.values[at[i]].node, axis.layer, axis.place, source_));
    }
    Draft draft{.entry = entry,
                .at = std::move(at),
                .options = options,
                .job = {},
                .places = {},
                .spec = {}};
    Job& job = draft.job;
    job.name = entry.job_name(draft.at);
    BITRUNG_RETURN_IF_ERROR(check_values(options, entry, job.name));
    BITRUNG_RETURN_IF_ERROR(add_teacher(draft));
    BITRUNG_RETURN_IF_ERROR(add_init(draft));
    job.spec_json = spec_json(options, draft.spec);

    job.retries = static_cast<std::uint32_t>(options.integer(Option::kRetries));
    job.timeout_seconds = options.real(Option::kTimeout);
    job.priority = static_cast<std::int32_t>(options.integer(Option::kPriority));
    job.devices = static_cast<std::uint32_t>(options.integer(Option::kDevices));
    job.memory_bytes = static_cast<std::uint64_t>(options.integer(Option::kMemory));
    job.model = options.word(Option::kModel);
    job.dataset = options.word(Option::kDataset);
    const std::string_view weights = options.word(Option::kMethodWeights);
    const std::string_view activations = options.word(Option::kMethodActivations);
    job.method =
        weights == activations ? std::string(weights) : fmt::format("{}/{}", weights, activations);
    job.weight_bits = options.bits().weights;
    job.activation_bits = options.bits().activations;
    job.seed = static_cast<std::uint64_t>(options.integer(Option::kSeed));
    job.epochs = static_cast<int>(options.integer(Option::kEpochs));
    jobs_.push_back(std::move(job));
    places_.push_back(draft.places);
    return absl::OkStatus();
  }

  // The first of the options that somebody wrote; the entry if all are built-in defaults.
  static Location place_of(const Options& options, const Entry& entry,
                           std::initializer_list<Option> candidates) {
    for (const Option option : candidates) {
      if (options.layer(option) != Layer::kBuiltIn) return options.where(option);
    }
    return entry.where;
  }

  // Rules that involve more than one option.
  absl::Status check_values(const Options& options, const Entry& entry,
                            const std::string& name) const {
    using enum Option;
    const std::string_view dataset = options.word(kDataset);
    const bool is_synthetic = dataset == "synthetic";
    for (const Option option : {kSyntheticTrainImages, kSyntheticTestImages, kSyntheticSeed}) {
      if (!is_synthetic && options.layer(option) == Layer::kJob) {
        return source_.invalid(
            options.where(option),
            fmt::format("{}: {} is set, but dataset is {}; remove it or say dataset: synthetic",
                        name, info(option).name, dataset));
      }
    }
    const std::int64_t all =
        is_synthetic ? options.integer(kSyntheticTrainImages) : dataset_info(dataset).train_images;
    const Option all_of_them = is_synthetic ? kSyntheticTrainImages : kDataset;
    const std::int64_t first = options.integer(kTrainImages);
    const auto count = [](std::int64_t value) {
      return with_separators(static_cast<std::uint64_t>(value));
    };
    if (first > all) {
      return source_.invalid(
          place_of(options, entry, {kTrainImages, all_of_them}),
          fmt::format("{}: train_images is {}; {} has {} training images, expected at "
                      "most so many or 0 for all",
                      name, first, dataset, count(all)));
    }
    const std::int64_t images = first > 0 ? first : all;
    const std::int64_t held_out = options.integer(kValidation);
    if (held_out >= images) {
      return source_.invalid(
          place_of(options, entry, {kValidation, kTrainImages, all_of_them}),
          fmt::format(
              "{}: validation is {}; expected fewer than the {} training images, from which "
              "they are taken, or 0",
              name, held_out, count(images)));
    }
    const std::int64_t batch = options.integer(kBatchSize);
    if (batch > images - held_out) {
      return source_.invalid(
          place_of(options, entry, {kBatchSize, kTrainImages, all_of_them, kValidation}),
          fmt::format(
              "{}: batch_size is {}; expected at most the {} images that are left to train on "
              "({} less {} for validation)",
              name, batch, count(images - held_out), count(images), count(held_out)));
    }
    if (options.integer(kNesterov) != 0 && options.real(kMomentum) == 0) {
      return source_.invalid(
          place_of(options, entry, {kNesterov}),
          fmt::format(
              "{}: optimizer.nesterov is true, but optimizer.momentum is 0; raise the momentum "
              "or say nesterov: false",
              name));
    }
    return absl::OkStatus();
  }

  // In an entry that has jobs both with and without a teacher, what only taught jobs use is no
  // mistake in the others.
  static bool may_lack_teacher(const Entry& entry) {
    return entry.ladder || std::ranges::any_of(entry.axes, [](const Axis& axis) {
             return axis.option == "teacher";
           });
  }

  absl::Status add_teacher(Draft& draft) {
    const Entry& entry = draft.entry;
    const Reference& reference = draft.options.reference(Option::kTeacher);
    draft.places.teacher = draft.options.where(Option::kTeacher);
    draft.spec.has_teacher = true;
    if (entry.ladder && draft.at[*entry.ladder] > 0) {
      std::vector<std::size_t> above = draft.at;
      --above[*entry.ladder];
      draft.places.teacher = entry.axes[*entry.ladder].where;
      draft.job.inputs.push_back(job_input(InputRole::kTeacher, number_of(entry, above)));
      return absl::OkStatus();
    }
    if (reference.kind == Reference::Kind::kJob) {
      BITRUNG_ASSIGN_OR_RETURN(const std::size_t teacher,
                               resolve(InputRole::kTeacher, reference.target, draft));
      draft.job.inputs.push_back(job_input(InputRole::kTeacher, teacher));
      return absl::OkStatus();
    }
    if (reference.kind == Reference::Kind::kFile) return add_outside_teacher(draft);

    draft.spec.has_teacher = false;
    for (const Option option : {Option::kDistillTemperature, Option::kDistillWeight}) {
      if (draft.options.layer(option) == Layer::kJob && !may_lack_teacher(entry)) {
        return source_.invalid(
            draft.options.where(option),
            fmt::format(
                "{}: {} is set, but the job has no teacher; say teacher: NAME, or remove distill",
                draft.job.name, info(option).name));
      }
    }
    return absl::OkStatus();
  }

  absl::Status add_init(Draft& draft) {
    const Reference& reference = draft.options.reference(Option::kInit);
    const Location where = draft.options.where(Option::kInit);
    draft.places.init = where;
    switch (reference.kind) {
      case Reference::Kind::kNone:
        return absl::OkStatus();
      case Reference::Kind::kTeacher:
        return add_init_from_teacher(draft);
      case Reference::Kind::kJob: {
        BITRUNG_ASSIGN_OR_RETURN(const std::size_t job,
                                 resolve(InputRole::kInit, reference.target, draft));
        draft.job.inputs.push_back(job_input(InputRole::kInit, job));
        draft.spec.init = "job";
        return absl::OkStatus();
      }
      case Reference::Kind::kFile: {
        BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                                 outside_file(InputRole::kInit, reference, draft));
        if (file->trained_as) {
          BITRUNG_RETURN_IF_ERROR(
              check_same_network(draft, where, reference.target, file->trained_as->model));
        }
        draft.job.inputs.push_back(file_input(InputRole::kInit, reference, *file));
        draft.spec.init = "artifact";
        draft.spec.init_artifact = file->sha256.hex();
        return absl::OkStatus();
      }
    }
    check_failed("a kind of reference without an init", __FILE__, __LINE__);
  }

  absl::Status add_init_from_teacher(Draft& draft) const {
    const Location where = draft.places.init;
    if (!draft.spec.has_teacher) {
      if (draft.options.layer(Option::kInit) != Layer::kJob || may_lack_teacher(draft.entry)) {
        return absl::OkStatus();
      }
      return source_.invalid(where,
                             fmt::format("{}: init is teacher, but the job has no teacher; say "
                                         "teacher: NAME, or init: scratch",
                                         draft.job.name));
    }
    const std::string& teacher = draft.options.reference(Option::kTeacher).target;
    if (entry_by_name_.contains("teacher") && teacher.substr(0, teacher.find('.')) != "teacher") {
      return source_.invalid(
          where, fmt::format("{}: init is teacher, which could be its own teacher or the "
                             "job of that name; rename the job \"teacher\"",
                             draft.job.name));
    }
    draft.spec.init = "teacher";
    draft.places.starts_from_teacher = true;
    if (draft.spec.teacher_model.empty()) return absl::OkStatus();
    return check_same_network(draft, where, teacher, draft.spec.teacher_model);
  }

  absl::Status check_same_network(const Draft& draft, Location where, std::string_view origin,
                                  std::string_view model) const {
    const std::string_view own = draft.options.word(Option::kModel);
    if (model == own) return absl::OkStatus();
    return source_.invalid(
        where, fmt::format("{} starts from {}, which is a {}, but its model is {}; both "
                           "must be the same network",
                           draft.job.name, origin, model, own));
  }

  absl::Status add_outside_teacher(Draft& draft) {
    const Reference& reference = draft.options.reference(Option::kTeacher);
    BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                             outside_file(InputRole::kTeacher, reference, draft));
    const std::optional<TrainedAs>& known = file->trained_as;
    if (reference.model.empty() && !known) {
      return source_.invalid(
          draft.places.teacher,
          fmt::format("teacher artifact {} does not say what network it is; add its model, "
                      "such as {{artifact: {}, model: resnet110}}",
                      reference.target, reference.target));
    }
    TrainedAs used;
    if (known) {
      used = *known;
    } else {
      used.method = {std::string(Options::built_in().word(Option::kMethodWeights)),
                     std::string(Options::built_in().word(Option::kMethodActivations))};
    }
    if (!reference.model.empty()) used.model = reference.model;
    if (reference.bits) used.bits = *reference.bits;
    if (reference.method) used.method = *reference.method;
    if (known && used != *known) {
      return source_.invalid(
          draft.places.teacher,
          fmt::format(
              "teacher artifact {} was trained as {}, the options say {}; remove the options that "
              "differ, or name another file",
              reference.target, described(*known), described(used)));
    }
    draft.spec.teacher_model = used.model;
    draft.spec.teacher_json =
        fmt::format(R"({{"artifact":"{}","bits":{},"method":{},"model":"{}"}})", file->sha256.hex(),
                    bits_json(used.bits), method_json(used.method.weights, used.method.activations),
                    used.model);
    draft.job.inputs.push_back(file_input(InputRole::kTeacher, reference, *file));
    return absl::OkStatus();
  }

  static std::string described(const TrainedAs& trained) {
    return fmt::format("{} with w{}a{} bits by {}/{}", trained.model, trained.bits.weights,
                       trained.bits.activations, trained.method.weights,
                       trained.method.activations);
  }

  static Input job_input(InputRole role, std::size_t job) {
    return {.role = role, .job = job, .file = std::nullopt, .file_sha256 = std::nullopt};
  }

  Input file_input(InputRole role, const Reference& reference, const OutsideFile& file) const {
    return {.role = role,
            .job = std::nullopt,
            .file = directory_ / reference.target,
            .file_sha256 = file.sha256};
  }

  // Each file is read once, however many jobs use it.
  absl::StatusOr<const OutsideFile*> outside_file(InputRole role, const Reference& reference,
                                                  const Draft& draft) {
    const Location where = role == InputRole::kTeacher ? draft.places.teacher : draft.places.init;
    auto known = files_.find(reference.target);
    if (known == files_.end()) {
      absl::StatusOr<OutsideFile> file = inspect_outside_file(directory_ / reference.target);
      if (!file.ok()) {
        return source_.invalid(
            where, fmt::format("{} artifact {}", option_name(role), message(file.status())));
      }
      known = files_.emplace(reference.target, *std::move(file)).first;
    }
    const OutsideFile& file = known->second;
    const std::string_view dataset = draft.options.word(Option::kDataset);
    const int classes = dataset_info(dataset).classes;
    if (file.classes && *file.classes != classes) {
      return source_.invalid(
          where,
          fmt::format("{} artifact {} does not fit {}: its tensor fc.weight has {} rows, one per "
                      "class, but {} has {} classes",
                      option_name(role), reference.target, draft.job.name, *file.classes, dataset,
                      classes));
    }
    return &file;
  }

  static std::size_t number_of(const Entry& entry, const std::vector<std::size_t>& at) {
    std::size_t number = 0;
    for (std::size_t i = 0; i < at.size(); ++i)
      number = number * entry.axes[i].values.size() + at[i];
    return entry.first_job + number;
  }

  const AxisIndex& index_of(const Axis& axis) {
    const auto [found, is_new] = axis_index_.try_emplace(&axis);
    if (is_new) {
      for (std::size_t i = 0; i < axis.values.size(); ++i) {
        found->second.by_label.emplace(axis.values[i].label, i);
        found->second.by_canonical.emplace(axis.values[i].canonical, i);
      }
    }
    return found->second;
  }

  // The job meant by `target` in the student: the entry, the parts that the target names, and for
  // the rest the parts that the student has itself.
  absl::StatusOr<std::size_t> resolve(InputRole role, const std::string& target,
                                      const Draft& draft) {
    const std::size_t dot = std::min(target.find('.'), target.size());
    const auto found = entry_by_name_.find(std::string_view(target).substr(0, dot));
    if (found == entry_by_name_.end()) return unknown_job(role, target, draft, nullptr);
    const Entry& entry = *found->second;

    std::vector<std::optional<std::size_t>> at(entry.axes.size());
    for (std::string_view rest = std::string_view(target).substr(dot); !rest.empty();) {
      if (!take_part(entry, rest, at)) return unknown_job(role, target, draft, &entry);
    }
    bool is_ambiguous = false;
    for (std::size_t i = 0; i < at.size(); ++i) {
      if (at[i]) continue;
      const Axis& axis = entry.axes[i];
      const std::vector<Axis>& own_axes = draft.entry.axes;
      const auto own = std::ranges::find(own_axes, axis.option, &Axis::option);
      if (own != own_axes.end()) {
        const auto own_index = static_cast<std::size_t>(own - own_axes.begin());
        const AxisValue& value = own->values[draft.at[own_index]];
        const AxisIndex& index = index_of(axis);
        const auto same = index.by_canonical.find(value.canonical);
        if (same == index.by_canonical.end()) {
          return refused(
              role, target, draft,
              fmt::format("but none of its jobs has {}={}; name one, such as {}", axis.key,
                          value.label, in_quotes(entry.job_name(entry.positions(0)))));
        }
        at[i] = same->second;
      } else if (axis.values.size() == 1) {
        at[i] = 0;
      } else {
        is_ambiguous = true;
      }
    }
    if (is_ambiguous) {
      return refused(role, target, draft,
                     fmt::format("which could be {}; name one of them", candidates(entry, at)));
    }
    std::vector<std::size_t> exact;
    for (const auto& position : at) exact.push_back(*position);
    return number_of(entry, exact);
  }

  absl::Status refused(InputRole role, std::string_view target, const Draft& draft,
                       std::string_view why) const {
    return source_.invalid(role == InputRole::kTeacher ? draft.places.teacher : draft.places.init,
                           fmt::format("{} of {} is {}, {}", option_name(role), draft.job.name,
                                       in_quotes(target), why));
  }

  // Takes ".key=value" off the front of `rest`; false if the entry has no such part.
  bool take_part(const Entry& entry, std::string_view& rest,
                 std::vector<std::optional<std::size_t>>& at) {
    for (std::size_t i = 0; i < entry.axes.size(); ++i) {
      const std::string prefix = fmt::format(".{}=", entry.axes[i].key);
      if (!rest.starts_with(prefix) || at[i]) continue;
      // Values have dots but no '=', so a value ends where the next key begins.
      std::size_t end = rest.size();
      for (const Axis& other : entry.axes) {
        end = std::min(end, rest.find(fmt::format(".{}=", other.key), prefix.size()));
      }
      const AxisIndex& index = index_of(entry.axes[i]);
      const auto value = index.by_label.find(rest.substr(prefix.size(), end - prefix.size()));
      if (value == index.by_label.end()) return false;
      at[i] = value->second;
      rest.remove_prefix(end);
      return true;
    }
    return false;
  }

  absl::Status unknown_job(InputRole role, const std::string& target, const Draft& draft,
                           const Entry* entry) const {
    std::vector<std::string> names;
    const std::size_t total = entry != nullptr ? entry->job_count : document_.entries.size();
    for (std::size_t i = 0; i < std::min(total, kNamesComparedMax); ++i) {
      names.push_back(entry != nullptr ? entry->job_name(entry->positions(i))
                                       : document_.entries[i].name);
    }
    if (const auto meant = nearest(target, names)) {
      return refused(role, target, draft,
                     fmt::format("which is no job; did you mean {}?", in_quotes(*meant)));
    }
    return refused(role, target, draft,
                   fmt::format("which is no job; expected {}", some_of(names, total)));
  }

  // "a, b or c", or the first few "or 96 more".
  static std::string some_of(std::vector<std::string> names, std::size_t total) {
    if (total <= kNamesShownMax) return listed(names, "or");
    names.resize(std::min(names.size(), kNamesShownMax));
    return fmt::format("{} or {} more", listed(names, ""), total - names.size());
  }

  // The entry's jobs that have the positions given in `at`.
  static std::string candidates(const Entry& entry,
                                const std::vector<std::optional<std::size_t>>& at) {
    std::size_t total = 1;
    for (std::size_t i = 0; i < at.size(); ++i) total *= at[i] ? 1 : entry.axes[i].values.size();
    std::vector<std::string> names;
    for (std::size_t n = 0; n < std::min(total, kNamesShownMax); ++n) {
      std::size_t rest = n;
      std::vector<std::size_t> exact(at.size());
      for (std::size_t i = at.size(); i > 0; --i) {
        const std::size_t size = entry.axes[i - 1].values.size();
        exact[i - 1] = at[i - 1] ? *at[i - 1] : rest % size;
        if (!at[i - 1]) rest /= size;
      }
      names.push_back(entry.job_name(exact));
    }
    return some_of(std::move(names), total);
  }

  absl::Status check_parents(std::size_t index) const {
    const Job& job = jobs_[index];
    const Places& places = places_[index];
    for (const Input& input : job.inputs) {
      if (!input.job) continue;
      const Job& parent = jobs_[*input.job];
      const Location where = input.role == InputRole::kTeacher ? places.teacher : places.init;
      const DatasetInfo own = dataset_info(job.dataset);
      const DatasetInfo other = dataset_info(parent.dataset);
      if (own.classes != other.classes || own.image_size != other.image_size) {
        return source_.invalid(
            where,
            fmt::format("{} {} learns {} with {} classes of {}x{} images, but {} learns {} with {} "
                        "classes of {}x{}; both must have the same",
                        option_name(input.role), parent.name, parent.dataset, other.classes,
                        other.image_size, other.image_size, job.name, job.dataset, own.classes,
                        own.image_size, own.image_size));
      }
      const bool is_start = input.role == InputRole::kInit || places.starts_from_teacher;
      if (is_start && parent.model != job.model) {
        return source_.invalid(
            places.init,
            fmt::format("{} starts from {}, which is a {}, but its model is {}; both must be the "
                        "same network",
                        job.name, parent.name, parent.model, job.model));
      }
    }
    return absl::OkStatus();
  }

  // `order` has every job that is in no cycle and behind none.
  absl::Status cycle(const std::vector<std::size_t>& order) const {
    std::vector<bool> is_left(jobs_.size(), true);
    for (const std::size_t job : order) is_left[job] = false;
    // Each job left waits for another one left, so following those ends in the cycle.
    std::vector<bool> is_met(jobs_.size(), false);
    auto job = static_cast<std::size_t>(std::ranges::find(is_left, true) - is_left.begin());
    std::vector<std::size_t> path;
    while (!is_met[job]) {
      is_met[job] = true;
      path.push_back(job);
      const auto next = std::ranges::find_if(jobs_[job].inputs, [&is_left](const Input& input) {
        return input.job && is_left[*input.job];
      });
      BITRUNG_CHECK(next != jobs_[job].inputs.end());
      job = *next->job;
    }
    path.erase(path.begin(), std::ranges::find(path, job));
    std::ranges::reverse(path);
    std::rotate(path.begin(), std::ranges::min_element(path), path.end());
    std::string names;
    for (std::size_t i = 0; i < path.size(); ++i) {
      if (i == kCycleNamesShownMax && path.size() > kCycleNamesShownMax) {
        names += fmt::format("… ({} more) -> ", path.size() - i);
        break;
      }
      names += jobs_[path[i]].name + " -> ";
    }
    const Places& first = places_[path.front()];
    const bool is_teacher =
        std::ranges::any_of(jobs_[path.front()].inputs, [&path](const Input& input) {
          return input.role == InputRole::kTeacher && input.job == path.back();
        });
    return source_.invalid(is_teacher ? first.teacher : first.init,
                           fmt::format("jobs form a cycle: {}{}", names, jobs_[path.front()].name));
  }

  // Jobs with equal specs and equal inputs are one job: the first one of the file, which takes the
  // names of the others as aliases and the most demanding of their settings.
  absl::StatusOr<Graph> merge(const std::vector<std::size_t>& order) {
    std::vector<Digest> identity(jobs_.size());
    for (const std::size_t index : order) {
      std::string text = jobs_[index].spec_json;
      for (const Input& input : jobs_[index].inputs) {
        text += fmt::format("\n{} ", name(input.role));
        text += (input.job ? identity[*input.job] : input.file_sha256.value()).raw();
      }
      identity[index] = sha256(text);
    }
    Graph graph;
    graph.name = document_.name;
    std::unordered_map<Digest, std::size_t, DigestHash> merged_index;
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      const auto [found, is_new] = merged_index.emplace(identity[i], graph.jobs.size());
      if (is_new) {
        graph.jobs.push_back(std::move(jobs_[i]));
        continue;
      }
      Job& kept = graph.jobs[found->second];
      kept.aliases.push_back(jobs_[i].name);
      kept.retries = std::max(kept.retries, jobs_[i].retries);
      const bool is_unlimited = kept.timeout_seconds == 0 || jobs_[i].timeout_seconds == 0;
      kept.timeout_seconds =
          is_unlimited ? 0 : std::max(kept.timeout_seconds, jobs_[i].timeout_seconds);
      kept.priority = std::max(kept.priority, jobs_[i].priority);
      kept.devices = std::max(kept.devices, jobs_[i].devices);
      kept.memory_bytes = std::max(kept.memory_bytes, jobs_[i].memory_bytes);
    }
    std::vector<std::size_t> children(graph.jobs.size());
    for (Job& job : graph.jobs) {
      for (Input& input : job.inputs) {
        if (!input.job) continue;
        input.job = merged_index.at(identity[*input.job]);
        if (++children[*input.job] > kChildrenMax) {
          return source_.exhausted(
              {}, fmt::format("more than {} jobs take something from {}; split the experiment",
                              with_separators(kChildrenMax), graph.jobs[*input.job].name));
        }
      }
    }
    return graph;
  }

  const Document& document_;
  const std::filesystem::path& directory_;
  const Source& source_;
  std::unordered_map<std::string_view, const Entry*> entry_by_name_;
  std::unordered_map<const Axis*, AxisIndex> axis_index_;
  std::map<std::string, OutsideFile> files_;
  std::vector<Job> jobs_;  // Before merging.
  std::vector<Places> places_;
};

}  // namespace

absl::StatusOr<Graph> expand(const Document& document, const std::filesystem::path& directory,
                             const Source& source) {
  return Expander(document, directory, source).expand();
}

std::vector<std::size_t> parents_first(const std::vector<Job>& jobs) {
  std::vector<std::vector<std::size_t>> children(jobs.size());
  std::vector<std::size_t> waits_for(jobs.size(), 0);
  std::vector<std::size_t> order;
  order.reserve(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    for (const Input& input : jobs[i].inputs) {
      if (!input.job) continue;
      children[*input.job].push_back(i);
      ++waits_for[i];
    }
    if (waits_for[i] == 0) order.push_back(i);
  }
  // Grows while it is walked: a queue without a second container.
  for (std::size_t next = 0; next < order.size(); ++next) {
    for (const std::size_t child : children[order[next]]) {
      if (--waits_for[child] == 0) order.push_back(child);
    }
  }
  return order;
}

}  // namespace bitrung::client
