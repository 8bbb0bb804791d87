#include "client/interop/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>

#include "client/interop/little_endian.h"
#include "client/interop/quotes.h"
#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::interop {
namespace {

using train::Dtype;

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kRemedy =
    "save the weights alone in Python: torch.save(model.state_dict(), FILE)";
constexpr std::size_t kNameBytesMax = 256;

struct StorageType {
  std::string_view name;
  Dtype dtype;
};
constexpr std::array<StorageType, 10> kStorageTypes = {{{"FloatStorage", Dtype::kF32},
                                                        {"DoubleStorage", Dtype::kF64},
                                                        {"HalfStorage", Dtype::kF16},
                                                        {"BFloat16Storage", Dtype::kBF16},
                                                        {"LongStorage", Dtype::kI64},
                                                        {"IntStorage", Dtype::kI32},
                                                        {"ShortStorage", Dtype::kI16},
                                                        {"CharStorage", Dtype::kI8},
                                                        {"ByteStorage", Dtype::kU8},
                                                        {"BoolStorage", Dtype::kBool}}};

std::optional<Dtype> storage_dtype(std::string_view global) {
  constexpr std::string_view kModule = "torch.";
  if (!global.starts_with(kModule)) return std::nullopt;
  const auto found =
      std::ranges::find(kStorageTypes, global.substr(kModule.size()), &StorageType::name);
  return found == kStorageTypes.end() ? std::nullopt : std::optional(found->dtype);
}

bool is_known_global(std::string_view global) {
  return global == kOrderedDict || global == kRebuildTensor || global == kRebuildParameter ||
         storage_dtype(global).has_value();
}

// Instructions that are refused, so that a message can say which.
std::string instruction_name(unsigned char code) {
  struct Instruction {
    unsigned char code;
    std::string_view name;
  };
  static constexpr std::array<Instruction, 25> kRefused = {
      {{'i', "INST"},       {'o', "OBJ"},
       {0x81, "NEWOBJ"},    {0x92, "NEWOBJ_EX"},
       {0x82, "EXT1"},      {0x83, "EXT2"},
       {0x84, "EXT4"},      {'P', "PERSID"},
       {'I', "INT"},        {'L', "LONG"},
       {'F', "FLOAT"},      {'S', "STRING"},
       {'V', "UNICODE"},    {'d', "DICT"},
       {'l', "LIST"},       {'p', "PUT"},
       {'g', "GET"},        {'2', "DUP"},
       {'0', "POP"},        {'1', "POP_MARK"},
       {'B', "BINBYTES"},   {'C', "SHORT_BINBYTES"},
       {0x8f, "EMPTY_SET"}, {0x97, "NEXT_BUFFER"},
       {0x96, "BYTEARRAY8"}}};
  const auto found = std::ranges::find(kRefused, code, &Instruction::code);
  return found == kRefused.end() ? fmt::format("0x{:02x}", code)
                                 : fmt::format("{} (0x{:02x})", found->name, code);
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  absl::StatusOr<Pickle> read() {
    while (!ended_) {
      if (position_ == bytes_.size()) return cut_short();
      const auto code = static_cast<unsigned char>(bytes_[position_++]);
      BITRUNG_RETURN_IF_ERROR(step(code));
    }
    result_.bytes = position_;
    return std::move(result_);
  }

 private:
  absl::Status invalid(const std::string& what) const {
    return absl::InvalidArgumentError(fmt::format("its pickle, byte {}: {}", position_, what));
  }
  absl::Status cut_short() const {
    return invalid(bytes_.size() == kPickleBytesMax
                       ? fmt::format("it has more than {} bytes, which is the limit", bytes_.size())
                       : "it ends early; was the file copied whole?");
  }
  absl::Status too_many(std::string_view what) const {
    return invalid(
        fmt::format("it makes more than {} {}, which is the limit", kPickleValuesMax, what));
  }

  // ---- bytes

  absl::StatusOr<std::string_view> take(std::uint64_t count) {
    if (count > bytes_.size() - position_) return cut_short();
    const std::string_view taken = bytes_.substr(position_, count);
    position_ += count;
    return taken;
  }

  absl::StatusOr<std::uint64_t> take_unsigned(std::size_t count) {
    BITRUNG_ASSIGN_OR_RETURN(const std::string_view taken, take(count));
    return unsigned_at(taken, 0, count);
  }

  absl::StatusOr<std::string_view> take_line() {
    const std::size_t end = bytes_.substr(0, position_ + kNameBytesMax).find('\n', position_);
    if (end == std::string_view::npos) return invalid("a name is too long or not ended");
    const std::string_view line = bytes_.substr(position_, end - position_);
    position_ = end + 1;
    return line;
  }

  // ---- stack

  absl::Status push(PickleValue value) {
    if (result_.values.size() == kPickleValuesMax) return too_many("values");
    stack_.push_back(static_cast<ValueId>(result_.values.size()));
    result_.values.push_back(std::move(value));
    return absl::OkStatus();
  }

  absl::Status push_integer(std::int64_t value) {
    return push(
        {.kind = ValueKind::kInteger, .integer = value, .index = 0, .text = {}, .items = {}});
  }

  absl::Status push_kind(ValueKind kind, std::vector<ValueId> items = {}) {
    return push({.kind = kind, .integer = 0, .index = 0, .text = {}, .items = std::move(items)});
  }

  // Values above the last mark belong to the instruction that takes it; those below are out of
  // reach of all others.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  absl::StatusOr<ValueId> pop() {
    if (stack_.size() <= floor()) return invalid("it takes a value that is not there");
    const ValueId id = stack_.back();
    stack_.pop_back();
    return id;
  }

  absl::StatusOr<std::vector<ValueId>> pop_count(std::size_t count) {
    if (stack_.size() < floor() + count) return invalid("it takes a value that is not there");
    std::vector<ValueId> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }

  absl::StatusOr<std::vector<ValueId>> pop_to_mark() {
    if (marks_.empty()) return invalid("a mark is missing");
    const std::size_t mark = marks_.back();
    std::vector<ValueId> items(stack_.begin() + static_cast<std::ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark);
    marks_.pop_back();
    return items;
  }

  // Appends to the list or dictionary that is now on top.
  absl::Status extend(ValueKind kind, const std::vector<ValueId>& items) {
    if (stack_.size() <= floor() || result_.at(stack_.back()).kind != kind ||
        (kind == ValueKind::kDictionary && items.size() % 2 != 0)) {
      return invalid(kind == ValueKind::kList ? "it appends to what is no list"
                                              : "it sets items of what is no dictionary");
    }
    std::vector<ValueId>& target = result_.values[stack_.back()].items;
    target.insert(target.end(), items.begin(), items.end());
    return absl::OkStatus();
  }

  absl::Status memoize(std::uint64_t key) {
    if (stack_.size() <= floor()) return invalid("it remembers a value that is not there");
    if (memo_.size() == kPickleValuesMax) return too_many("notes of values");
    memo_[key] = stack_.back();
    return absl::OkStatus();
  }

  absl::Status recall(std::uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) return invalid("it recalls a value that it never remembered");
    stack_.push_back(found->second);
    return absl::OkStatus();
  }

  // ---- the instructions

  absl::Status step(unsigned char code) {
    switch (code) {
      case 0x80:  // PROTO
        return protocol();
      case 0x95:  // FRAME: a length that only helps reading ahead.
        return take(8).status();
      case '.':  // STOP
        return stop();
      case '(':  // MARK
        if (marks_.size() == kPickleValuesMax) return too_many("marks");
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case 'N':
        return push_kind(ValueKind::kNone);
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        return push({.kind = ValueKind::kBool,
                     .integer = code == 0x88 ? 1 : 0,
                     .index = 0,
                     .text = {},
                     .items = {}});
      case 'K':  // BININT1
      case 'M':  // BININT2
      case 'J':  // BININT
        return integer(code == 'K' ? 1 : code == 'M' ? 2 : 4, code == 'J');
      case 0x8a:  // LONG1
        return long_integer();
      case 'G':  // BINFLOAT: the value of a loss or a rate, which nobody asks for.
        BITRUNG_RETURN_IF_ERROR(take(8).status());
        return push_kind(ValueKind::kReal);
      case 'X':  // BINUNICODE
      case 'T':  // BINSTRING
        return text(4);
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
        return text(1);
      case 0x8d:  // BINUNICODE8
        return text(8);
      case ')':
        return push_kind(ValueKind::kTuple);
      case ']':
        return push_kind(ValueKind::kList);
      case '}':
        return push_kind(ValueKind::kDictionary);
      case 0x85:  // TUPLE1
      case 0x86:
      case 0x87: {  // TUPLE3
        BITRUNG_ASSIGN_OR_RETURN(std::vector<ValueId> items, pop_count(code - 0x84U));
        return push_kind(ValueKind::kTuple, std::move(items));
      }
      case 't': {
        BITRUNG_ASSIGN_OR_RETURN(std::vector<ValueId> items, pop_to_mark());
        return push_kind(ValueKind::kTuple, std::move(items));
      }
      case 'a': {  // APPEND
        BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> items, pop_count(1));
        return extend(ValueKind::kList, items);
      }
      case 'e': {  // APPENDS
        BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> items, pop_to_mark());
        return extend(ValueKind::kList, items);
      }
      case 's': {  // SETITEM
        BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> items, pop_count(2));
        return extend(ValueKind::kDictionary, items);
      }
      case 'u': {  // SETITEMS
        BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> items, pop_to_mark());
        return extend(ValueKind::kDictionary, items);
      }
      case 'q':    // BINPUT
      case 'r': {  // LONG_BINPUT
        BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t key, take_unsigned(code == 'q' ? 1 : 4));
        return memoize(key);
      }
      case 0x94:  // MEMOIZE
        return memoize(memo_.size());
      case 'h':    // BINGET
      case 'j': {  // LONG_BINGET
        BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t key, take_unsigned(code == 'h' ? 1 : 4));
        return recall(key);
      }
      case 'c': {  // GLOBAL
        BITRUNG_ASSIGN_OR_RETURN(const std::string_view module, take_line());
        BITRUNG_ASSIGN_OR_RETURN(const std::string_view attribute, take_line());
        return global(fmt::format("{}.{}", module, attribute));
      }
      case 0x93:  // STACK_GLOBAL
        return stack_global();
      case 'R':
        return reduce();
      case 'b':
        return build();
      case 'Q':
        return persistent();
      default:
        return invalid(fmt::format("instruction {} is none that a state dict of tensors needs; {}",
                                   instruction_name(code), kRemedy));
    }
  }

  absl::Status protocol() {
    constexpr std::uint64_t kProtocolMax = 5;
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t version, take_unsigned(1));
    if (version < 2 || version > kProtocolMax) {
      return invalid(fmt::format("protocol {}, expected 2 to {}", version, kProtocolMax));
    }
    return absl::OkStatus();
  }

  absl::Status stop() {
    if (!marks_.empty() || stack_.size() != 1) {
      return invalid(fmt::format("it ends with {} values, expected one", stack_.size()));
    }
    result_.root = stack_.front();
    ended_ = true;
    return absl::OkStatus();
  }

  absl::Status integer(std::size_t bytes, bool is_signed) {
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t value, take_unsigned(bytes));
    return push_integer(is_signed ? static_cast<std::int32_t>(static_cast<std::uint32_t>(value))
                                  : static_cast<std::int64_t>(value));
  }

  // Longer than 8 bytes: the magic number of the format before zip; kept as its lowest 8 bytes,
  // since no size may be that large. Sizes are checked against the file later.
  absl::Status long_integer() {
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t count, take_unsigned(1));
    BITRUNG_ASSIGN_OR_RETURN(const std::string_view digits, take(count));
    std::uint64_t value = unsigned_at(digits, 0, std::min<std::size_t>(count, 8));
    const bool is_negative =
        !digits.empty() && (static_cast<unsigned char>(digits.back()) & 0x80U) != 0;
    if (count > 8) {
      value = std::numeric_limits<std::int64_t>::max();
    } else if (is_negative && count < 8) {
      value |= ~std::uint64_t{0} << (8 * count);
    }
    return push_integer(static_cast<std::int64_t>(value));
  }

  absl::Status text(std::size_t length_bytes) {
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t length, take_unsigned(length_bytes));
    BITRUNG_ASSIGN_OR_RETURN(const std::string_view content, take(length));
    return push({.kind = ValueKind::kText,
                 .integer = 0,
                 .index = 0,
                 .text = std::string(content),
                 .items = {}});
  }

  absl::Status global(std::string full_name) {
    if (!is_known_global(full_name)) {
      return invalid(fmt::format(
          "it wants {}, which no state dict of tensors needs; nothing of the file was run; {}",
          in_quotes(full_name), kRemedy));
    }
    return push({.kind = ValueKind::kGlobal,
                 .integer = 0,
                 .index = 0,
                 .text = std::move(full_name),
                 .items = {}});
  }

  absl::Status stack_global() {
    BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> parts, pop_count(2));
    const PickleValue& module = result_.at(parts[0]);
    const PickleValue& attribute = result_.at(parts[1]);
    if (module.kind != ValueKind::kText || attribute.kind != ValueKind::kText) {
      return invalid("a name is no text");
    }
    return global(fmt::format("{}.{}", module.text.substr(0, kNameBytesMax),
                              attribute.text.substr(0, kNameBytesMax)));
  }

  // What would be a call.
  absl::Status reduce() {
    BITRUNG_ASSIGN_OR_RETURN(const std::vector<ValueId> call, pop_count(2));
    const PickleValue& function = result_.at(call[0]);
    const PickleValue& arguments = result_.at(call[1]);
    if (function.kind != ValueKind::kGlobal || arguments.kind != ValueKind::kTuple) {
      return invalid(fmt::format("it calls {} with {}", name(function.kind), name(arguments.kind)));
    }
    if (function.text == kOrderedDict && arguments.items.empty()) {
      return push_kind(ValueKind::kDictionary);
    }
    if (function.text == kRebuildTensor) return rebuild_tensor(arguments.items);
    if (function.text == kRebuildParameter && !arguments.items.empty() &&
        result_.at(arguments.items.front()).kind == ValueKind::kTensor) {
      // A parameter is its tensor and two flags for training.
      stack_.push_back(arguments.items.front());
      return absl::OkStatus();
    }
    return invalid(fmt::format("it calls {} with {} values, in a way unknown to this reader; {}",
                               function.text, arguments.items.size(), kRemedy));
  }

  absl::StatusOr<std::vector<std::int64_t>> integers(ValueId id) const {
    const PickleValue& tuple = result_.at(id);
    if (tuple.kind != ValueKind::kTuple || tuple.items.size() > train::kTensorRankMax) {
      return invalid(fmt::format("a tensor's shape or strides are no tuple of at most {} numbers",
                                 train::kTensorRankMax));
    }
    std::vector<std::int64_t> values;
    for (const ValueId item : tuple.items) {
      const PickleValue& value = result_.at(item);
      if (value.kind != ValueKind::kInteger || value.integer < 0) {
        return invalid("a tensor's shape or strides hold what is no size");
      }
      values.push_back(value.integer);
    }
    return values;
  }

  // (storage, offset, shape, strides, requires_grad, hooks), and from PyTorch 2 on metadata.
  absl::Status rebuild_tensor(const std::vector<ValueId>& arguments) {
    if (arguments.size() < 6 || arguments.size() > 7 ||
        result_.at(arguments[0]).kind != ValueKind::kStorage ||
        result_.at(arguments[1]).kind != ValueKind::kInteger ||
        result_.at(arguments[1]).integer < 0) {
      return invalid("a tensor is described in a way unknown to this reader");
    }
    PickledTensor tensor{.storage = result_.storages[result_.at(arguments[0]).index],
                         .offset = result_.at(arguments[1]).integer,
                         .shape = {},
                         .strides = {}};
    BITRUNG_ASSIGN_OR_RETURN(tensor.shape, integers(arguments[2]));
    BITRUNG_ASSIGN_OR_RETURN(tensor.strides, integers(arguments[3]));
    if (tensor.shape.size() != tensor.strides.size()) {
      return invalid("a tensor has more or fewer strides than dimensions");
    }
    const auto index = static_cast<std::uint32_t>(result_.tensors.size());
    result_.tensors.push_back(std::move(tensor));
    return push(
        {.kind = ValueKind::kTensor, .integer = 0, .index = index, .text = {}, .items = {}});
  }

  // Attributes of an object. Only a state dict has any (the versions of its modules); they are not
  // needed.
  absl::Status build() {
    BITRUNG_RETURN_IF_ERROR(pop().status());
    if (stack_.size() <= floor() || result_.at(stack_.back()).kind != ValueKind::kDictionary) {
      return invalid("it sets attributes of what is no dictionary");
    }
    return absl::OkStatus();
  }

  // ("storage", type, key, device, elements), in the format before zip with None for "not a view".
  absl::Status persistent() {
    BITRUNG_ASSIGN_OR_RETURN(const ValueId id, pop());
    const PickleValue& tuple = result_.at(id);
    const auto is = [&](std::size_t i, ValueKind kind) {
      return result_.at(tuple.items[i]).kind == kind;
    };
    const bool is_storage =
        tuple.kind == ValueKind::kTuple && (tuple.items.size() == 5 || tuple.items.size() == 6) &&
        is(0, ValueKind::kText) && result_.at(tuple.items[0]).text == "storage" &&
        is(1, ValueKind::kGlobal) && is(2, ValueKind::kText) && is(3, ValueKind::kText) &&
        is(4, ValueKind::kInteger) && (tuple.items.size() == 5 || is(5, ValueKind::kNone));
    const std::optional<Dtype> dtype =
        is_storage ? storage_dtype(result_.at(tuple.items[1]).text) : std::nullopt;
    if (!dtype || result_.at(tuple.items[4]).integer < 0) {
      return invalid("a storage is described in a way unknown to this reader");
    }
    // Copied into each tensor, so a long one would add up.
    if (result_.at(tuple.items[2]).text.size() > kNameBytesMax) {
      return invalid("the name of a storage is too long");
    }
    const auto index = static_cast<std::uint32_t>(result_.storages.size());
    result_.storages.push_back({.key = result_.at(tuple.items[2]).text,
                                .dtype = *dtype,
                                .elements = result_.at(tuple.items[4]).integer});
    return push(
        {.kind = ValueKind::kStorage, .integer = 0, .index = index, .text = {}, .items = {}});
  }

  const std::string_view bytes_;
  std::size_t position_ = 0;
  bool ended_ = false;
  Pickle result_;
  std::vector<ValueId> stack_;
  std::vector<std::size_t> marks_;  // Heights of the stack.
  std::unordered_map<std::uint64_t, ValueId> memo_;
};

}  // namespace

std::string_view name(ValueKind kind) {
  switch (kind) {
    case ValueKind::kNone:
      return "None";
    case ValueKind::kBool:
      return "a truth value";
    case ValueKind::kInteger:
    case ValueKind::kReal:
      return "a number";
    case ValueKind::kText:
      return "a text";
    case ValueKind::kTuple:
      return "a tuple";
    case ValueKind::kList:
      return "a list";
    case ValueKind::kDictionary:
      return "a dictionary";
    case ValueKind::kStorage:
      return "a storage";
    case ValueKind::kTensor:
      return "a tensor";
    case ValueKind::kGlobal:
      return "a function or class";
  }
  BITRUNG_CHECK(!"a kind without a name");
}

absl::StatusOr<Pickle> read_pickle(std::string_view bytes) {
  // Every instruction takes a byte and makes at most one value, so this bounds everything here.
  return Reader(bytes.substr(0, kPickleBytesMax)).read();
}

std::string_view storage_name(Dtype dtype) {
  const auto found = std::ranges::find(kStorageTypes, dtype, &StorageType::dtype);
  BITRUNG_CHECK(found != kStorageTypes.end());
  return found->name;
}

}  // namespace bitrung::interop
