#include "client/experiment/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "client/experiment/network.h"
#include "client/experiment/outside_file.h"
#include "client/experiment/quantization.h"
#include "client/experiment/spec_text.h"
#include "client/experiment/text.h"
#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::client {
namespace {

// What the server takes (SubmitExperiment, "Limits").
constexpr std::size_t kChildrenMax = 10'000;
constexpr std::size_t kNamesShownMax = 4;
constexpr std::size_t kCycleNamesShownMax = 12;
// Of one entry, when a mistyped name is compared with the names of its jobs.
constexpr std::size_t kNamesComparedMax = 2000;

std::string_view option_name(InputRole role) {
  return name(role);
}

// Options of a job that trains nothing: those of its kind, of the data set and of how it is run.
constexpr std::array kSharedOptions = {Option::kDataset,
                                       Option::kSyntheticTrainImages,
                                       Option::kSyntheticTestImages,
                                       Option::kSyntheticSeed,
                                       Option::kTrainImages,
                                       Option::kValidation,
                                       Option::kSeed,
                                       Option::kQuantize,
                                       Option::kEvaluate,
                                       Option::kRetries,
                                       Option::kTimeout,
                                       Option::kPriority,
                                       Option::kDevices,
                                       Option::kMemory};

bool is_used_by(JobKind kind, const OptionInfo& row) {
  switch (kind) {
    case JobKind::kTrain:
      return row.group() != "calibration";
    case JobKind::kQuantize:
      return std::ranges::find(kSharedOptions, row.option) != kSharedOptions.end() ||
             row.group() == "calibration" || row.group() == "bits" || row.group() == "method";
    case JobKind::kEvaluate:
      return std::ranges::find(kSharedOptions, row.option) != kSharedOptions.end();
  }
  check_failed("a kind of job without options", __FILE__, __LINE__);
}

// Finds a value of an axis without walking it, since both the axis and its users may be many.
struct AxisIndex {
  std::unordered_map<std::string_view, std::size_t> by_label;
  std::unordered_map<std::string_view, std::size_t> by_canonical;
};

// Where a job's inputs are named, for messages after all jobs are there.
struct Places {
  Location teacher;  // For a rung where the rungs are.
  Location init;
  Location source;
  bool starts_from_teacher = false;

  Location of(InputRole role) const {
    switch (role) {
      case InputRole::kTeacher:
        return teacher;
      case InputRole::kInit:
        return init;
      case InputRole::kSource:
        return source;
    }
    check_failed("an input role without a place", __FILE__, __LINE__);
  }
};

// A job whose network is that of its source; finished when all jobs are there.
struct Borrower {
  const Entry* entry;
  Options options;
  std::optional<TrainedAs> outside;  // Of a source file.
};

// A job in the making.
struct Draft {
  const Entry& entry;
  const std::vector<std::size_t> at;  // Which value of each axis it has.
  const Options& options;
  Job job;
  Places places;
  SpecInputs spec;
  std::optional<TrainedAs> first_outside;  // The first teacher, if that is a file.
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
    const std::vector<std::size_t> order = parents_first(jobs_);
    if (order.size() < jobs_.size()) return cycle(order);
    for (const std::size_t job : order) {
      if (borrowers_.contains(job)) BITRUNG_RETURN_IF_ERROR(finish_borrower(job));
    }
    for (std::size_t i = 0; i < jobs_.size(); ++i) BITRUNG_RETURN_IF_ERROR(check_parents(i));
    return merge(order);
  }

 private:
  absl::Status add_job(const Entry& entry, std::size_t number) {
    std::vector<std::size_t> at = entry.positions(number);
    Options options = entry.base;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const Axis& axis = entry.axes[i];
      BITRUNG_RETURN_IF_ERROR(
          options.apply(axis.sets, *axis.values[at[i]].node, axis.layer, axis.place, source_));
    }
    Draft draft{.entry = entry,
                .at = std::move(at),
                .options = options,
                .job = {},
                .places = {},
                .spec = {},
                .first_outside = {}};
    Job& job = draft.job;
    job.name = entry.job_name(draft.at);
    BITRUNG_ASSIGN_OR_RETURN(job.kind, kind_of(draft));
    BITRUNG_RETURN_IF_ERROR(check_used(draft));
    BITRUNG_RETURN_IF_ERROR(check_images(draft));
    job.retries = static_cast<std::uint32_t>(options.integer(Option::kRetries));
    job.timeout_seconds = options.real(Option::kTimeout);
    job.priority = static_cast<std::int32_t>(options.integer(Option::kPriority));
    job.devices = static_cast<std::uint32_t>(options.integer(Option::kDevices));
    job.memory_bytes = static_cast<std::uint64_t>(options.integer(Option::kMemory));
    job.dataset = options.word(Option::kDataset);
    job.seed = static_cast<std::uint64_t>(options.integer(Option::kSeed));
    BITRUNG_RETURN_IF_ERROR(job.kind == JobKind::kTrain ? add_training(draft)
                                                        : add_borrower(draft));
    jobs_.push_back(std::move(job));
    places_.push_back(draft.places);
    return absl::OkStatus();
  }

  absl::Status add_training(Draft& draft) {
    const Options& options = draft.options;
    Job& job = draft.job;
    BITRUNG_RETURN_IF_ERROR(check_training(draft));
    job.model = options.word(Option::kModel);
    BITRUNG_ASSIGN_OR_RETURN(
        const Quantization quantization,
        resolve_quantization(options, job.model, options.method(), place(draft), source_));
    job.shortcut = quantization.shortcut;
    BITRUNG_RETURN_IF_ERROR(add_teachers(draft));
    BITRUNG_RETURN_IF_ERROR(add_init(draft));
    job.spec_json =
        train_spec(options, quantization.bits, quantization.method, job.shortcut, draft.spec);
    job.epochs = static_cast<int>(options.integer(Option::kEpochs));
    set_headline(job, quantization.bits, quantization.method);
    return absl::OkStatus();
  }

  static void set_headline(Job& job, const BitsValue& bits, const MethodValue& method) {
    job.method = method_name(method.weights, method.activations);
    job.weight_bits = bits.weights;
    job.activation_bits = bits.activations;
  }

  static JobPlace place(const Draft& draft) {
    return {.name = draft.job.name, .where = draft.entry.where};
  }

  absl::StatusOr<JobKind> kind_of(const Draft& draft) const {
    const Options& options = draft.options;
    const auto is_set = [&options](Option option) {
      return options.reference(option).kind != Reference::Kind::kNone;
    };
    if (is_set(Option::kQuantize) && is_set(Option::kEvaluate)) {
      return source_.invalid(options.where(Option::kEvaluate),
                             fmt::format("{}: quantize and evaluate are both set; a quantized "
                                         "network is evaluated anyway, so remove evaluate, or make "
                                         "it a job of its own",
                                         draft.job.name));
    }
    if (is_set(Option::kQuantize)) return JobKind::kQuantize;
    return is_set(Option::kEvaluate) ? JobKind::kEvaluate : JobKind::kTrain;
  }

  // What the entry itself sets must be of use to the job; defaults are for those that use them.
  absl::Status check_used(const Draft& draft) const {
    const Options& options = draft.options;
    for (const OptionInfo& row : option_table()) {
      if (options.layer(row.option) != Layer::kJob || is_used_by(draft.job.kind, row)) continue;
      std::string_view why = "it is only for jobs with quantize";
      if (draft.job.kind == JobKind::kQuantize) {
        why = row.option == Option::kModel || row.option == Option::kShortcut
                  ? "a quantized network is that of its source"
                  : "a job with quantize trains nothing";
      } else if (draft.job.kind == JobKind::kEvaluate) {
        why = "a job with evaluate takes the network as it is";
      }
      return source_.invalid(
          options.where(row.option),
          fmt::format("{}: {} is set, but {}; remove it", draft.job.name, row.name, why));
    }
    return absl::OkStatus();
  }

  absl::Status add_borrower(Draft& draft) {
    const Option option =
        draft.job.kind == JobKind::kQuantize ? Option::kQuantize : Option::kEvaluate;
    const Reference& reference = draft.options.reference(option);
    draft.places.source = draft.options.where(option);
    Borrower borrower{.entry = &draft.entry, .options = draft.options, .outside = std::nullopt};
    if (reference.kind == Reference::Kind::kFile) {
      BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                               outside_file(InputRole::kSource, reference, draft));
      BITRUNG_ASSIGN_OR_RETURN(borrower.outside,
                               trained_as(InputRole::kSource, reference, *file, draft));
      draft.job.inputs.push_back(file_input(InputRole::kSource, reference, *file));
    } else {
      BITRUNG_ASSIGN_OR_RETURN(const std::size_t job,
                               resolve(InputRole::kSource, reference.target, draft));
      draft.job.inputs.push_back({.role = InputRole::kSource, .jobs = {job}});
    }
    borrowers_.emplace(jobs_.size(), std::move(borrower));
    return absl::OkStatus();
  }

  // Its source has been finished before.
  absl::Status finish_borrower(std::size_t index) {
    Job& job = jobs_[index];
    const Borrower& borrower = borrowers_.at(index);
    const Location where = places_[index].source;
    TrainedAs network;
    if (borrower.outside) {
      network = *borrower.outside;
    } else {
      const Job& from = jobs_[job.inputs.front().jobs.front()];
      if (from.kind == JobKind::kEvaluate ||
          (from.kind == JobKind::kQuantize && job.kind == JobKind::kQuantize)) {
        return source_.invalid(
            where, fmt::format("{} of {} is {}, which trains nothing; name a job that does",
                               kind_word(job.kind), job.name, from.name));
      }
      std::optional<TrainedAs> known = parse_trained_as(from.spec_json);
      BITRUNG_CHECK(known.has_value());
      network = *std::move(known);
    }
    job.model = network.model;
    job.shortcut = network.shortcut;
    if (job.kind == JobKind::kQuantize) {
      BITRUNG_ASSIGN_OR_RETURN(const MethodValue method,
                               quantize_method(borrower.options, job.name));
      BITRUNG_ASSIGN_OR_RETURN(
          Quantization own,
          resolve_quantization(borrower.options, network.model, method,
                               {.name = job.name, .where = borrower.entry->where}, source_));
      network.bits = std::move(own.bits);
      network.method = std::move(own.method);
      job.spec_json = quantize_spec(borrower.options, network);
    } else {
      job.spec_json = evaluate_spec(borrower.options, network);
    }
    set_headline(job, network.bits, network.method);
    return absl::OkStatus();
  }

  static std::string_view kind_word(JobKind kind) {
    return kind == JobKind::kQuantize ? "quantize" : "evaluate";
  }

  // Trained networks are quantized by one family; what defaults say of methods is for trainings.
  absl::StatusOr<MethodValue> quantize_method(const Options& options, std::string_view name) const {
    constexpr std::string_view kMethod = "linear";
    MethodValue method = options.method();
    for (const auto& [option, word] :
         {std::pair(Option::kMethodWeights, &method.weights),
          std::pair(Option::kMethodActivations, &method.activations)}) {
      if (options.layer(option) == Layer::kJob && *word != kMethod) {
        return source_.invalid(options.where(option),
                               fmt::format("{}: {} is {}, which needs a training; quantize takes "
                                           "{} only",
                                           name, info(option).name, *word, kMethod));
      }
      *word = kMethod;
    }
    return method;
  }

  // Rules that involve more than one option.
  absl::Status check_images(const Draft& draft) const {
    using enum Option;
    const Options& options = draft.options;
    const std::string& name = draft.job.name;
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
          place_of(options, place(draft), {kTrainImages, all_of_them}),
          fmt::format("{}: train_images is {}; {} has {} training images, expected at "
                      "most so many or 0 for all",
                      name, first, dataset, count(all)));
    }
    const std::int64_t images = first > 0 ? first : all;
    const std::int64_t held_out = options.integer(kValidation);
    if (held_out >= images) {
      return source_.invalid(
          place_of(options, place(draft), {kValidation, kTrainImages, all_of_them}),
          fmt::format(
              "{}: validation is {}; expected fewer than the {} training images, from which "
              "they are taken, or 0",
              name, held_out, count(images)));
    }
    const bool is_training = draft.job.kind == JobKind::kTrain;
    const Option batch_of = is_training ? kBatchSize : kCalibrationBatchSize;
    const std::int64_t batch = draft.job.kind == JobKind::kEvaluate ? 0 : options.integer(batch_of);
    if (batch > images - held_out) {
      return source_.invalid(
          place_of(options, place(draft), {batch_of, kTrainImages, all_of_them, kValidation}),
          fmt::format("{}: {} is {}; expected at most the {} images that are left to train on "
                      "({} less {} for validation)",
                      name, info(batch_of).name, batch, count(images - held_out), count(images),
                      count(held_out)));
    }
    return absl::OkStatus();
  }

  absl::Status check_training(const Draft& draft) const {
    using enum Option;
    const Options& options = draft.options;
    if (options.integer(kNesterov) != 0 && options.real(kMomentum) == 0) {
      return source_.invalid(
          place_of(options, place(draft), {kNesterov}),
          fmt::format(
              "{}: optimizer.nesterov is true, but optimizer.momentum is 0; raise the momentum "
              "or say nesterov: false",
              draft.job.name));
    }
    if (draft.entry.search && options.integer(kValidation) == 0) {
      return source_.invalid(
          place_of(options, place(draft), {kValidation}),
          fmt::format("{}: search: best-path chooses teachers by their validation accuracy, but "
                      "validation is 0; hold out training images, such as validation: 5000 (the "
                      "test set never chooses)",
                      draft.job.name));
    }
    return check_distillation(draft);
  }

  absl::Status check_distillation(const Draft& draft) const {
    using enum Option;
    const Options& options = draft.options;
    const double temperature = options.real(kDistillTemperature);
    const double weight = options.real(kDistillWeight);
    if (options.layer(kDistillSchedule) == Layer::kJob &&
        options.word(kDistillSchedule) == "constant" &&
        (options.end(kDistillTemperatureEnd, temperature) != temperature ||
         options.end(kDistillWeightEnd, weight) != weight)) {
      return source_.invalid(
          options.where(kDistillSchedule),
          fmt::format("{}: distill.schedule is constant, but temperature or weight has another "
                      "value at the end; remove temperature_end and weight_end, or say linear or "
                      "cosine",
                      draft.job.name));
    }
    for (const Option option : {kDistillAlpha, kDistillBeta}) {
      if (options.layer(option) == Layer::kJob && options.word(kDistillKind) != "dkd") {
        return source_.invalid(
            options.where(option),
            fmt::format("{}: {} is set, but distill.kind is {}; remove it, or say kind: dkd",
                        draft.job.name, info(option).name, options.word(kDistillKind)));
      }
    }
    return absl::OkStatus();
  }

  // In an entry that has jobs both with and without a teacher, what only taught jobs use is no
  // mistake in the others.
  static bool may_lack_teacher(const Entry& entry) {
    return entry.rungs || std::ranges::any_of(entry.axes, [](const Axis& axis) {
             return axis.option == "teacher";
           });
  }

  absl::Status add_teachers(Draft& draft) {
    const Entry& entry = draft.entry;
    draft.places.teacher = draft.options.where(Option::kTeacher);
    if (entry.rungs) {
      const Axis& rungs = entry.axes[*entry.rungs];
      const std::vector<std::size_t>& above = rungs.values[draft.at[*entry.rungs]].teachers;
      if (!above.empty()) {
        Input input{.role = InputRole::kTeacher};
        std::vector<std::size_t> at = draft.at;
        for (const std::size_t value : above) {
          at[*entry.rungs] = value;
          input.jobs.push_back(number_of(entry, at));
        }
        draft.places.teacher = rungs.where;
        draft.spec.has_teacher = true;
        draft.job.inputs.push_back(std::move(input));
        return absl::OkStatus();
      }
    }
    for (const Reference& reference : draft.options.references(Option::kTeacher)) {
      BITRUNG_RETURN_IF_ERROR(add_teacher(draft, reference));
    }
    draft.spec.has_teacher = !draft.job.inputs.empty();
    if (draft.spec.has_teacher || may_lack_teacher(entry)) return absl::OkStatus();
    for (const OptionInfo& row : option_table()) {
      if (row.group() == "distill" && draft.options.layer(row.option) == Layer::kJob) {
        return source_.invalid(
            draft.options.where(row.option),
            fmt::format(
                "{}: {} is set, but the job has no teacher; say teacher: NAME, or remove distill",
                draft.job.name, row.name));
      }
    }
    return absl::OkStatus();
  }

  absl::Status add_teacher(Draft& draft, const Reference& reference) {
    if (reference.kind == Reference::Kind::kNone) return absl::OkStatus();
    if (reference.kind == Reference::Kind::kFile) return add_outside_teacher(draft, reference);
    BITRUNG_ASSIGN_OR_RETURN(const std::size_t teacher,
                             resolve(InputRole::kTeacher, reference.target, draft));
    for (const Input& input : draft.job.inputs) {
      if (input.jobs == std::vector{teacher}) {
        return refused(InputRole::kTeacher, reference.target, draft,
                       "which is named twice; remove one");
      }
    }
    draft.job.inputs.push_back({.role = InputRole::kTeacher, .jobs = {teacher}});
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
        draft.job.inputs.push_back({.role = InputRole::kInit, .jobs = {job}});
        draft.spec.init = "job";
        return absl::OkStatus();
      }
      case Reference::Kind::kFile: {
        BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                                 outside_file(InputRole::kInit, reference, draft));
        if (file->trained_as) {
          BITRUNG_RETURN_IF_ERROR(check_same_network(draft.job, where, reference.target,
                                                     file->trained_as->model,
                                                     file->trained_as->shortcut));
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
    if (!draft.first_outside) return absl::OkStatus();
    return check_same_network(draft.job, where, teacher, draft.first_outside->model,
                              draft.first_outside->shortcut);
  }

  // That the job can start from the weights of `origin`.
  absl::Status check_same_network(const Job& job, Location where, std::string_view origin,
                                  std::string_view model, std::string_view shortcut) const {
    if (model != job.model) {
      return source_.invalid(
          where, fmt::format("{} starts from {}, which is a {}, but its model is {}; both "
                             "must be the same network",
                             job.name, origin, model, job.model));
    }
    if (shortcut != job.shortcut) {
      return source_.invalid(
          where, fmt::format("{} starts from {}, which has shortcut: {}, but its own is {}; say "
                             "shortcut: convolution for both",
                             job.name, origin, shortcut, job.shortcut));
    }
    return absl::OkStatus();
  }

  absl::Status add_outside_teacher(Draft& draft, const Reference& reference) {
    BITRUNG_ASSIGN_OR_RETURN(const OutsideFile* file,
                             outside_file(InputRole::kTeacher, reference, draft));
    BITRUNG_ASSIGN_OR_RETURN(const TrainedAs teacher,
                             trained_as(InputRole::kTeacher, reference, *file, draft));
    if (draft.job.inputs.empty()) draft.first_outside = teacher;
    draft.spec.teacher_json.push_back(teacher_json(file->sha256.hex(), teacher));
    draft.job.inputs.push_back(file_input(InputRole::kTeacher, reference, *file));
    return absl::OkStatus();
  }

  // What network the file holds, by its metadata and by what the option says.
  absl::StatusOr<TrainedAs> trained_as(InputRole role, const Reference& reference,
                                       const OutsideFile& file, const Draft& draft) const {
    const Location where = draft.places.of(role);
    const std::optional<TrainedAs>& known = file.trained_as;
    if (reference.model.empty() && !known) {
      return source_.invalid(
          where, fmt::format("{} artifact {} does not say what network it is; add its model, "
                             "such as {{artifact: {}, model: resnet110}}",
                             option_name(role), reference.target, reference.target));
    }
    TrainedAs used;
    if (known) {
      used = *known;
    } else {
      used.method = Options::built_in().method();
    }
    if (!reference.model.empty()) used.model = reference.model;
    if (!reference.shortcut.empty()) used.shortcut = reference.shortcut;
    if (reference.bits) used.bits = *reference.bits;
    if (reference.method) used.method = *reference.method;
    if (known && teacher_json("", used) != teacher_json("", *known)) {
      return source_.invalid(
          where,
          fmt::format("{} artifact {} was trained as {}, the options say {}; remove the "
                      "options that differ, or name another file",
                      option_name(role), reference.target, described(*known), described(used)));
    }
    return used;
  }

  static std::string described(const TrainedAs& trained) {
    return fmt::format("{} with w{}a{} bits by {}/{}", trained.model, trained.bits.weights,
                       trained.bits.activations, trained.method.weights,
                       trained.method.activations);
  }

  Input file_input(InputRole role, const Reference& reference, const OutsideFile& file) const {
    return {.role = role,
            .jobs = {},
            .file = directory_ / reference.target,
            .file_sha256 = file.sha256};
  }

  // Each file is read once, however many jobs use it.
  absl::StatusOr<const OutsideFile*> outside_file(InputRole role, const Reference& reference,
                                                  const Draft& draft) {
    const Location where = draft.places.of(role);
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
    const std::string_view option =
        role == InputRole::kSource ? kind_word(draft.job.kind) : option_name(role);
    return source_.invalid(
        draft.places.of(role),
        fmt::format("{} of {} is {}, {}", option, draft.job.name, in_quotes(target), why));
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
    bool is_start = places.starts_from_teacher;
    for (const Input& input : job.inputs) {
      is_start = is_start || input.role == InputRole::kInit;
      for (const std::size_t parent : input.jobs) {
        BITRUNG_RETURN_IF_ERROR(check_parent(job, jobs_[parent], input.role, is_start, places));
      }
      is_start = false;  // With several teachers the weights of the first are the start.
    }
    return absl::OkStatus();
  }

  absl::Status check_parent(const Job& job, const Job& parent, InputRole role, bool is_start,
                            const Places& places) const {
    const DatasetInfo own = dataset_info(job.dataset);
    const DatasetInfo other = dataset_info(parent.dataset);
    if (own.classes != other.classes || own.image_size != other.image_size) {
      return source_.invalid(
          places.of(role),
          fmt::format("{} {} learns {} with {} classes of {}x{} images, but {} {} {} "
                      "with {} classes of {}x{}; both must have the same",
                      option_name(role), parent.name, parent.dataset, other.classes,
                      other.image_size, other.image_size, job.name,
                      job.kind == JobKind::kTrain ? "learns" : "takes", job.dataset, own.classes,
                      own.image_size, own.image_size));
    }
    if (role != InputRole::kSource && parent.kind == JobKind::kEvaluate) {
      return source_.invalid(places.of(role),
                             fmt::format("{} of {} is {}, which only evaluates a network; name the "
                                         "job that trains it",
                                         option_name(role), job.name, parent.name));
    }
    if (!is_start) return absl::OkStatus();
    return check_same_network(job, places.init, parent.name, parent.model, parent.shortcut);
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
      std::optional<std::size_t> next;
      for (const Input& input : jobs_[job].inputs) {
        for (const std::size_t parent : input.jobs) {
          if (!next && is_left[parent]) next = parent;
        }
      }
      BITRUNG_CHECK(next.has_value());
      job = *next;
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
    InputRole role = InputRole::kInit;
    for (const Input& input : jobs_[path.front()].inputs) {
      if (std::ranges::find(input.jobs, path.back()) == input.jobs.end()) continue;
      role = input.role;
      break;
    }
    return source_.invalid(first.of(role),
                           fmt::format("jobs form a cycle: {}{}", names, jobs_[path.front()].name));
  }

  // Jobs with equal specs and equal inputs are one job: the first one of the file, which takes the
  // names of the others as aliases and the most demanding of their settings.
  absl::StatusOr<Graph> merge(const std::vector<std::size_t>& order) {
    std::vector<Digest> identity(jobs_.size());
    for (const std::size_t index : order) {
      std::string text = jobs_[index].spec_json;
      for (Input& input : jobs_[index].inputs) {
        text += fmt::format("\n{} ", name(input.role));
        if (input.file_sha256) text += input.file_sha256->raw();
        // Equal work is the same candidate.
        std::unordered_set<Digest, DigestHash> met;
        std::erase_if(input.jobs,
                      [&](std::size_t parent) { return !met.insert(identity[parent]).second; });
        for (const std::size_t parent : input.jobs) text += identity[parent].raw();
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
        for (std::size_t& parent : input.jobs) {
          parent = merged_index.at(identity[parent]);
          if (++children[parent] > kChildrenMax) {
            return source_.exhausted(
                {}, fmt::format("more than {} jobs take something from {}; split the experiment",
                                with_separators(kChildrenMax), graph.jobs[parent].name));
          }
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
  std::unordered_map<std::size_t, Borrower> borrowers_;  // By job.
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
      for (const std::size_t parent : input.jobs) {
        children[parent].push_back(i);
        ++waits_for[i];
      }
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
