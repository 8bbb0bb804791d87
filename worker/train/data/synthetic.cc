// Each image shows its class as a faint texture: two crossing gratings (triangle waves) whose
// directions and periods belong to the class, at a random phase and in random colours, beside a
// grating of another class, under noise. A network has to find oriented patterns in noise, so that
// accuracy falls as bits are taken away.
#include <algorithm>
#include <array>

#include "worker/train/data/dataset.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

constexpr int kClasses = 10;

// Phase steps a pixel to the right and down, in 1/65536 of a period.
struct Grating {
  std::int32_t step_x;
  std::int32_t step_y;
};

using ClassTexture = std::array<Grating, 2>;

// Triangle wave of a 16-bit phase: -16384 .. 16384.
std::int32_t triangle(std::uint32_t phase) {
  const auto wrapped = static_cast<std::int32_t>(phase & 0xffffU);
  return (wrapped < 32768 ? wrapped : 65536 - wrapped) - 16384;
}

// Unit vectors at multiples of 18 degrees, times 1024: written out, since the last bit of a
// library's sine may differ from machine to machine.
constexpr std::array<std::array<std::int32_t, 2>, kClasses> kDirections = {{{1024, 0},
                                                                            {974, 316},
                                                                            {828, 602},
                                                                            {602, 828},
                                                                            {316, 974},
                                                                            {0, 1024},
                                                                            {-316, 974},
                                                                            {-602, 828},
                                                                            {-828, 602},
                                                                            {-974, 316}}};

Grating make_grating(std::size_t direction, std::int32_t period_pixels_times_16) {
  const std::int32_t step = 65536 * 16 / period_pixels_times_16;
  return {kDirections[direction][0] * step / 1024, kDirections[direction][1] * step / 1024};
}

std::array<ClassTexture, kClasses> make_textures(std::uint64_t seed) {
  // Which class has which directions is drawn, so that seeds give different data sets.
  std::array<std::size_t, kClasses> order{};
  for (std::size_t i = 0; i < kClasses; ++i) {
    order[i] = i;
  }
  RandomStream random(Purpose::kSyntheticClass, {seed});
  for (std::size_t i = kClasses; i > 1; --i) {
    std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
  }
  std::array<ClassTexture, kClasses> textures{};
  for (std::size_t i = 0; i < kClasses; ++i) {
    textures[i] = {make_grating(order[i], 80), make_grating((order[i] + 3) % kClasses, 112)};
  }
  return textures;
}

// How strongly things show, as an amplitude in grey levels of 255.
constexpr std::uint32_t kTextureMin = 5;
constexpr std::uint32_t kTextureMax = 30;
constexpr std::int32_t kDistractor = 22;
// Amplitude of the noise: it has a triangular distribution, a deviation of 0.41 of this.
constexpr std::int32_t kNoise = 70;

void draw_image(const std::array<ClassTexture, kClasses>& textures, std::size_t label,
                RandomStream& random, std::uint8_t* pixels) {
  // Faint and strong images make accuracy fall slowly with the network's quality instead of all at
  // once.
  const auto texture =
      static_cast<std::int32_t>(kTextureMin + random.below(kTextureMax - kTextureMin + 1));
  const std::size_t other = (label + 1 + random.below(kClasses - 1)) % kClasses;
  struct Layer {
    Grating grating;
    std::uint32_t phase;
    std::array<std::int32_t, kImageChannels> colour;  // In units of 1/256.
  };
  const auto layer = [&random](const Grating& grating, std::int32_t strength) {
    Layer result{grating, static_cast<std::uint32_t>(random.next() >> 48), {}};
    for (std::int32_t& c : result.colour) {
      c = strength * (128 + static_cast<std::int32_t>(random.below(256))) / 256;
    }
    return result;
  };
  const std::array<Layer, 3> layers = {layer(textures[label][0], texture),
                                       layer(textures[label][1], texture),
                                       layer(textures[other][random.below(2)], kDistractor)};
  std::array<std::int32_t, kImageChannels> base{};
  for (std::int32_t& c : base) {
    c = 96 + static_cast<std::int32_t>(random.below(64));
  }
  for (int y = 0; y < kImageSide; ++y) {
    for (int x = 0; x < kImageSide; ++x) {
      std::array<std::int32_t, 3> waves{};
      for (std::size_t i = 0; i < layers.size(); ++i) {
        // Two's complement wraps as a phase should.
        waves[i] =
            triangle(layers[i].phase + static_cast<std::uint32_t>(x * layers[i].grating.step_x +
                                                                  y * layers[i].grating.step_y));
      }
      const std::uint64_t noise_bits = random.next();
      for (std::size_t c = 0; c < kImageChannels; ++c) {
        std::int32_t value = base[c] * 16384;
        for (std::size_t i = 0; i < layers.size(); ++i) {
          value += waves[i] * layers[i].colour[c];
        }
        // Sum of two uniform bytes, minus their mean: a triangular distribution of -255 .. 255.
        const auto noise = static_cast<std::int32_t>((noise_bits >> (16 * c)) & 0xffU) +
                           static_cast<std::int32_t>((noise_bits >> (16 * c + 8)) & 0xffU) - 255;
        value += noise * kNoise * 64;
        pixels[c * kImagePixels + static_cast<std::size_t>(y * kImageSide + x)] =
            static_cast<std::uint8_t>(std::clamp(value / 16384, 0, 255));
      }
    }
  }
}

void draw_set(const SyntheticOptions& options, std::uint64_t part, std::int64_t images,
              const DrawnImage& take) {
  const std::array<ClassTexture, kClasses> textures = make_textures(options.seed);
  std::array<std::uint8_t, kImageBytes> image{};
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(images); ++i) {
    // A stream of its own for each image: the first N images do not depend on how many are made.
    RandomStream random(Purpose::kSyntheticImage, {options.seed, part, i});
    const std::size_t label = random.below(kClasses);
    draw_image(textures, label, random, image.data());
    take(image, static_cast<std::uint8_t>(label));
  }
}

}  // namespace

void draw_synthetic(const SyntheticOptions& options, const DrawnImage& take) {
  draw_set(options, 0, options.train_images, take);
  draw_set(options, 1, options.test_images, take);
}

Dataset make_synthetic(const SyntheticOptions& options) {
  const auto training = static_cast<std::size_t>(options.train_images);
  const auto images = training + static_cast<std::size_t>(options.test_images);
  const auto pixels = std::make_shared<std::vector<std::uint8_t>>(images * kImageBytes);
  Dataset dataset;
  std::uint8_t* place = pixels->data();
  draw_synthetic(options, [&](std::span<const std::uint8_t> image, std::uint8_t label) {
    std::copy(image.begin(), image.end(), place);
    ImageSet& set =
        dataset.training.size() < options.train_images ? dataset.training : dataset.test;
    set.add(place, label);
    place += kImageBytes;
  });
  dataset.memory.push_back(pixels);
  return dataset;
}

}  // namespace bitrung::train
