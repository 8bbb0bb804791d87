#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/data/batch.h"
#include "worker/train/data/dataset.h"
#include "worker/train/data/locate.h"
#include "worker/train/data/mapped_file.h"
#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::string& dataset, const std::filesystem::path& folder) {
  try {
    load_cifar(dataset, folder);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
    return failure.what();
  }
  return "accepted";
}

// Sparse files of the right size: label 0 and black everywhere.
void make_empty_cifar(const std::filesystem::path& folder, std::initializer_list<const char*> names,
                      std::uintmax_t bytes) {
  for (const char* const name : names) {
    write_bytes(folder / name, "");
    std::filesystem::resize_file(folder / name, bytes);
  }
}

void make_empty_cifar10(const std::filesystem::path& folder) {
  make_empty_cifar(folder,
                   {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                    "data_batch_5.bin", "test_batch.bin"},
                   10'000 * 3073);
}

void set_byte(const std::filesystem::path& path, std::int64_t offset, char value) {
  std::fstream stream(path, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekp(offset);
  stream.put(value);
}

void refuse_to_log(const std::string& text) {
  ADD_FAILURE() << text;
}

TEST(Locate, OfficialFolder_IsFoundBelowTheDataDirectory) {
  const TemporaryFolder folder;
  make_empty_cifar10(folder.make_folder("cifar-10-batches-bin"));
  const datasets::LocatedDataset located = datasets::locate_dataset("cifar10", folder.path());
  ASSERT_TRUE(located.ok()) << located.error;
  ASSERT_EQ(located.files.size(), 6U);
  EXPECT_EQ(located.files.front().path,
            folder.path() / "cifar-10-batches-bin" / "data_batch_1.bin");
  EXPECT_EQ(located.files.back().path, folder.path() / "cifar-10-batches-bin" / "test_batch.bin");
  EXPECT_EQ(located.files.back().size_bytes, 30'730'000U);
}

TEST(Locate, Faults_NameTheFileTheSizesAndTheRemedy) {
  const TemporaryFolder folder;
  EXPECT_THAT(datasets::locate_dataset("cifar10", "").error,
              HasSubstr("bitrung data fetch cifar10"));
  EXPECT_THAT(datasets::locate_dataset("cifar10", folder.path()).error,
              AllOf(HasSubstr(folder.path().string()), HasSubstr("bitrung data fetch cifar10")));
  EXPECT_THAT(datasets::locate_dataset("mnist", folder.path()).error,
              HasSubstr("mnist is unknown"));
  make_empty_cifar10(folder.path());
  std::filesystem::resize_file(folder.path() / "data_batch_3.bin", 30'729'999);
  EXPECT_THAT(datasets::locate_dataset("cifar10", folder.path()).error,
              AllOf(HasSubstr("data_batch_3.bin has 30729999 bytes, expected 30730000"),
                    HasSubstr("truncated"), HasSubstr("bitrung data fetch cifar10")));
  std::filesystem::remove(folder.path() / "data_batch_3.bin");
  EXPECT_THAT(datasets::locate_dataset("cifar10", folder.path()).error,
              AllOf(HasSubstr("data_batch_3.bin"), HasSubstr("bitrung data fetch cifar10")));
}

TEST(Locate, Synthetic_HasNoFiles) {
  const datasets::LocatedDataset located = datasets::locate_dataset("synthetic", "");
  EXPECT_TRUE(located.ok());
  EXPECT_TRUE(located.files.empty());
}

TEST(Cifar, Cifar10_IsReadInOrder) {
  const TemporaryFolder folder;
  make_empty_cifar10(folder.path());
  set_byte(folder.path() / "data_batch_2.bin", 3073, 7);           // Label of image 10001.
  set_byte(folder.path() / "data_batch_2.bin", 3073 + 1 + 5, 99);  // Its sixth red pixel.
  set_byte(folder.path() / "test_batch.bin", 0, 9);
  const Dataset dataset = load_cifar("cifar10", folder.path());
  EXPECT_EQ(dataset.training.size(), 50'000);
  EXPECT_EQ(dataset.test.size(), 10'000);
  EXPECT_EQ(dataset.training.labels[10'001], 7);
  EXPECT_EQ(dataset.training.image(10'001)[5], 99);
  EXPECT_EQ(dataset.training.image(10'001)[4], 0);
  EXPECT_EQ(dataset.test.labels[0], 9);
}

TEST(Cifar, Cifar100_UsesTheFineLabel) {
  const TemporaryFolder folder;
  make_empty_cifar(folder.path(), {"train.bin"}, 50'000 * 3074);
  make_empty_cifar(folder.path(), {"test.bin"}, 10'000 * 3074);
  set_byte(folder.path() / "train.bin", 0, 19);  // Coarse.
  set_byte(folder.path() / "train.bin", 1, 99);  // Fine.
  const Dataset dataset = load_cifar("cifar100", folder.path());
  EXPECT_EQ(dataset.training.labels[0], 99);
  set_byte(folder.path() / "test.bin", 3074 * 3 + 1, 100);
  EXPECT_THAT(refusal("cifar100", folder.path()),
              HasSubstr("test.bin: record 3 has label 100, expected 0 to 99"));
}

TEST(Cifar, LabelOutOfRange_IsRefused) {
  const TemporaryFolder folder;
  make_empty_cifar10(folder.path());
  set_byte(folder.path() / "data_batch_5.bin", 3073 * 9'999, 10);
  EXPECT_THAT(refusal("cifar10", folder.path()),
              HasSubstr("data_batch_5.bin: record 9999 has label 10, expected 0 to 9"));
}

TEST(DatasetCache, SameData_IsKept) {
  DatasetCache cache;
  Spec spec = tiny_spec();
  const auto first = cache.get(spec, "", refuse_to_log);
  spec.network.bits = bits_of(1);
  EXPECT_EQ(cache.get(spec, "", refuse_to_log), first);
  spec.synthetic->seed = 2;
  EXPECT_NE(cache.get(spec, "", refuse_to_log), first);
}

std::vector<std::uint8_t> pixels_of(const ImageSet& set) {
  std::vector<std::uint8_t> pixels;
  for (const std::uint8_t* image : set.images) {
    pixels.insert(pixels.end(), image, image + kImageBytes);
  }
  return pixels;
}

TEST(DatasetCache, SyntheticOneInAFolder_IsDrawnOnceAndTheSame) {
  const TemporaryFolder folder;
  const Spec spec = tiny_spec();
  DatasetCache drawing(folder.path() / "shared");
  const auto drawn = drawing.get(spec, "", refuse_to_log);
  const Dataset expected = make_synthetic(*spec.synthetic);
  EXPECT_EQ(pixels_of(drawn->training), pixels_of(expected.training));
  EXPECT_EQ(drawn->training.labels, expected.training.labels);
  EXPECT_EQ(pixels_of(drawn->test), pixels_of(expected.test));
  EXPECT_EQ(drawn->test.labels, expected.test.labels);

  // What the other one maps is the file, not a drawing of its own.
  std::filesystem::path file;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "shared")) {
    if (entry.path().extension() == ".images") file = entry.path();
  }
  ASSERT_FALSE(file.empty());
  const std::uint8_t before = drawn->training.image(0)[3];
  set_byte(file, 3, static_cast<char>(before + 1));
  DatasetCache mapping(folder.path() / "shared");
  const auto mapped = mapping.get(spec, "", refuse_to_log);
  EXPECT_EQ(mapped->training.image(0)[3], static_cast<std::uint8_t>(before + 1));
  EXPECT_EQ(drawn->training.image(0)[3], static_cast<std::uint8_t>(before + 1));
}

TEST(DatasetCache, ManySyntheticOnes_LeaveAFewFiles) {
  const TemporaryFolder folder;
  Spec spec = tiny_spec();
  for (std::uint64_t seed = 1; seed <= 9; ++seed) {
    spec.synthetic->seed = seed;
    DatasetCache(folder.path()).get(spec, "", refuse_to_log);
  }
  const auto files = std::distance(std::filesystem::directory_iterator(folder.path()), {});
  EXPECT_EQ(files, 4 + 1);  // And the lock.
}

TEST(DatasetCache, FolderThatCannotBe_CostsMemoryNotTheJob) {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "file", "");
  std::vector<std::string> lines;
  DatasetCache cache(folder.path() / "file" / "folder");
  const auto dataset =
      cache.get(tiny_spec(), "", [&](const std::string& line) { lines.push_back(line); });
  EXPECT_EQ(pixels_of(dataset->training),
            pixels_of(make_synthetic(*tiny_spec().synthetic).training));
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], HasSubstr("the data set is not shared with other trainers"));
}

TEST(MappedFile, OtherSizeAndMissingFile_AreNamed) {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "short", "abc");
  const auto refusal_of = [](const std::filesystem::path& path) -> std::string {
    try {
      const MappedFile file(path, 4);
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal_of(folder.path() / "short"),
              HasSubstr("short: read 3 bytes, expected 4; is the file readable"));
  EXPECT_THAT(refusal_of(folder.path() / "none"), HasSubstr("No such file or directory"));
}

std::uint64_t fnv(const std::vector<std::uint8_t>& bytes) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::uint8_t byte : bytes) {
    hash = (hash ^ byte) * 0x100000001b3U;
  }
  return hash;
}

TEST(Synthetic, SameOptions_GiveTheSameBytesOnEveryMachine) {
  const Dataset dataset = make_synthetic({1, 50, 10});
  const std::vector<std::uint8_t> pixels = pixels_of(dataset.training);
  EXPECT_EQ(fnv(pixels), 9145850070915291572U);
  const Dataset longer = make_synthetic({1, 60, 10});
  EXPECT_TRUE(std::equal(pixels.begin(), pixels.end(), pixels_of(longer.training).begin()));
  EXPECT_EQ(pixels_of(dataset.test), pixels_of(longer.test));
  EXPECT_NE(pixels_of(make_synthetic({2, 50, 10}).training), pixels);
}

TEST(Synthetic, EachClass_OccursAboutEquallyOften) {
  const Dataset dataset = make_synthetic({1, 2000, 10});
  for (int label = 0; label < 10; ++label) {
    const auto count =
        std::count(dataset.training.labels.begin(), dataset.training.labels.end(), label);
    EXPECT_GT(count, 150) << label;
    EXPECT_LT(count, 250) << label;
  }
}

TEST(Split, HeldOutImages_AreTheSameForAllSeedsAndDisjoint) {
  const Split split = split_training_images(1000, 100, 30);
  EXPECT_EQ(split.validation.size(), 30U);
  EXPECT_EQ(split.training.size(), 70U);
  std::set<std::uint32_t> all(split.validation.begin(), split.validation.end());
  all.insert(split.training.begin(), split.training.end());
  EXPECT_EQ(all.size(), 100U);
  EXPECT_EQ(*all.rbegin(), 99U);
  EXPECT_EQ(split_training_images(5000, 100, 30).validation, split.validation);
  EXPECT_GT(split.validation.back(), 60U);  // Spread over the images, not their beginning.
}

TEST(Split, ImpossibleNumbers_AreRefused) {
  EXPECT_THROW(split_training_images(100, 101, 0), Failure);
  EXPECT_THROW(split_training_images(100, 50, 50), Failure);
  EXPECT_EQ(split_training_images(100, 0, 0).training.size(), 100U);
}

TEST(EpochOrder, IsAPermutationOfSeedAndEpochAlone) {
  std::vector<std::uint32_t> indices(500);
  std::iota(indices.begin(), indices.end(), 7U);
  const std::vector<std::uint32_t> order = epoch_order(indices, 20, 3);
  EXPECT_EQ(epoch_order(indices, 20, 3), order);
  EXPECT_NE(epoch_order(indices, 20, 4), order);
  EXPECT_NE(epoch_order(indices, 21, 3), order);
  std::vector<std::uint32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, indices);
}

TEST(Augmentation, IsAFunctionOfSeedEpochAndPosition) {
  std::set<std::pair<int, int>> crops;
  int flips = 0;
  for (std::int64_t position = 0; position < 2000; ++position) {
    const Placement placement = augmentation_at(true, true, 20, 1, position);
    EXPECT_EQ(augmentation_at(true, true, 20, 1, position), placement);
    // Leaving one kind out does not change the other.
    EXPECT_EQ(augmentation_at(true, false, 20, 1, position).dx, placement.dx);
    EXPECT_EQ(augmentation_at(false, true, 20, 1, position), (Placement{4, 4, placement.flip}));
    crops.emplace(placement.dy, placement.dx);
    flips += placement.flip ? 1 : 0;
  }
  EXPECT_EQ(crops.size(), 81U);
  EXPECT_NEAR(flips, 1000, 100);
}

// Pad, cut, mirror and normalise one step after the other.
std::vector<float> augment_slowly(const std::vector<std::uint8_t>& image,
                                  const Placement& placement) {
  const std::array<double, 3> mean = {0.507, 0.487, 0.441};
  const std::array<double, 3> deviation = {0.267, 0.256, 0.276};
  std::vector<float> out(kImageBytes);
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        const int sy = y + placement.dy - 4;
        const int sx = (placement.flip ? 31 - x : x) + placement.dx - 4;
        const bool inside = sy >= 0 && sy < 32 && sx >= 0 && sx < 32;
        const int byte = inside ? image[static_cast<std::size_t>(c * 1024 + sy * 32 + sx)] : 0;
        const auto channel = static_cast<std::size_t>(c);
        out[static_cast<std::size_t>((y * 32 + x) * 3 + c)] =
            static_cast<float>((byte / 255.0 - mean[channel]) / deviation[channel]);
      }
    }
  }
  return out;
}

TEST(WriteImage, EachPlacement_IsPadCutMirrorNormalise) {
  const Dataset dataset = make_synthetic({3, 1, 1});
  for (const Placement& placement : {Placement{}, Placement{0, 0, false}, Placement{8, 8, true},
                                     Placement{2, 7, true}, Placement{7, 1, false}}) {
    std::vector<float> out(kImageBytes);
    write_image(dataset.training.image(0), placement, out.data());
    const std::vector<float> expected = augment_slowly(pixels_of(dataset.training), placement);
    for (std::size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], expected[i], 1e-6) << i;
    }
  }
}

}  // namespace
}  // namespace bitrung::train
