#include "worker/train/teacher_logits.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "worker/train/checkpoint.h"
#include "worker/train/checksum.h"
#include "worker/train/safetensors.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;

constexpr const char* kViewsKey = "bitrung.views";

std::string tensor_name(std::size_t teacher) {
  return "teacher" + std::to_string(teacher);
}

}  // namespace

LogitsFolder::LogitsFolder(fs::path path, Log log, std::uintmax_t bytes_max)
    : path_(std::move(path)), log_(std::move(log)), bytes_max_(bytes_max) {}

fs::path LogitsFolder::path_of(const std::string& views) const {
  Checksum sum;
  sum.add(views);
  return path_ / (sum.text() + ".safetensors");
}

LogitTables LogitsFolder::read(const std::string& views) {
  const fs::path path = path_of(views);
  std::error_code error;
  if (!fs::exists(path, error)) return {};
  std::string damage;
  try {
    const SafetensorsFile file = read_safetensors(path);
    damage = damage_of(file);
    if (damage.empty()) {
      const auto said = file.metadata.find(kViewsKey);
      if (said == file.metadata.end() || said->second != views) return {};
      LogitTables tables;
      for (std::size_t i = 0; i < file.tensors.size(); ++i) {
        tables.push_back(from_bytes(file.tensors.at(tensor_name(i))));
      }
      fs::last_write_time(path, fs::file_time_type::clock::now(), error);  // Or it ages too fast.
      if (!std::exchange(has_said_, true)) {
        log_("another student of this host has kept what the teachers say to the same images");
      }
      return tables;
    }
  } catch (const SafetensorsError& bad) {
    damage = bad.what();
  }
  log_("the teachers are asked again, since their logits in " + path.string() +
       " cannot be used: " + damage);
  return {};
}

void LogitsFolder::write(const std::string& views, const LogitTables& tables) const {
  SafetensorsFile file;
  std::uintmax_t bytes = 0;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    bytes += tables[i].nbytes();
    file.tensors[tensor_name(i)] = to_bytes(tables[i]);
  }
  file.metadata = {{"bitrung.kind", "teacher-logits"}, {kViewsKey, views}};
  seal(file);
  try {
    fs::create_directories(path_);
    make_room(bytes);
    write_safetensors(path_of(views), file);
  } catch (const std::exception& error) {  // The training does not need them.
    log_(std::string("the teachers' logits could not be kept for other students: ") + error.what());
  }
}

// For so many bytes more.
void LogitsFolder::make_room(std::uintmax_t bytes) const {
  struct File {
    fs::file_time_type used;
    std::uintmax_t bytes;
    fs::path path;
  };
  std::vector<File> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    // Another training may remove it meanwhile.
    std::error_code no_time;
    std::error_code no_size;
    File file{entry.last_write_time(no_time), entry.file_size(no_size), entry.path()};
    if (no_time || no_size) continue;
    bytes += file.bytes;
    files.push_back(std::move(file));
  }
  std::ranges::sort(files, {}, &File::used);
  for (const File& file : files) {
    if (bytes <= bytes_max_) return;
    fs::remove(file.path);
    bytes -= file.bytes;
  }
}

ImageLogits::ImageLogits(LogitTables tables, std::span<const std::uint32_t> indices)
    : tables_(std::move(tables)) {
  std::int64_t row = 0;
  for (const std::uint32_t index : indices) {
    if (index >= rows_.size()) rows_.resize(index + std::size_t{1});
    rows_[index] = row++;
  }
}

Distiller::Lesson ImageLogits::of(std::span<const std::uint32_t> indices) const {
  const at::Tensor rows = at::empty({static_cast<std::int64_t>(indices.size())}, at::kLong);
  std::ranges::transform(indices, rows.data_ptr<std::int64_t>(),
                         [this](std::uint32_t index) { return rows_.at(index); });
  Distiller::Lesson lesson;
  for (const at::Tensor& table : tables_) {
    lesson.logits.push_back(table.index_select(0, rows.to(table.device())));
  }
  return lesson;
}

EpochLogits::EpochLogits(LogitsFolder folder, std::string views, std::int64_t images)
    : folder_(std::move(folder)), views_(std::move(views)), images_(images) {}

Distiller::Lesson EpochLogits::of(std::int64_t epoch, std::int64_t first, std::int64_t count,
                                  const Ask& ask) {
  if (epoch != epoch_) {
    epoch_ = epoch;
    kept_ = folder_.read(views_of(epoch));
    gathered_.clear();
    gathered_images_ = 0;
  }
  if (!kept_.empty()) {
    Distiller::Lesson lesson;
    for (const at::Tensor& table : kept_) {
      lesson.logits.push_back(table.narrow(0, first, count));
    }
    return lesson;
  }
  Distiller::Lesson lesson = ask();
  gather(lesson, first, count);
  return lesson;
}

std::string EpochLogits::views_of(std::int64_t epoch) const {
  return views_ + " epoch " + std::to_string(epoch);
}

// A training that resumed amid an epoch does not see all of it, and gathers nothing.
void EpochLogits::gather(const Distiller::Lesson& lesson, std::int64_t first, std::int64_t count) {
  if (first != gathered_images_) return;
  for (std::size_t i = 0; i < lesson.logits.size(); ++i) {
    const at::Tensor& logits = lesson.logits[i];
    if (gathered_.size() == i) {
      gathered_.push_back(at::empty({images_, logits.size(1)}, logits.options()));
    }
    gathered_[i].narrow(0, first, count).copy_(logits);
  }
  gathered_images_ += count;
  if (gathered_images_ < images_) return;
  folder_.write(views_of(*epoch_), gathered_);
  gathered_.clear();
}

}  // namespace bitrung::train
