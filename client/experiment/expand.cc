#include "client/experiment/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
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

using nlohmann::json;

// The trainer's numerics version that this client's specs are written for (PROTOCOL.md).
constexpr int kNumerics = 1;
// What the server takes (SubmitExperiment, "Limits").
constexpr std::size_t kChildrenMax = 10'000;
constexpr std::size_t kNamesShownMax = 4;
constexpr std::size_t kCycleNamesShownMax = 12;
// Of one entry, when a mistyped name is compared with the names of its jobs.
constexpr std::size_t kNamesComparedMax = 2000;

json bits_json(const BitsValue& bits) {
  return {{"activations", bits.activations}, {"weights", bits.weights}};
}

json method_json(std::string_view weights, std::string_view activations) {
  return {{"activations", activations}, {"weights", weights}};
}

json schedule_json(const Options& options) {
  json schedule = {{"kind", options.word(Option::kScheduleKind)},
                   {"warmup_epochs", options.integer(Option::kWarmupEpochs)}};
  if (options.word(Option::kScheduleKind) == "step") {
    schedule["at"] = options.fractions(Option::kScheduleAt);
    schedule["factor"] = options.real(Option::kScheduleFactor);
  }
  return schedule;
}

json augment_json(const Options& options) {
  json augment = json::array();
  const auto words = info(Option::kAugment).words;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if ((options.integer(Option::kAugment) >> i & 1) != 0) augment.push_back(words[i]);
  }
  return augment;
}

// Everything but what depends on teacher and start.
json spec_of(const Options& options) {
  json spec = {
      {"kind", "train"},
      {"numerics", kNumerics},
      {"model", options.word(Option::kModel)},
      {"dataset", options.word(Option::kDataset)},
      {"train_images", options.integer(Option::kTrainImages)},
      {"method",
       method_json(options.word(Option::kMethodWeights), options.word(Option::kMethodActivations))},
      {"bits", bits_json(options.bits())},
      {"epochs", options.integer(Option::kEpochs)},
      {"batch_size", options.integer(Option::kBatchSize)},
      {"seed", options.integer(Option::kSeed)},
      {"optimizer",
       {{"kind", options.word(Option::kOptimizerKind)},
        {"learning_rate", options.real(Option::kLearningRate)},
        {"momentum", options.real(Option::kMomentum)},
        {"nesterov", options.integer(Option::kNesterov) != 0},
        {"weight_decay", options.real(Option::kWeightDecay)}}},
      {"schedule", schedule_json(options)},
      {"augment", augment_json(options)},
      {"validation", options.integer(Option::kValidation)},
  };
  if (options.word(Option::kDataset) == "synthetic") {
    spec["synthetic"] = {{"seed", options.integer(Option::kSyntheticSeed)},
                         {"test_images", options.integer(Option::kSyntheticTestImages)},
                         {"train_images", options.integer(Option::kSyntheticTrainImages)}};
  }
  return spec;
}

std::string_view option_name(InputRole role) {
  return role == InputRole::kTeacher ? "teacher" : "init";
}

// Finds a value of an axis without walking it, since both the axis and its users may be many.
struct AxisIndex {
  std::unordered_map<std::string_view, std::size_t> by_label;
  std::unordered_map<std::string_view, std::size_t> by_canonical;
};

// A job before merging, with what is needed to speak of it.
struct Draft {
  Job job;
  Location entry;
  Location teacher;  // Where its teacher is named, for a ladder where the ladder is.
  Location init;
  bool starts_from_teacher = false;
};

class Expander {
 public:
  Expander(const Document& document, const std::filesystem::path& directory, const Source& source)
      : document_(document), directory_(directory), source_(source) {
    for (const Entry& entry : document.entries) entry_by_name_.emplace(entry.name, &entry);
  }

  absl::StatusOr<Graph> expand() {
    drafts_.reserve(document_.job_count);
    for (const Entry& entry : document_.entries) {
      for (std::size_t i = 0; i < entry.job_count; ++i)
        BITRUNG_RETURN_IF_ERROR(add_draft(entry, i));
    }
    for (const Draft& draft : drafts_) BITRUNG_RETURN_IF_ERROR(check_parents(draft));
    std::vector<Job> jobs;
    jobs.reserve(drafts_.size());
    for (Draft& draft : drafts_) jobs.push_back(std::move(draft.job));
    const std::vector<std::size_t> order = parents_first(jobs);
    if (order.size() < jobs.size()) return cycle(jobs, order);
    return merge(std::move(jobs), order);
  }

 private:
  // ---- one job

  absl::Status add_draft(const Entry& entry, std::size_t number) {
    const std::vector<std::size_t> at = entry.positions(number);
    Options options = entry.base;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const Axis& axis = entry.axes[i];
      BITRUNG_RETURN_IF_ERROR(
          options.apply(axis.option, *axis.values[at[i]].node, axis.layer, axis.place, source_));
    }
    Draft draft;
    Job& job = draft.job;
    job.name = entry.job_name(at);
    draft.entry = entry.where;
    BITRUNG_RETURN_IF_ERROR(check_values(options, entry, job.name));

    json spec = spec_of(options);
    BITRUNG_RETURN_IF_ERROR(add_teacher(entry, at, options, draft, spec));
    BITRUNG_RETURN_IF_ERROR(add_init(entry, at, options, draft, spec));
    job.spec_json = spec.dump();

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
    drafts_.push_back(std::move(draft));
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
    const std::int64_t first = options.integer(kTrainImages);
    const auto count = [](std::int64_t value) {
      return with_separators(static_cast<std::uint64_t>(value));
    };
    if (first > all) {
      return source_.invalid(
          place_of(options, entry, {kTrainImages, kSyntheticTrainImages}),
          fmt::format("{}: train_images is {}; {} has {} training images, expected at "
                      "most so many or 0 for all",
                      name, first, dataset, count(all)));
    }
    const std::int64_t images = first > 0 ? first : all;
    const std::int64_t held_out = options.integer(kValidation);
    if (held_out >= images) {
      return source_.invalid(
          place_of(options, entry, {kValidation, kTrainImages, kSyntheticTrainImages, kDataset}),
          fmt::format(
              "{}: validation is {}; expected fewer than the {} training images, from which "
              "they are taken, or 0",
              name, held_out, count(images)));
    }
    const std::int64_t batch = options.integer(kBatchSize);
    if (batch > images - held_out) {
      return source_.invalid(
          place_of(options, entry, {kBatchSize, kTrainImages, kValidation, kSyntheticTrainImages}),
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

  // ---- teacher and start

  // In an entry that has jobs both with and without a teacher, what only taught jobs use is no
  // mistake in the others.
  static bool may_lack_teacher(const Entry& entry) {
    return entry.ladder || std::ranges::any_of(entry.axes, [](const Axis& axis) {
             return axis.option == "teacher";
           });
  }

  absl::Status add_teacher(const Entry& entry, const std::vector<std::size_t>& at,
                           const Options& options, Draft& draft, json& spec) {
    const Reference& reference = options.reference(Option::kTeacher);
    draft.teacher = options.where(Option::kTeacher);
    bool has_teacher = true;
    if (entry.ladder && at[*entry.ladder] > 0) {
      std::vector<std::size_t> above = at;
      --above[*entry.ladder];
      draft.teacher = entry.axes[*entry.ladder].where;
      draft.job.inputs.push_back(job_input(InputRole::kTeacher, number_of(entry, above)));
    } else if (reference.kind == Reference::Kind::kJob) {
      BITRUNG_ASSIGN_OR_RETURN(
          const std::size_t teacher,
          resolve(InputRole::kTeacher, reference.target, entry, at, draft, draft.teacher));
      draft.job.inputs.push_back(job_input(InputRole::kTeacher, teacher));
    } else if (reference.kind == Reference::Kind::kFile) {
      BITRUNG_RETURN_IF_ERROR(add_outside_teacher(reference, options, draft, spec));
    } else {
      has_teacher = false;
    }
    if (has_teacher) {
      spec["distill"] = {{"kind", "kd"},
                         {"temperature", options.real(Option::kDistillTemperature)},
                         {"weight", options.real(Option::kDistillWeight)}};
      return absl::OkStatus();
    }
    for (const Option option : {Option::kDistillTemperature, Option::kDistillWeight}) {
      if (options.layer(option) == Layer::kJob && !may_lack_teacher(entry)) {
        return source_.invalid(
            options.where(option),
            fmt::format(
                "{}: {} is set, but the job has no teacher; say teacher: NAME, or remove distill",
                draft.job.name, info(option).name));
      }
    }
    return absl::OkStatus();
  }

  absl::Status add_init(const Entry& entry, const std::vector<std::size_t>& at,
                        const Options& options, Draft& draft, json& spec) {
    const Reference& reference = options.reference(Option::kInit);
    const Location where = options.where(Option::kInit);
    draft.init = where;
    spec["init"] = "scratch";
    switch (reference.kind) {
      case Reference::Kind::kNone:
        return absl::OkStatus();
      case Reference::Kind::kTeacher:
        return add_init_from_teacher(entry, options, draft, spec);
      case Reference::Kind::kJob: {
        BITRUNG_ASSIGN_OR_RETURN(const std::size_t job, resolve(InputRole::kInit, reference.target,
                                                                entry, at, draft, where));
        draft.job.inputs.push_back(job_input(InputRole::kInit, job));
        spec["init"] = "job";
        return absl::OkStatus();
      }
      case Reference::Kind::kFile: {
        BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                                 outside_file(InputRole::kInit, reference, where));
        BITRUNG_RETURN_IF_ERROR(
            check_file_classes(InputRole::kInit, reference, *file, options, draft, where));
        const std::string_view model = options.word(Option::kModel);
        if (file->trained_as && file->trained_as->model != model) {
          return source_.invalid(
              where,
              fmt::format("{} starts from {}, which holds a {}, but its model is {}; both must be "
                          "the same network",
                          draft.job.name, reference.target, file->trained_as->model, model));
        }
        draft.job.inputs.push_back(file_input(InputRole::kInit, reference, *file));
        spec["init"] = "artifact";
        spec["init_artifact"] = file->sha256.hex();
        return absl::OkStatus();
      }
    }
    BITRUNG_CHECK(!"a kind of reference without an init");
  }

  absl::Status add_init_from_teacher(const Entry& entry, const Options& options, Draft& draft,
                                     json& spec) const {
    const Location where = options.where(Option::kInit);
    if (draft.job.inputs.empty()) {
      if (options.layer(Option::kInit) != Layer::kJob || may_lack_teacher(entry)) {
        return absl::OkStatus();
      }
      return source_.invalid(where,
                             fmt::format("{}: init is teacher, but the job has no teacher; say "
                                         "teacher: NAME, or init: scratch",
                                         draft.job.name));
    }
    const Reference& teacher = options.reference(Option::kTeacher);
    if (entry_by_name_.contains("teacher") &&
        teacher.target.substr(0, teacher.target.find('.')) != "teacher") {
      return source_.invalid(
          where, fmt::format("{}: init is teacher, which could be its own teacher or the "
                             "job of that name; rename the job \"teacher\"",
                             draft.job.name));
    }
    draft.starts_from_teacher = true;
    spec["init"] = "teacher";
    const std::string model(options.word(Option::kModel));
    if (spec.contains("teacher") && spec["teacher"]["model"] != model) {
      return source_.invalid(
          where,
          fmt::format(
              "{} starts from its teacher {}, which is a {}, but its model is {}; both must "
              "be the same network",
              draft.job.name, teacher.target, spec["teacher"]["model"].get<std::string>(), model));
    }
    return absl::OkStatus();
  }

  absl::Status add_outside_teacher(const Reference& reference, const Options& options, Draft& draft,
                                   json& spec) {
    const Location where = draft.teacher;
    BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                             outside_file(InputRole::kTeacher, reference, where));
    BITRUNG_RETURN_IF_ERROR(
        check_file_classes(InputRole::kTeacher, reference, *file, options, draft, where));
    const std::optional<TrainedAs>& known = file->trained_as;
    if (reference.model.empty() && !known) {
      return source_.invalid(
          where,
          fmt::format(
              "teacher {} does not say what network it is; add its model, such as {{artifact: "
              "{}, model: resnet110}}",
              reference.target, reference.target));
    }
    const BitsValue bits = reference.bits ? *reference.bits : known ? known->bits : BitsValue{};
    const Options& defaults = Options::built_in();
    const MethodValue method =
        reference.method ? *reference.method
        : known          ? known->method
                         : MethodValue{std::string(defaults.word(Option::kMethodWeights)),
                              std::string(defaults.word(Option::kMethodActivations))};
    const std::string model = reference.model.empty() ? known->model : reference.model;
    if (known && (model != known->model || bits != known->bits || method != known->method)) {
      return source_.invalid(
          where,
          fmt::format(
              "teacher {} was trained as {} with w{}a{} bits by {}/{}; the options say {} with "
              "w{}a{} bits by {}/{}, remove them",
              reference.target, known->model, known->bits.weights, known->bits.activations,
              known->method.weights, known->method.activations, model, bits.weights,
              bits.activations, method.weights, method.activations));
    }
    spec["teacher"] = {{"artifact", file->sha256.hex()},
                       {"bits", bits_json(bits)},
                       {"method", method_json(method.weights, method.activations)},
                       {"model", model}};
    draft.job.inputs.push_back(file_input(InputRole::kTeacher, reference, *file));
    return absl::OkStatus();
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
                                                  Location where) {
    const auto known = files_.find(reference.target);
    if (known != files_.end()) return &known->second;
    absl::StatusOr<OutsideFile> file = inspect_outside_file(directory_ / reference.target);
    if (!file.ok()) {
      return source_.invalid(
          where, fmt::format("{} artifact {}", option_name(role), message(file.status())));
    }
    return &files_.emplace(reference.target, *std::move(file)).first->second;
  }

  absl::Status check_file_classes(InputRole role, const Reference& reference,
                                  const OutsideFile& file, const Options& options,
                                  const Draft& draft, Location where) const {
    const std::string_view dataset = options.word(Option::kDataset);
    const int classes = dataset_info(dataset).classes;
    if (!file.classes || *file.classes == classes) return absl::OkStatus();
    return source_.invalid(
        where,
        fmt::format(
            "{} artifact {} does not fit {}: its tensor fc.weight has {} rows, one per class, "
            "{} has {} classes",
            option_name(role), reference.target, draft.job.name, *file.classes, dataset, classes));
  }

  // ---- references by name

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
                                      const Entry& student,
                                      const std::vector<std::size_t>& student_at,
                                      const Draft& draft, Location where) {
    const std::string what =
        fmt::format("{} of {} is {}", option_name(role), draft.job.name, in_quotes(target));
    const std::size_t dot = std::min(target.find('.'), target.size());
    const auto found = entry_by_name_.find(std::string_view(target).substr(0, dot));
    if (found == entry_by_name_.end()) return unknown_job(what, target, nullptr, where);
    const Entry& entry = *found->second;

    std::vector<std::optional<std::size_t>> at(entry.axes.size());
    for (std::string_view rest = std::string_view(target).substr(dot); !rest.empty();) {
      if (!take_part(entry, rest, at)) return unknown_job(what, target, &entry, where);
    }
    bool is_ambiguous = false;
    for (std::size_t i = 0; i < at.size(); ++i) {
      if (at[i]) continue;
      const Axis& axis = entry.axes[i];
      const auto own = std::ranges::find(student.axes, axis.option, &Axis::option);
      if (own != student.axes.end()) {
        const AxisValue& value =
            own->values[student_at[static_cast<std::size_t>(own - student.axes.begin())]];
        const AxisIndex& index = index_of(axis);
        const auto same = index.by_canonical.find(value.canonical);
        if (same == index.by_canonical.end()) {
          return source_.invalid(
              where,
              fmt::format("{}, but none of its jobs has {}={}; name one, such as {}", what,
                          axis.key, value.label, in_quotes(entry.job_name(entry.positions(0)))));
        }
        at[i] = same->second;
      } else if (axis.values.size() == 1) {
        at[i] = 0;
      } else {
        is_ambiguous = true;
      }
    }
    if (is_ambiguous) return ambiguous(what, entry, at, where);
    std::vector<std::size_t> exact;
    for (const auto& position : at) exact.push_back(*position);
    return number_of(entry, exact);
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

  absl::Status unknown_job(const std::string& what, const std::string& target, const Entry* entry,
                           Location where) const {
    std::vector<std::string> names;
    if (entry != nullptr) {
      for (std::size_t i = 0; i < std::min(entry->job_count, kNamesComparedMax); ++i) {
        names.push_back(entry->job_name(entry->positions(i)));
      }
    } else {
      for (const Entry& other : document_.entries) {
        names.push_back(other.name);
        if (names.size() == kNamesComparedMax) break;
      }
    }
    const auto meant = nearest(target, names);
    if (meant) {
      return source_.invalid(where, fmt::format("{}; there is no such job, did you mean {}?", what,
                                                in_quotes(*meant)));
    }
    const std::size_t total = entry != nullptr ? entry->job_count : document_.entries.size();
    return source_.invalid(
        where, fmt::format("{}; there is no such job, expected {}", what, some_of(names, total)));
  }

  // "a, b or c", or the first few "and 96 more".
  static std::string some_of(std::vector<std::string> names, std::size_t total) {
    if (total <= kNamesShownMax) return listed(names, "or");
    names.resize(std::min(names.size(), kNamesShownMax));
    return fmt::format("{} or {} more", listed(names, ""), total - names.size());
  }

  absl::Status ambiguous(const std::string& what, const Entry& entry,
                         const std::vector<std::optional<std::size_t>>& at, Location where) const {
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
    return source_.invalid(
        where, fmt::format("{}, which could be {}; name one of them", what, some_of(names, total)));
  }

  // ---- all jobs

  absl::Status check_parents(const Draft& draft) const {
    const Job& job = draft.job;
    for (const Input& input : job.inputs) {
      if (!input.job) continue;
      const Job& parent = drafts_[*input.job].job;
      const Location where = input.role == InputRole::kTeacher ? draft.teacher : draft.init;
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
      const bool is_start = input.role == InputRole::kInit || draft.starts_from_teacher;
      if (is_start && parent.model != job.model) {
        return source_.invalid(
            draft.init,
            fmt::format("{} starts from {}, which is a {}, but its model is {}; both must be the "
                        "same network",
                        job.name, parent.name, parent.model, job.model));
      }
    }
    return absl::OkStatus();
  }

  // `order` has every job that is in no cycle and behind none.
  absl::Status cycle(const std::vector<Job>& jobs, const std::vector<std::size_t>& order) const {
    std::vector<bool> is_left(jobs.size(), true);
    for (const std::size_t job : order) is_left[job] = false;
    // Each job left waits for another one left, so following those ends in the cycle.
    std::vector<bool> is_met(jobs.size(), false);
    auto job = static_cast<std::size_t>(std::ranges::find(is_left, true) - is_left.begin());
    std::vector<std::size_t> path;
    while (!is_met[job]) {
      is_met[job] = true;
      path.push_back(job);
      const auto next = std::ranges::find_if(jobs[job].inputs, [&is_left](const Input& input) {
        return input.job && is_left[*input.job];
      });
      BITRUNG_CHECK(next != jobs[job].inputs.end());
      job = *next->job;
    }
    path.erase(path.begin(), std::ranges::find(path, job));
    std::ranges::reverse(path);
    std::ranges::rotate(path, std::ranges::min_element(path));
    std::string names;
    for (std::size_t i = 0; i < path.size(); ++i) {
      if (i == kCycleNamesShownMax && path.size() > kCycleNamesShownMax) {
        names += fmt::format("… ({} more) -> ", path.size() - i);
        break;
      }
      names += jobs[path[i]].name + " -> ";
    }
    const Draft& first = drafts_[path.front()];
    const bool is_teacher =
        std::ranges::any_of(jobs[path.front()].inputs, [&path](const Input& input) {
          return input.role == InputRole::kTeacher && input.job == path.back();
        });
    return source_.invalid(is_teacher ? first.teacher : first.init,
                           fmt::format("jobs form a cycle: {}{}", names, jobs[path.front()].name));
  }

  // Jobs with equal specs and equal inputs are one job: the first one of the file, which takes the
  // names of the others as aliases and the most demanding of their settings.
  absl::StatusOr<Graph> merge(std::vector<Job> jobs, const std::vector<std::size_t>& order) const {
    std::vector<Digest> identity(jobs.size());
    for (const std::size_t index : order) {
      std::string text = jobs[index].spec_json;
      for (const Input& input : jobs[index].inputs) {
        text += fmt::format("\n{} ", name(input.role));
        text += (input.job ? identity[*input.job] : input.file_sha256.value()).raw();
      }
      identity[index] = sha256(text);
    }
    Graph graph;
    graph.name = document_.name;
    std::unordered_map<Digest, std::size_t, DigestHash> merged_index;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const auto [found, is_new] = merged_index.emplace(identity[i], graph.jobs.size());
      if (is_new) {
        graph.jobs.push_back(std::move(jobs[i]));
        continue;
      }
      Job& kept = graph.jobs[found->second];
      kept.aliases.push_back(jobs[i].name);
      kept.retries = std::max(kept.retries, jobs[i].retries);
      const bool is_unlimited = kept.timeout_seconds == 0 || jobs[i].timeout_seconds == 0;
      kept.timeout_seconds =
          is_unlimited ? 0 : std::max(kept.timeout_seconds, jobs[i].timeout_seconds);
      kept.priority = std::max(kept.priority, jobs[i].priority);
      kept.devices = std::max(kept.devices, jobs[i].devices);
      kept.memory_bytes = std::max(kept.memory_bytes, jobs[i].memory_bytes);
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
  std::vector<Draft> drafts_;
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
