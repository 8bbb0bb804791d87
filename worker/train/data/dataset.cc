#include "worker/train/data/dataset.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <system_error>

#include "db/base/check.h"
#include "worker/train/data/locate.h"
#include "worker/train/data/mapped_file.h"
#include "worker/train/data/shared_synthetic.h"
#include "worker/train/failure.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;

// Appends the records of one file to the set. label_bytes is 1 (CIFAR-10) or 2 (CIFAR-100: coarse,
// fine; the last one counts).
void append_records(const datasets::DatasetFile& file, std::size_t label_bytes, int classes,
                    ImageSet& set, Dataset& dataset) {
  const auto mapped = std::make_shared<const MappedFile>(file.path, file.size_bytes);
  dataset.memory.push_back(mapped);
  const std::size_t record_bytes = label_bytes + kImageBytes;
  const std::size_t records = mapped->bytes().size() / record_bytes;
  BITRUNG_CHECK(records * record_bytes == mapped->bytes().size());
  for (std::size_t i = 0; i < records; ++i) {
    const std::span<const std::uint8_t> record =
        mapped->bytes().subspan(i * record_bytes, record_bytes);
    const std::uint8_t label = record[label_bytes - 1];
    if (label >= classes) {
      fail_user_error(file.path.string() + ": record " + std::to_string(i) + " has label " +
                      std::to_string(label) + ", expected 0 to " + std::to_string(classes - 1) +
                      "; the file is damaged or another data set");
    }
    set.add(record.data() + label_bytes, label);
  }
}

}  // namespace

Dataset load_cifar(const std::string& dataset, const fs::path& data_dir) {
  const datasets::LocatedDataset located = datasets::locate_dataset(dataset, data_dir);
  if (!located.ok()) {
    fail_user_error(located.error);
  }
  const std::size_t label_bytes = dataset == "cifar100" ? 2 : 1;
  Dataset result;
  for (std::size_t i = 0; i < located.files.size(); ++i) {
    const bool is_test = i + 1 == located.files.size();  // locate_dataset puts the test file last.
    append_records(located.files[i], label_bytes, class_count(dataset),
                   is_test ? result.test : result.training, result);
  }
  return result;
}

Dataset DatasetCache::synthetic(const SyntheticOptions& options,
                                const std::function<void(const std::string&)>& log) const {
  if (cache_dir_.empty()) return make_synthetic(options);
  try {
    return share_synthetic(options, cache_dir_);
  } catch (const std::system_error& error) {
    log(std::string("the data set is not shared with other trainers: ") + error.what());
  } catch (const Failure& failure) {
    log(std::string("the data set is not shared with other trainers: ") + failure.what());
  }
  return make_synthetic(options);
}

std::shared_ptr<const Dataset> DatasetCache::get(
    const Spec& spec, const fs::path& data_dir,
    const std::function<void(const std::string&)>& log) {
  std::string key = spec.dataset;
  if (spec.synthetic) {
    for (const std::uint64_t number :
         {spec.synthetic->seed, static_cast<std::uint64_t>(spec.synthetic->train_images),
          static_cast<std::uint64_t>(spec.synthetic->test_images)}) {
      key += "," + std::to_string(number);
    }
  } else {
    const datasets::LocatedDataset located = datasets::locate_dataset(spec.dataset, data_dir);
    if (!located.ok()) {
      fail_user_error(located.error);
    }
    for (const datasets::DatasetFile& file : located.files) {
      std::error_code unknown_time;  // Then the path and size alone identify the file.
      const auto time = fs::last_write_time(file.path, unknown_time);
      key += "," + file.path.string() + "," + std::to_string(time.time_since_epoch().count());
    }
  }
  if (key != key_) {
    dataset_.reset();  // Frees the old one before the new one is made.
    key_.clear();
    dataset_ = std::make_shared<const Dataset>(spec.synthetic ? synthetic(*spec.synthetic, log)
                                                              : load_cifar(spec.dataset, data_dir));
    key_ = key;
  }
  return dataset_;
}

Split split_training_images(std::int64_t images, std::int64_t limit, std::int64_t validation) {
  if (limit > images) {
    fail_user_error("spec: train_images is " + std::to_string(limit) + ", the data set has " +
                    std::to_string(images) + " training images");
  }
  const std::int64_t used = limit == 0 ? images : limit;
  if (validation >= used) {
    fail_user_error("spec: validation holds out " + std::to_string(validation) + " of " +
                    std::to_string(used) +
                    " training images; at least one must be left to train on");
  }
  std::vector<std::uint32_t> order(static_cast<std::size_t>(used));
  std::iota(order.begin(), order.end(), 0U);
  if (validation > 0) {
    RandomStream random(Purpose::kValidationSplit, {static_cast<std::uint64_t>(used)});
    for (std::size_t i = order.size() - 1; i > 0; --i) {
      std::swap(order[i], order[random.below(static_cast<std::uint32_t>(i + 1))]);
    }
  }
  Split split;
  split.validation.assign(order.begin(), order.begin() + validation);
  split.training.assign(order.begin() + validation, order.end());
  std::sort(split.validation.begin(), split.validation.end());
  std::sort(split.training.begin(), split.training.end());
  return split;
}

}  // namespace bitrung::train
