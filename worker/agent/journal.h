// The offers and outcomes of all attempts of this worker in one append-only file, so that one sync
// makes many of them durable. An attempt is in it from its offer until the server has acknowledged
// its outcome.
//
// Opened once, read through, and from then on used by one thread. What a crash tore at the end is
// cut off. When most of the file is about attempts that are gone, it is written anew.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"
#include "worker/agent/types.h"

namespace bitrung::agent {

class Journal {
 public:
  enum class Kind : char { kOffer = 'o', kOutcome = 'e', kRemoved = 'r' };

  // Something to be written.
  struct Note {
    Kind kind{};
    AttemptKey key;
    std::string payload;
  };
  static Note offered(const Offer& offer);
  static Note ended(const AttemptKey& key, const Outcome& outcome);
  static Note removed(const AttemptKey& key);

  struct Entry {
    Offer offer;
    std::optional<Outcome> outcome;
  };

  static absl::StatusOr<Journal> open(const std::filesystem::path& path);

  // What is in it. An outcome without an offer is left out.
  absl::StatusOr<std::map<AttemptKey, Entry>> entries() const;

  // All of them or, on an error (a full disk), none. They survive the death of the process, and
  // with an outcome among them a power cut. Without one, offers do after the next sync(): an
  // attempt that a power cut takes out of the journal is one that never arrived. What a removal
  // names may come back, and is then said and removed again.
  absl::Status write(std::span<const Note> notes);
  absl::Status sync();
  bool has_unsynced_offer() const { return has_unsynced_offer_; }

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size_bytes() const { return end_; }

 private:
  // Payloads as in the file.
  struct Live {
    std::string offer;
    std::string outcome;
  };

  Journal(std::filesystem::path path, FileDescriptor file)
      : path_(std::move(path)), file_(std::move(file)) {}
  void apply(Kind kind, const AttemptKey& key, std::string_view payload);
  absl::Status append(std::string_view bytes, bool durable);
  absl::Status compact();

  std::filesystem::path path_;
  FileDescriptor file_;
  bool has_unsynced_offer_ = false;
  std::uint64_t end_ = 0;         // Bytes of records.
  std::uint64_t live_bytes_ = 0;  // Of these, about attempts that are still there.
  std::map<AttemptKey, Live> live_;
};

}  // namespace bitrung::agent
