#include "worker/agent/dataset_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "temporary_directory.h"

namespace bitrung::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// cifar10 is the files a and b of a directory, if a is there.
LocatedFiles locate(std::string_view dataset, const std::filesystem::path& directory) {
  if (dataset != "cifar10" || !std::filesystem::exists(directory / "a"))
    return {{}, "not there", true};
  if (!std::filesystem::exists(directory / "b"))
    return {{}, directory.string() + " lacks b", false};
  return {{directory / "a", directory / "b"}, "", false};
}

class DatasetCatalogTest : public testing::Test {
 protected:
  DatasetCatalogTest() {
    std::filesystem::create_directories(one_);
    std::filesystem::create_directories(two_);
  }
  DatasetScan scan() {
    return DatasetCatalog({one_, two_}, directory_.path() / "memory.json", locate).scan();
  }
  void write(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path) << text;
  }

  const DatasetEntry synthetic_{"synthetic", sha256("bitrung synthetic 1"), ""};
  TemporaryDirectory directory_;
  const std::filesystem::path one_ = directory_.path() / "one";
  const std::filesystem::path two_ = directory_.path() / "two";
};

TEST_F(DatasetCatalogTest, NoFiles_LeaveTheSyntheticSet) {
  const DatasetScan found = scan();
  EXPECT_THAT(found.datasets, ElementsAre(synthetic_));
  EXPECT_THAT(found.problems, IsEmpty());
}

TEST_F(DatasetCatalogTest, Digest_IsOverTheFilesInTheirOrder) {
  write(two_ / "a", "first");
  write(two_ / "b", "second");
  EXPECT_THAT(
      scan().datasets,
      ElementsAre(DatasetEntry{"cifar10", sha256("firstsecond"), two_.string()}, synthetic_));
}

TEST_F(DatasetCatalogTest, DamagedSet_IsNamedAndTheNextDirectoryTaken) {
  write(one_ / "a", "first");
  write(two_ / "a", "first");
  write(two_ / "b", "second");
  const DatasetScan found = scan();
  EXPECT_THAT(
      found.datasets,
      ElementsAre(DatasetEntry{"cifar10", sha256("firstsecond"), two_.string()}, synthetic_));
  EXPECT_THAT(found.problems, ElementsAre(one_.string() + " lacks b"));
}

TEST_F(DatasetCatalogTest, UnchangedFiles_AreNotReadAgain) {
  write(one_ / "a", "first");
  write(one_ / "b", "second");
  const Digest digest = sha256("firstsecond");
  EXPECT_EQ(scan().datasets.at(0).sha256, digest);
  // Changes the content behind the catalog's back: same size, inode and time.
  const auto time = std::filesystem::last_write_time(one_ / "b");
  std::fstream(one_ / "b", std::ios::in | std::ios::out) << "SECOND";
  std::filesystem::last_write_time(one_ / "b", time);
  EXPECT_EQ(scan().datasets.at(0).sha256, digest);
}

TEST_F(DatasetCatalogTest, ChangedFile_IsReadAgain) {
  write(one_ / "a", "first");
  write(one_ / "b", "second");
  EXPECT_EQ(scan().datasets.at(0).sha256, sha256("firstsecond"));
  write(one_ / "b", "other!!");
  EXPECT_EQ(scan().datasets.at(0).sha256, sha256("firstother!!"));
}

TEST_F(DatasetCatalogTest, DamagedMemory_IsForgotten) {
  write(one_ / "a", "first");
  write(one_ / "b", "second");
  write(directory_.path() / "memory.json", "{\"not\": [");
  EXPECT_EQ(scan().datasets.at(0).sha256, sha256("firstsecond"));
}

}  // namespace
}  // namespace bitrung::agent
