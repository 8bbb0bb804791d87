#include "worker/train/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "db/base/check.h"
#include "worker/train/failure.h"

namespace bitrung::train {

static_assert(std::endian::native == std::endian::little,
              "tensors are written as they lie in memory");

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr const char* kMetadataName = "__metadata__";

struct DtypeEntry {
  Dtype dtype;
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array<DtypeEntry, 10> kDtypes = {{{Dtype::kBool, "BOOL", 1},
                                                 {Dtype::kU8, "U8", 1},
                                                 {Dtype::kI8, "I8", 1},
                                                 {Dtype::kI16, "I16", 2},
                                                 {Dtype::kI32, "I32", 4},
                                                 {Dtype::kI64, "I64", 8},
                                                 {Dtype::kF16, "F16", 2},
                                                 {Dtype::kBF16, "BF16", 2},
                                                 {Dtype::kF32, "F32", 4},
                                                 {Dtype::kF64, "F64", 8}}};

const DtypeEntry& entry_of(Dtype dtype) {
  for (const DtypeEntry& entry : kDtypes) {
    if (entry.dtype == dtype) {
      return entry;
    }
  }
  BITRUNG_CHECK(!"a dtype without an entry");
}

bool is_tensor_name(std::string_view name) {
  return !name.empty() && name.size() <= kTensorNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '.';
         });
}

// For messages: printable and short, whatever the file holds.
std::string in_quotes(std::string_view text) {
  std::string result = "\"";
  for (const char c : text.substr(0, 80)) {
    result += c >= ' ' && c <= '~' ? c : '?';
  }
  return result + (text.size() > 80 ? "…\"" : "\"");
}

struct HeaderEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape;
  std::optional<std::vector<std::uint64_t>> offsets;
};

// Takes the header apart as it is parsed. Its shape is fixed (an object of objects of texts and
// arrays of integers), so nothing nests deeper than three levels and duplicate keys are seen.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("true or false"); }
  bool number_float(double, const std::string&) override {
    return refuse("a number that is no integer");
  }
  bool binary(binary_t&) override { return refuse("binary"); }
  bool number_integer(std::int64_t) override { return refuse("a negative number"); }

  bool number_unsigned(std::uint64_t value) override {
    if (array_ == nullptr) {
      return refuse("a number");
    }
    if (array_->size() == kTensorRankMax) {
      return stop("tensor " + in_quotes(entries.back().name) + " has more than " +
                  std::to_string(kTensorRankMax) + " dimensions");
    }
    array_->push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      if (!metadata.emplace(key_, value).second) {
        return stop("metadata key " + in_quotes(key_) + " occurs twice");
      }
      return true;
    }
    if (depth_ == 2 && key_ == "dtype" && !entries.back().dtype) {
      entries.back().dtype = value;
      return true;
    }
    return refuse("a text");
  }

  bool start_object(std::size_t) override {
    if (depth_ == 0 || depth_ == 1) {
      ++depth_;
      if (depth_ == 2 && !in_metadata_) {
        entries.push_back({key_, {}, {}, {}});
      }
      return true;
    }
    return refuse("an object");
  }

  bool key(std::string& value) override {
    key_ = value;
    if (depth_ == 1) {
      in_metadata_ = value == kMetadataName;
      if (in_metadata_) {
        if (seen_metadata_) {
          return stop("__metadata__ occurs twice");
        }
        seen_metadata_ = true;
      } else if (!is_tensor_name(value)) {
        return stop("tensor name " + in_quotes(value) + " is not 1 to " +
                    std::to_string(kTensorNameBytesMax) + " of the characters A-Z a-z 0-9 _ .");
      }
    }
    return true;
  }

  bool end_object() override {
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ == 2 && !in_metadata_ && array_ == nullptr) {
      auto& target = key_ == "shape" ? entries.back().shape : entries.back().offsets;
      if ((key_ == "shape" || key_ == "data_offsets") && !target) {
        target.emplace();
        array_ = &*target;
        return true;
      }
    }
    return refuse("an array");
  }

  bool end_array() override {
    array_ = nullptr;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return stop("its header is not JSON, at byte " + std::to_string(position));
  }

 private:
  bool stop(std::string message) {
    error = std::move(message);
    return false;
  }
  bool refuse(const std::string& what) {
    return stop("its header has " + what + " where none may be, near key " + in_quotes(key_));
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  bool seen_metadata_ = false;
  std::string key_;
  std::vector<std::uint64_t>* array_ = nullptr;
};

// Elements times element size, or nothing on overflow.
std::optional<std::uint64_t> byte_count(const std::vector<std::uint64_t>& shape,
                                        std::uint64_t element_bytes) {
  std::uint64_t bytes = element_bytes;
  for (const std::uint64_t side : shape) {
    if (side > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(bytes, side, &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

struct Range {
  std::uint64_t begin;
  std::uint64_t end;
  std::string_view name;
};

}  // namespace

std::string_view dtype_name(Dtype dtype) {
  return entry_of(dtype).name;
}
std::uint64_t dtype_bytes(Dtype dtype) {
  return entry_of(dtype).bytes;
}

SafetensorsFile parse_safetensors(std::span<const std::uint8_t> bytes) {
  if (bytes.size() < kLengthBytes) {
    throw SafetensorsError("it has " + std::to_string(bytes.size()) +
                           " bytes, a safetensors file has at least 8");
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kHeaderBytesMax) {
    throw SafetensorsError("its header claims " + std::to_string(header_bytes) +
                           " bytes, the limit is " + std::to_string(kHeaderBytesMax) +
                           "; it is no safetensors file of a model");
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    throw SafetensorsError("its header claims " + std::to_string(header_bytes) +
                           " bytes, the file has only " +
                           std::to_string(bytes.size() - kLengthBytes) + " more; it is truncated");
  }
  const std::span<const std::uint8_t> header = bytes.subspan(kLengthBytes, header_bytes);
  const std::span<const std::uint8_t> data = bytes.subspan(kLengthBytes + header_bytes);

  HeaderReader reader;
  if (header.empty() || header.front() != '{') {
    throw SafetensorsError("its header does not begin with {");
  }
  if (!json::sax_parse(header.begin(), header.end(), &reader)) {
    throw SafetensorsError(reader.error);
  }

  SafetensorsFile file;
  file.metadata = std::move(reader.metadata);
  std::vector<Range> ranges;
  for (const HeaderEntry& entry : reader.entries) {
    const std::string name = "tensor " + in_quotes(entry.name);
    if (!entry.dtype || !entry.shape || !entry.offsets || entry.offsets->size() != 2) {
      throw SafetensorsError(name + " lacks a dtype, a shape or two data_offsets");
    }
    const auto dtype = std::find_if(
        kDtypes.begin(), kDtypes.end(),
        [&entry](const DtypeEntry& candidate) { return candidate.name == *entry.dtype; });
    if (dtype == kDtypes.end()) {
      throw SafetensorsError(name + " has the unknown dtype " + in_quotes(*entry.dtype));
    }
    const std::optional<std::uint64_t> expected = byte_count(*entry.shape, dtype->bytes);
    if (!expected) {
      throw SafetensorsError(name + " has a shape whose size overflows 64 bits");
    }
    const std::uint64_t begin = (*entry.offsets)[0];
    const std::uint64_t end = (*entry.offsets)[1];
    if (begin > end || end > data.size()) {
      throw SafetensorsError(name + " claims bytes " + std::to_string(begin) + " to " +
                             std::to_string(end) + ", the file has " + std::to_string(data.size()) +
                             " bytes of tensors");
    }
    if (end - begin != *expected) {
      throw SafetensorsError(name + " has " + std::to_string(end - begin) +
                             " bytes, its shape and dtype need " + std::to_string(*expected));
    }
    TensorBytes tensor;
    tensor.dtype = dtype->dtype;
    tensor.shape.assign(entry.shape->begin(), entry.shape->end());
    const auto [place, inserted] = file.tensors.emplace(entry.name, std::move(tensor));
    if (!inserted) {
      throw SafetensorsError(name + " occurs twice");
    }
    ranges.push_back({begin, end, place->first});
  }

  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::uint64_t covered = 0;
  for (const Range& range : ranges) {
    if (range.begin != covered) {
      throw SafetensorsError("tensor " + in_quotes(range.name) + " begins at byte " +
                             std::to_string(range.begin) + ", expected " + std::to_string(covered) +
                             ": tensors overlap or leave a gap");
    }
    covered = range.end;
  }
  if (covered != data.size()) {
    throw SafetensorsError("it has " + std::to_string(data.size()) +
                           " bytes of tensors, its header describes " + std::to_string(covered));
  }
  // Copied only now that the ranges are known to be disjoint: the copies cannot exceed the file's
  // own size.
  for (const Range& range : ranges) {
    const std::span<const std::uint8_t> source = data.subspan(range.begin, range.end - range.begin);
    file.tensors.at(std::string(range.name)).bytes.assign(source.begin(), source.end());
  }
  return file;
}

std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file) {
  std::vector<const std::pair<const std::string, TensorBytes>*> order;
  for (const auto& tensor : file.tensors) {
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return dtype_bytes(a->second.dtype) > dtype_bytes(b->second.dtype);
  });

  json header = json::object();
  if (!file.metadata.empty()) {
    header[kMetadataName] = file.metadata;
  }
  std::uint64_t offset = 0;
  for (const auto* named : order) {
    const auto& [name, tensor] = *named;
    const std::vector<std::uint64_t> shape(tensor.shape.begin(), tensor.shape.end());
    BITRUNG_CHECK(is_tensor_name(name) && shape.size() <= kTensorRankMax);
    BITRUNG_CHECK(byte_count(shape, dtype_bytes(tensor.dtype)) == tensor.bytes.size());
    header[name] = {{"dtype", dtype_name(tensor.dtype)},
                    {"shape", shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // Tensors begin aligned.
  BITRUNG_CHECK(text.size() <= kHeaderBytesMax);

  const std::uint64_t header_bytes = text.size();
  std::vector<std::uint8_t> bytes(kLengthBytes + header_bytes);
  std::memcpy(bytes.data(), &header_bytes, kLengthBytes);
  std::memcpy(bytes.data() + kLengthBytes, text.data(), text.size());
  bytes.reserve(bytes.size() + offset);
  for (const auto* named : order) {
    bytes.insert(bytes.end(), named->second.bytes.begin(), named->second.bytes.end());
  }
  return bytes;
}

namespace {

// Closes on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string reason() {
  return std::strerror(errno);
}

[[noreturn]] void fail_write(const fs::path& path, const char* call) {
  throw Failure(FailureClass::kDeviceFault, path.string() + ": " + call + ": " + reason());
}

}  // namespace

SafetensorsFile read_safetensors(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) {
    throw SafetensorsError(reason());
  }
  if (!S_ISREG(status.st_mode)) {
    throw SafetensorsError("it is not a regular file");
  }
  if (static_cast<std::uint64_t>(status.st_size) > kFileBytesMax) {
    throw SafetensorsError("it has " + std::to_string(status.st_size) + " bytes, the limit is " +
                           std::to_string(kFileBytesMax));
  }
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(status.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw SafetensorsError(reason());
    }
    if (count == 0) {
      throw SafetensorsError("it became shorter while it was read");
    }
    done += static_cast<std::size_t>(count);
  }
  return parse_safetensors(bytes);
}

void write_safetensors(const fs::path& path, const SafetensorsFile& file) {
  const std::vector<std::uint8_t> bytes = encode_safetensors(file);
  fs::path temporary = path;
  temporary += ".tmp";
  {
    const Descriptor out(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (out.get() < 0) {
      fail_write(temporary, "open");
    }
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t count = ::write(out.get(), bytes.data() + done, bytes.size() - done);
      if (count < 0 && errno == EINTR) {
        continue;
      }
      if (count < 0) {
        fail_write(temporary, "write");
      }
      done += static_cast<std::size_t>(count);
    }
    if (::fsync(out.get()) != 0) {
      fail_write(temporary, "fsync");
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    fail_write(path, "rename");
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) {
    fail_write(folder, "fsync");
  }
}

}  // namespace bitrung::train
