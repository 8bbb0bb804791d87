#include "worker/train/teacher_logits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <utility>

#include "tests/unit/worker/train/test_files.h"

namespace bitrung::train {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kImages = 6;  // Of an epoch, in batches of 2.

class KeptLogits : public ::testing::Test {
 protected:
  LogitsFolder logits_folder(std::uintmax_t bytes_max = LogitsFolder::kBytesMax) {
    return {folder(), [this](const std::string& text) { logs_.push_back(text); }, bytes_max};
  }
  EpochLogits student(const std::string& views,
                      std::uintmax_t bytes_max = LogitsFolder::kBytesMax) {
    return {logits_folder(bytes_max), views, kImages};
  }
  // One batch of two teachers' logits: of three classes and four, of which each says epoch + place.
  std::vector<at::Tensor> batch(EpochLogits& logits, std::int64_t epoch, std::int64_t first) {
    const Distiller::Lesson lesson = logits.of(epoch, first, 2, [&] {
      ++asked_;
      const auto said = static_cast<double>(100 * epoch + first);
      return Distiller::Lesson{{at::full({2, 3}, said), at::full({2, 4}, said + 0.5)}, {}};
    });
    return lesson.logits;
  }
  void epoch(EpochLogits& logits, std::int64_t epoch) {
    for (std::int64_t first = 0; first < kImages; first += 2) {
      const std::vector<at::Tensor> said = batch(logits, epoch, first);
      ASSERT_EQ(said.size(), 2);
      const auto expected = static_cast<double>(100 * epoch + first);
      EXPECT_TRUE(said[0].equal(at::full({2, 3}, expected)));
      EXPECT_TRUE(said[1].equal(at::full({2, 4}, expected + 0.5)));
    }
  }
  int asked() { return std::exchange(asked_, 0); }
  fs::path folder() const { return folder_.path() / "logits"; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder())) {
      files.push_back(entry.path());
    }
    return files;
  }

  TemporaryFolder folder_;
  std::vector<std::string> logs_;

 private:
  int asked_ = 0;
};

TEST_F(KeptLogits, EpochThatAnotherStudentHasSeen_IsNotAskedFor) {
  EpochLogits first = student("views");
  epoch(first, 0);
  epoch(first, 1);
  EXPECT_EQ(asked(), 6);
  EXPECT_THAT(logs_, IsEmpty());

  EpochLogits second = student("views");
  epoch(second, 0);
  epoch(second, 1);
  EXPECT_EQ(asked(), 0);
  EXPECT_THAT(logs_, ElementsAre(HasSubstr("another student of this host has kept")));
  epoch(second, 2);
  EXPECT_EQ(asked(), 3);
  epoch(first, 2);  // And back.
  EXPECT_EQ(asked(), 0);
}

TEST_F(KeptLogits, OtherViews_AreAskedFor) {
  EpochLogits first = student("views");
  epoch(first, 0);
  EpochLogits second = student("other views");
  epoch(second, 0);
  EXPECT_EQ(asked(), 6);
  ASSERT_EQ(files().size(), 2);
  // Not even under its name.
  fs::copy_file(files()[0], files()[1], fs::copy_options::overwrite_existing);
  EpochLogits third = student("views");
  EpochLogits fourth = student("other views");
  epoch(third, 0);
  epoch(fourth, 0);
  EXPECT_EQ(asked(), 3);
}

TEST_F(KeptLogits, EpochThatWasResumedAmid_IsNotKept) {
  EpochLogits resumed = student("views");
  batch(resumed, 0, 2);
  batch(resumed, 0, 4);
  EXPECT_FALSE(fs::exists(folder()));
  epoch(resumed, 1);
  EXPECT_EQ(files().size(), 1);
  EXPECT_EQ(asked(), 5);
  // What is kept serves one that is resumed as well.
  EpochLogits other = student("views");
  batch(other, 1, 4);
  EXPECT_EQ(asked(), 0);
}

TEST_F(KeptLogits, DamagedFile_IsToldAndReplaced) {
  EpochLogits first = student("views");
  epoch(first, 0);
  const std::string bytes = read_bytes(files().front());
  int damages = 0;
  for (const std::size_t at : {bytes.size() - 1, bytes.size() - 20, std::size_t{0}}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_bytes(files().front(), damaged);
    (void)asked();
    EpochLogits next = student("views");
    epoch(next, 0);
    EXPECT_EQ(asked(), 3) << at;
    ASSERT_EQ(logs_.size(), ++damages);
    EXPECT_THAT(logs_.back(), HasSubstr("the teachers are asked again, since their logits in " +
                                        files().front().string()));
    EXPECT_EQ(read_bytes(files().front()), bytes);
  }
  write_bytes(files().front(), bytes.substr(0, bytes.size() / 2));
  EpochLogits last = student("views");
  epoch(last, 0);
  EXPECT_EQ(asked(), 3);
}

TEST_F(KeptLogits, BeyondTheLimit_TheLongestUnusedGo) {
  EpochLogits first = student("views");
  for (const std::int64_t each : {0, 1, 2}) epoch(first, each);
  // Epoch 0 was used last.
  const auto now = fs::file_time_type::clock::now();
  for (const fs::path& path : files()) fs::last_write_time(path, now - std::chrono::hours(1));
  EpochLogits second = student("views");
  epoch(second, 0);
  std::uintmax_t bytes = 0;
  for (const fs::path& path : files()) bytes += fs::file_size(path);

  EpochLogits third = student("other views", bytes);
  epoch(third, 0);
  EXPECT_EQ(files().size(), 3);
  (void)asked();
  EpochLogits fourth = student("views");
  epoch(fourth, 0);
  EXPECT_EQ(asked(), 0);
}

TEST_F(KeptLogits, OfAllImages_AreFoundByIndex) {
  const std::vector<std::uint32_t> indices = {1, 2, 5};
  const ImageLogits logits({at::arange(6).reshape({3, 2})}, indices);
  const std::vector<std::uint32_t> batch = {5, 1};
  const Distiller::Lesson lesson = logits.of(batch);
  ASSERT_EQ(lesson.logits.size(), 1);
  EXPECT_TRUE(lesson.logits[0].equal(at::tensor({4, 5, 0, 1}, at::kLong).reshape({2, 2})));
}

TEST_F(KeptLogits, FolderThatCannotBeWritten_CostsALineOnly) {
  write_bytes(folder(), "a file");
  EpochLogits logits = student("views");
  epoch(logits, 0);
  EXPECT_THAT(logs_, ElementsAre(HasSubstr("could not be kept for other students: ")));
  epoch(logits, 1);
  EXPECT_EQ(asked(), 6);
}

}  // namespace
}  // namespace bitrung::train
