#include "client/experiment/outside_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "client/experiment/text.h"
#include "db/base/files.h"
#include "db/base/status.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

using nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
// resnet110 has some 700 tensors of about 100 bytes each in its header.
constexpr std::uint64_t kHeaderBytesMax = 16 << 20;
constexpr std::size_t kReadBytes = 1 << 20;

absl::Status invalid(const std::filesystem::path& path, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("{} {}", path.string(), what));
}

// Hashes the whole file and keeps its first `keep` bytes.
struct Content {
  Digest sha256;
  std::uint64_t size = 0;
  std::string head;
};

absl::StatusOr<Content> read_content(int fd, const std::filesystem::path& path,
                                     std::uint64_t keep) {
  Content content;
  Sha256 hash;
  std::string chunk(kReadBytes, '\0');
  while (true) {
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("read", path, errno);
    if (got == 0) break;
    const std::string_view bytes(chunk.data(), static_cast<std::size_t>(got));
    hash.update(bytes);
    content.size += bytes.size();
    if (content.head.size() < keep) {
      content.head += bytes.substr(0, static_cast<std::size_t>(keep - content.head.size()));
    }
  }
  content.sha256 = hash.finish();
  return content;
}

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = kLengthBytes; i > 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  }
  return value;
}

// The member as text or number; the value given here if it is missing or something else.
std::string text_of(const json& object, const char* key, std::string otherwise = "") {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}
double real_of(const json& object, const char* key, double otherwise) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}
int bits_of(const json& bits, const char* key, int otherwise) {
  const auto found = bits.find(key);
  if (found == bits.end()) return otherwise;
  return found->is_number_integer() ? found->get<int>() : 0;
}

// Nothing if one of them is no width of bits. Versions before 2 know weights and activations only.
std::optional<BitsValue> parse_bits(const json& spec) {
  const auto written = spec.find("bits");
  if (written == spec.end() || !written->is_object()) return std::nullopt;
  BitsValue bits{.weights = bits_of(*written, "weights", 0),
                 .activations = bits_of(*written, "activations", 0),
                 .gradients = bits_of(*written, "gradients", 32),
                 .first = bits_of(*written, "first", 32),
                 .shortcut = bits_of(*written, "shortcut", 32),
                 .last = bits_of(*written, "last", 32),
                 .layers = {}};
  for (const int width :
       {bits.weights, bits.activations, bits.gradients, bits.first, bits.shortcut, bits.last}) {
    if (!is_bit_width(width)) return std::nullopt;
  }
  const auto layers = written->find("layers");
  if (layers == written->end()) return bits;
  if (!layers->is_array()) return std::nullopt;
  for (const json& layer : *layers) {
    if (!layer.is_array() || layer.size() != 3 || !layer[0].is_string() ||
        !layer[1].is_number_integer() || !layer[2].is_number_integer()) {
      return std::nullopt;
    }
    LayerBits& added = bits.layers.emplace_back(
        LayerBits{layer[0].get<std::string>(), layer[1].get<int>(), layer[2].get<int>()});
    if (!is_layer_pattern(added.pattern) || !is_bit_width(added.weights) ||
        !is_bit_width(added.activations)) {
      return std::nullopt;
    }
  }
  return bits;
}

std::optional<MethodValue> parse_method(const json& spec) {
  const auto written = spec.find("method");
  if (written == spec.end() || !written->is_object()) return std::nullopt;
  const train::MethodOptions defaults;
  MethodValue method{
      .weights = text_of(*written, "weights"),
      .activations = text_of(*written, "activations"),
      .options = {.range = text_of(*written, "range", defaults.range),
                  .granularity = text_of(*written, "granularity", defaults.granularity),
                  .ema_decay = real_of(*written, "ema_decay", defaults.ema_decay),
                  .scale = text_of(*written, "scale", defaults.scale),
                  .clip_init = real_of(*written, "clip_init", defaults.clip_init),
                  .clip_decay = real_of(*written, "clip_decay", defaults.clip_decay)}};
  const auto knows = [](Option option, const std::string& word) {
    return std::ranges::find(info(option).words, word) != info(option).words.end();
  };
  if (!knows(Option::kMethodWeights, method.weights) ||
      !knows(Option::kMethodActivations, method.activations) ||
      !knows(Option::kMethodRange, method.options.range) ||
      !knows(Option::kMethodGranularity, method.options.granularity) ||
      !knows(Option::kMethodScale, method.options.scale)) {
    return std::nullopt;
  }
  return method;
}

std::optional<TrainedAs> trained_as(const json& spec) {
  if (!spec.is_object()) return std::nullopt;
  auto bits = parse_bits(spec);
  auto method = parse_method(spec);
  std::string model = text_of(spec, "model");
  std::string shortcut = text_of(spec, "shortcut", "block");
  if (!bits || !method || !train::parse_architecture(model) ||
      (shortcut != "block" && shortcut != "convolution")) {
    return std::nullopt;
  }
  return TrainedAs{.model = std::move(model),
                   .shortcut = std::move(shortcut),
                   .bits = *std::move(bits),
                   .method = *std::move(method)};
}

// Metadata in a form we do not know counts as none: the file may come from anywhere.
std::optional<TrainedAs> trained_as_in_header(const json& header) {
  const auto metadata = header.find("__metadata__");
  if (metadata == header.end()) return std::nullopt;
  return parse_trained_as(text_of(*metadata, "bitrung.spec"));
}

}  // namespace

std::optional<TrainedAs> parse_trained_as(std::string_view spec_json) {
  return trained_as(json::parse(spec_json, nullptr, /*allow_exceptions=*/false));
}

absl::StatusOr<OutsideFile> inspect_outside_file(const std::filesystem::path& path) {
  // O_NONBLOCK, so that a pipe is refused below instead of waiting here for a writer.
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    return invalid(path, fmt::format("cannot be read: {}", std::generic_category().message(errno)));
  }
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return errno_status("stat", path, errno);
  if (!S_ISREG(status.st_mode)) return invalid(path, "is not a regular file");

  // The header's length is in front of it, so that what must be kept is known after eight bytes.
  std::array<char, kLengthBytes> length_bytes{};
  const ssize_t got = ::pread(fd.get(), length_bytes.data(), length_bytes.size(), 0);
  if (got < 0) return errno_status("read", path, errno);
  if (static_cast<std::size_t>(got) < length_bytes.size()) {
    return invalid(path, fmt::format("has {} bytes, too few for a safetensors file", got));
  }
  const std::uint64_t header_bytes = little_endian({length_bytes.data(), length_bytes.size()});
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (header_bytes < 2 || header_bytes > kHeaderBytesMax ||
      header_bytes > file_bytes - kLengthBytes) {
    return invalid(path,
                   fmt::format("is not a safetensors file: its first 8 bytes announce a header "
                               "of {} bytes, the file has {} and the limit is {}",
                               header_bytes, file_bytes, kHeaderBytesMax));
  }
  BITRUNG_ASSIGN_OR_RETURN(const Content content,
                           read_content(fd.get(), path, kLengthBytes + header_bytes));
  if (content.size != file_bytes) return invalid(path, "changed while it was read; try again");

  const json header = json::parse(content.head.substr(kLengthBytes), nullptr, false);
  if (!header.is_object()) {
    return invalid(path, "is not a safetensors file: its header is not a JSON object");
  }
  OutsideFile file{.sha256 = content.sha256,
                   .classes = std::nullopt,
                   .trained_as = trained_as_in_header(header)};
  std::uint64_t tensor_bytes = 0;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    const auto offsets = tensor.is_object() ? tensor.find("data_offsets") : tensor.end();
    if (offsets == tensor.end() || !offsets->is_array() || offsets->size() != 2 ||
        !(*offsets)[1].is_number_unsigned() || !tensor.contains("shape")) {
      return invalid(path, fmt::format("is not a safetensors file: tensor {} has no shape or no "
                                       "data_offsets",
                                       in_quotes(name)));
    }
    tensor_bytes = std::max(tensor_bytes, (*offsets)[1].get<std::uint64_t>());
  }
  const std::uint64_t data_bytes = file_bytes - kLengthBytes - header_bytes;
  if (tensor_bytes > data_bytes) {
    return invalid(path,
                   fmt::format("is cut short: its header lists {} bytes of tensors, {} are there",
                               tensor_bytes, data_bytes));
  }
  if (const auto fc = header.find("fc.weight"); fc != header.end()) {
    const json& shape = *fc->find("shape");
    if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_integer() ||
        !shape[1].is_number_integer()) {
      return invalid(path,
                     "does not fit: the shape of tensor fc.weight is not [classes, features]");
    }
    file.classes = shape[0].get<std::int64_t>();
  }
  return file;
}

}  // namespace bitrung::client
