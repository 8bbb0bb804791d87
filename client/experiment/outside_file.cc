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

// The member as text or number; nothing if it is missing or something else.
std::string text_of(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}
int integer_of(const json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_number_integer() ? found->get<int>() : 0;
}

// Metadata in a form we do not know counts as none: the file may come from anywhere.
std::optional<TrainedAs> trained_as(const json& header) {
  const auto metadata = header.find("__metadata__");
  if (metadata == header.end() || !metadata->is_object()) return std::nullopt;
  const json spec = json::parse(text_of(*metadata, "bitrung.spec"), nullptr, false);
  if (!spec.is_object() || !spec.contains("bits") || !spec.contains("method")) return std::nullopt;
  TrainedAs result{
      .model = text_of(spec, "model"),
      .bits = {integer_of(spec["bits"], "weights"), integer_of(spec["bits"], "activations")},
      .method = {text_of(spec["method"], "weights"), text_of(spec["method"], "activations")}};
  const auto knows = [](Option option, const std::string& word) {
    return std::ranges::find(info(option).words, word) != info(option).words.end();
  };
  if (!knows(Option::kModel, result.model) || !is_bit_width(result.bits.weights) ||
      !is_bit_width(result.bits.activations) ||
      !knows(Option::kMethodWeights, result.method.weights) ||
      !knows(Option::kMethodActivations, result.method.activations)) {
    return std::nullopt;
  }
  return result;
}

}  // namespace

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
  OutsideFile file{
      .sha256 = content.sha256, .classes = std::nullopt, .trained_as = trained_as(header)};
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
