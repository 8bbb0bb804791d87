// Image sets as raw bytes in memory, and how to load or make them. The bytes lie in files that are
// mapped, so that all trainers of a host share one copy; a process that has no folder for it draws
// its synthetic data set itself.
//
// No augmentation and no normalisation here (batch.h), no LibTorch. A Dataset never changes after
// it is made, so any number of threads may read it; the cache belongs to the thread that trains.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/train/spec.h"

namespace bitrung::train {

inline constexpr int kImageSide = 32;
inline constexpr int kImageChannels = 3;
inline constexpr std::size_t kImagePixels = std::size_t{kImageSide} * kImageSide;
inline constexpr std::size_t kImageBytes = kImagePixels * kImageChannels;

// n images of 3 x 32 x 32 bytes (planes red, green, blue; rows from the top) with a label each.
struct ImageSet {
  std::vector<const std::uint8_t*> images;  // n, kImageBytes each, in Dataset::memory.
  std::vector<std::uint8_t> labels;         // n

  std::int64_t size() const { return static_cast<std::int64_t>(labels.size()); }
  const std::uint8_t* image(std::int64_t index) const {
    return images[static_cast<std::size_t>(index)];
  }
  void add(const std::uint8_t* image, std::uint8_t label) {
    images.push_back(image);
    labels.push_back(label);
  }
};

struct Dataset {
  ImageSet training;
  ImageSet test;
  std::vector<std::shared_ptr<const void>> memory;  // Where the images lie.
};

// Reads the binary version of CIFAR-10 or CIFAR-100 from data_dir. Throws Failure(kUserError) for
// missing, truncated or inconsistent files, naming the file and what to do.
Dataset load_cifar(const std::string& dataset, const std::filesystem::path& data_dir);

// The procedural data set: 32 x 32 colour images of 10 classes, a pure function of the options,
// made with integer arithmetic only so that every machine makes the same bytes. See synthetic.cc
// for what the images show.
Dataset make_synthetic(const SyntheticOptions& options);

// An image of kImageBytes, valid during the call, and its label.
using DrawnImage = std::function<void(std::span<const std::uint8_t> image, std::uint8_t label)>;
// The same images one after the other, first those for training.
void draw_synthetic(const SyntheticOptions& options, const DrawnImage& take);

// Keeps the data set of the last job, since the next job of a sweep nearly always wants the same
// one.
class DatasetCache {
 public:
  // cache_dir: where trainers of the host share files, as synthetic data sets; empty for none.
  explicit DatasetCache(std::filesystem::path cache_dir = {}) : cache_dir_(std::move(cache_dir)) {}

  // The data set that the spec names. Maps the files again if their modification time has changed.
  // `log` is told why a synthetic one could not be shared.
  std::shared_ptr<const Dataset> get(const Spec& spec, const std::filesystem::path& data_dir,
                                     const std::function<void(const std::string&)>& log);

  const std::filesystem::path& cache_dir() const { return cache_dir_; }

 private:
  Dataset synthetic(const SyntheticOptions& options,
                    const std::function<void(const std::string&)>& log) const;

  const std::filesystem::path cache_dir_;
  std::string key_;
  std::shared_ptr<const Dataset> dataset_;
};

// Which training images are trained on and which are held out to choose the best epoch.
struct Split {
  std::vector<std::uint32_t> training;    // Ascending indices into Dataset::training.
  std::vector<std::uint32_t> validation;  // Ascending, disjoint from `training`.
};

// Takes the first `limit` images (0: all) and holds `validation` of them out. A function of these
// numbers alone, so that all seeds are compared on the same images. Throws Failure(kUserError) if
// nothing would be left to train on or there are fewer images than `limit`.
Split split_training_images(std::int64_t images, std::int64_t limit, std::int64_t validation);

}  // namespace bitrung::train
