// What teachers have said to images before, so that they are not asked again. Logits only: a
// student that compares features needs the teachers' passes themselves.
//
// Everything here belongs to the thread that trains. A logit's last bits may depend on the other
// images of its batch (LibTorch's matrix products do on some CPUs), so logits are kept only of
// batches that are the same in every attempt and every training that uses them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/train/distill.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

using Log = std::function<void(const std::string&)>;

// The logits of each teacher, (images,classes).
using LogitTables = std::vector<at::Tensor>;

// A folder of tables that the trainings of a host leave for each other.
class LogitsFolder {
 public:
  static constexpr std::uintmax_t kBytesMax = std::uintmax_t{4} << 30;

  // path: is made when it is needed. `log` hears of files that cannot be used or written.
  // bytes_max: of all files together; beyond them those that were longest unused are removed.
  LogitsFolder(std::filesystem::path path, Log log, std::uintmax_t bytes_max = kBytesMax);

  // views: everything that decides the logits. Nothing if no training has left these.
  LogitTables read(const std::string& views);
  void write(const std::string& views, const LogitTables& tables) const;

 private:
  std::filesystem::path path_of(const std::string& views) const;
  void make_room(std::uintmax_t bytes) const;

  const std::filesystem::path path_;
  const Log log_;
  const std::uintmax_t bytes_max_;
  bool has_said_ = false;
};

// For images that are the same in each epoch: all of them.
class ImageLogits {
 public:
  // tables: of the training images with these indices, in this order.
  ImageLogits(LogitTables tables, std::span<const std::uint32_t> indices);

  Distiller::Lesson of(std::span<const std::uint32_t> indices) const;

 private:
  LogitTables tables_;
  std::vector<std::int64_t> rows_;  // By index.
};

// For images that are augmented anew in each epoch, alike for all students of one seed: by their
// place in an epoch. An epoch is left in the folder once it is through.
class EpochLogits {
 public:
  // Asks the teachers about the batch at hand.
  using Ask = std::function<Distiller::Lesson()>;

  // views: everything that decides the logits but the epoch. images: of an epoch, those that its
  // last incomplete batch leaves out not counted.
  EpochLogits(LogitsFolder folder, std::string views, std::int64_t images);

  // The lesson for the `count` images from place `first` of the epoch on.
  Distiller::Lesson of(std::int64_t epoch, std::int64_t first, std::int64_t count, const Ask& ask);

 private:
  std::string views_of(std::int64_t epoch) const;
  void gather(const Distiller::Lesson& lesson, std::int64_t first, std::int64_t count);

  LogitsFolder folder_;
  const std::string views_;
  const std::int64_t images_;

  std::optional<std::int64_t> epoch_;
  LogitTables kept_;      // All of the epoch at hand, if the folder had it.
  LogitTables gathered_;  // Else its first gathered_images_.
  std::int64_t gathered_images_ = 0;
};

}  // namespace bitrung::train
