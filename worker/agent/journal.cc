#include "worker/agent/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"
#include "worker/agent/record_format.h"

namespace bitrung::agent {
namespace {

// An offer has at most 4 MiB, an outcome a report of 768 KiB.
constexpr std::size_t kPayloadBytesMax = std::size_t{8} << 20;
// Written anew above this size if three quarters of it are about attempts that are gone. Small
// enough to be read at a start in no time.
constexpr std::uint64_t kCompactBytes = std::uint64_t{4} << 20;

// Numbers as they lie in memory (every host we run on is little endian), texts after their length.
class Writer {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void put(T value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void put(std::string_view text) {
    put(static_cast<std::uint32_t>(text.size()));
    bytes_ += text;
  }
  void put(const Digest& digest) { bytes_ += digest.raw(); }
  template <typename T>
  void put(const std::optional<T>& value) {
    put(static_cast<std::uint8_t>(value.has_value()));
    if (value) put(*value);
  }
  void put(const AttemptKey& key) {
    put(number(key.job));
    put(number(key.attempt));
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};
static_assert(std::endian::native == std::endian::little);

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  template <typename T>
  requires std::is_arithmetic_v<T>
  void get(T& value) {
    const std::string_view bytes = take(sizeof value);
    if (ok_) std::memcpy(&value, bytes.data(), sizeof value);
  }
  void get(std::string& text) {
    std::uint32_t size = 0;
    get(size);
    text = take(size);
  }
  void get(Digest& digest) {
    const auto found = Digest::from_raw(take(digest.bytes.size()));
    ok_ = ok_ && found.has_value();
    if (ok_) digest = *found;
  }
  template <typename T>
  void get(std::optional<T>& value) {
    std::uint8_t has_value = 0;
    get(has_value);
    value.reset();
    if (has_value != 0) get(value.emplace());
  }
  void get(AttemptKey& key) {
    std::int64_t job = 0;
    std::uint32_t attempt = 0;
    get(job);
    get(attempt);
    key = {JobId{job}, AttemptNumber{attempt}};
  }
  // An enumerator up to `last`.
  template <typename E>
  void get(E& value, E last) {
    std::uint8_t read = 0;
    get(read);
    ok_ = ok_ && read <= static_cast<std::uint8_t>(last);
    if (ok_) value = static_cast<E>(read);
  }
  // Everything was there and nothing is left.
  bool done() const { return ok_ && rest_.empty(); }
  bool ok() const { return ok_; }

 private:
  std::string_view take(std::size_t size) {
    if (size > rest_.size()) ok_ = false;
    if (!ok_) return {};
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
  bool ok_ = true;
};

enum class OutcomeKind : std::uint8_t { kSucceeded, kFailed, kCancelled };

bool read_offer(std::string_view payload, Offer& offer) {
  Reader reader(payload);
  std::uint32_t inputs = 0;
  std::int64_t timeout_ms = 0;
  reader.get(offer.key);
  reader.get(offer.slot);
  reader.get(offer.display_name);
  reader.get(offer.spec_json);
  reader.get(offer.dataset);
  reader.get(inputs);
  for (; reader.ok() && inputs > 0; --inputs) {
    OfferInput& input = offer.inputs.emplace_back();
    reader.get(input.role, InputRole::kSource);
    reader.get(input.artifact);
  }
  reader.get(offer.resume);
  reader.get(offer.dataset_sha256);
  reader.get(timeout_ms);
  offer.timeout = milliseconds{timeout_ms};
  return reader.done();
}

bool read_outcome(std::string_view payload, AttemptKey& key, Outcome& outcome) {
  Reader reader(payload);
  OutcomeKind kind{};
  reader.get(key);
  reader.get(kind, OutcomeKind::kCancelled);
  switch (kind) {
    case OutcomeKind::kSucceeded: {
      Succeeded succeeded;
      reader.get(succeeded.result.test_accuracy);
      reader.get(succeeded.result.validation_accuracy);
      reader.get(succeeded.result.test_loss);
      reader.get(succeeded.result.best_epoch);
      reader.get(succeeded.result.duration_seconds);
      reader.get(succeeded.result.images_per_second);
      reader.get(succeeded.artifact);
      reader.get(succeeded.report_json);
      outcome = std::move(succeeded);
      break;
    }
    case OutcomeKind::kFailed: {
      Failed failed;
      reader.get(failed.failure_class, FailureClass::kTrainerCrashed);
      reader.get(failed.message);
      outcome = std::move(failed);
      break;
    }
    case OutcomeKind::kCancelled:
      outcome = Cancelled{};
      break;
  }
  return reader.done();
}

// Every payload begins with the key.
bool read_key(std::string_view payload, AttemptKey& key) {
  Reader reader(payload);
  reader.get(key);
  return reader.ok();
}

}  // namespace

Journal::Note Journal::offered(const Offer& offer) {
  Writer writer;
  writer.put(offer.key);
  writer.put(offer.slot);
  writer.put(offer.display_name);
  writer.put(offer.spec_json);
  writer.put(offer.dataset);
  writer.put(static_cast<std::uint32_t>(offer.inputs.size()));
  for (const OfferInput& input : offer.inputs) {
    writer.put(static_cast<std::uint8_t>(input.role));
    writer.put(input.artifact);
  }
  writer.put(offer.resume);
  writer.put(offer.dataset_sha256);
  writer.put(std::int64_t{offer.timeout.count()});
  return {Kind::kOffer, offer.key, writer.take()};
}

Journal::Note Journal::ended(const AttemptKey& key, const Outcome& outcome) {
  Writer writer;
  writer.put(key);
  if (const auto* succeeded = std::get_if<Succeeded>(&outcome)) {
    writer.put(static_cast<std::uint8_t>(OutcomeKind::kSucceeded));
    writer.put(succeeded->result.test_accuracy);
    writer.put(succeeded->result.validation_accuracy);
    writer.put(succeeded->result.test_loss);
    writer.put(succeeded->result.best_epoch);
    writer.put(succeeded->result.duration_seconds);
    writer.put(succeeded->result.images_per_second);
    writer.put(succeeded->artifact);
    writer.put(std::string_view(succeeded->report_json));
  } else if (const auto* failed = std::get_if<Failed>(&outcome)) {
    writer.put(static_cast<std::uint8_t>(OutcomeKind::kFailed));
    writer.put(static_cast<std::uint8_t>(failed->failure_class));
    writer.put(std::string_view(failed->message));
  } else {
    writer.put(static_cast<std::uint8_t>(OutcomeKind::kCancelled));
  }
  return {Kind::kOutcome, key, writer.take()};
}

Journal::Note Journal::removed(const AttemptKey& key) {
  Writer writer;
  writer.put(key);
  return {Kind::kRemoved, key, writer.take()};
}

absl::StatusOr<Journal> Journal::open(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) return errno_status("open", path, errno);
  Journal journal(path, std::move(file));
  BITRUNG_ASSIGN_OR_RETURN(journal.end_,
                           scan_records(journal.file_.get(), path, 0, kPayloadBytesMax,
                                        [&](const Record& record, std::uint64_t) {
                                          AttemptKey key;
                                          if (!read_key(record.payload, key)) return false;
                                          journal.apply(Kind{record.kind}, key, record.payload);
                                          return true;
                                        }));
  struct stat info {};
  if (::fstat(journal.file_.get(), &info) != 0) return errno_status("stat", path, errno);
  if (static_cast<std::uint64_t>(info.st_size) > journal.end_ &&
      ::ftruncate(journal.file_.get(), static_cast<off_t>(journal.end_)) != 0) {
    return errno_status("cut the torn end of", path, errno);
  }
  BITRUNG_RETURN_IF_ERROR(sync_directory(path.parent_path()));
  return journal;
}

void Journal::apply(Kind kind, const AttemptKey& key, std::string_view payload) {
  const auto count = [this](const Live& live, bool add) {
    for (const std::string* text : {&live.offer, &live.outcome}) {
      if (text->empty()) continue;
      const std::uint64_t bytes = text->size() + kRecordHeaderBytes;
      live_bytes_ = add ? live_bytes_ + bytes : live_bytes_ - bytes;
    }
  };
  if (kind == Kind::kRemoved) {
    const auto found = live_.find(key);
    if (found == live_.end()) return;
    count(found->second, false);
    live_.erase(found);
    return;
  }
  Live& live = live_[key];
  count(live, false);
  (kind == Kind::kOffer ? live.offer : live.outcome) = payload;
  count(live, true);
}

absl::StatusOr<std::map<AttemptKey, Journal::Entry>> Journal::entries() const {
  std::map<AttemptKey, Entry> entries;
  for (const auto& [key, live] : live_) {
    if (live.offer.empty()) continue;
    Entry entry;
    AttemptKey of;
    if (!read_offer(live.offer, entry.offer)) {
      return absl::DataLossError(
          fmt::format("the offer of attempt {} in {} cannot be read; move the file away to go on "
                      "without what it holds",
                      to_string(key), path_.string()));
    }
    Outcome outcome;
    // One that cannot be read counts as none: the attempt was interrupted.
    if (!live.outcome.empty() && read_outcome(live.outcome, of, outcome))
      entry.outcome = std::move(outcome);
    entries.emplace(key, std::move(entry));
  }
  return entries;
}

absl::Status Journal::append(std::string_view bytes, bool durable) {
  std::size_t done = 0;
  absl::Status status;
  while (done < bytes.size() && status.ok()) {
    const ssize_t put = ::pwrite(file_.get(), bytes.data() + done, bytes.size() - done,
                                 static_cast<off_t>(end_ + done));
    if (put > 0) {
      done += static_cast<std::size_t>(put);
    } else if (put == 0 || errno != EINTR) {
      status = errno_status("write", path_, put < 0 ? errno : ENOSPC);
    }
  }
  if (status.ok() && durable) status = sync();
  // What failed must not stand in front of the next record. If even this fails the end is torn, and
  // the next record is written over it.
  if (!status.ok() && ::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0) return status;
  if (status.ok()) end_ += bytes.size();
  return status;
}

absl::Status Journal::write(std::span<const Note> notes) {
  std::string bytes;
  bool durable = false;
  for (const Note& note : notes) {
    if (note.payload.size() > kPayloadBytesMax) {
      return absl::ResourceExhaustedError(
          fmt::format("attempt {} has {} bytes to be noted in {}, the limit is {}",
                      to_string(note.key), note.payload.size(), path_.string(), kPayloadBytesMax));
    }
    encode_record(bytes, static_cast<char>(note.kind), note.payload);
    durable = durable || note.kind == Kind::kOutcome;
    has_unsynced_offer_ = has_unsynced_offer_ || note.kind == Kind::kOffer;
  }
  BITRUNG_RETURN_IF_ERROR(append(bytes, durable));
  for (const Note& note : notes) apply(note.kind, note.key, note.payload);
  if (end_ >= kCompactBytes && live_bytes_ <= end_ / 4) return compact();
  return absl::OkStatus();
}

absl::Status Journal::sync() {
  if (::fdatasync(file_.get()) != 0) return errno_status("sync", path_, errno);
  has_unsynced_offer_ = false;
  return absl::OkStatus();
}

absl::Status Journal::compact() {
  std::string bytes;
  for (const auto& [key, live] : live_) {
    if (!live.offer.empty()) encode_record(bytes, static_cast<char>(Kind::kOffer), live.offer);
    if (!live.outcome.empty())
      encode_record(bytes, static_cast<char>(Kind::kOutcome), live.outcome);
  }
  // A full disk: the old file is as good, and the next attempt to write it anew may succeed.
  if (!write_file_durably(path_, bytes, 0600).ok()) return absl::OkStatus();
  FileDescriptor file(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  if (!file.valid()) return errno_status("open", path_, errno);
  file_ = std::move(file);
  has_unsynced_offer_ = false;
  end_ = bytes.size();
  return absl::OkStatus();
}

}  // namespace bitrung::agent
