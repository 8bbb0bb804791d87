// A disk in memory under SQLite, for tests: it loses power at any moment, and any of its calls can
// fail.
//
// While it exists it is SQLite's default VFS, so the real Store works on it. It keeps a journal of
// everything that changes a file (create, write, truncate, sync, delete). One run of a workload is
// therefore enough for all its crash points: PowerCut takes the journal up to a moment and decides
// what of it had reached the platter.
//
//   content of a file   what the last sync covered is there. Of the writes and truncations since
//                       then any may be missing, and one write may be torn at 512-byte sectors.
//   names               a created or deleted file is so for certain only after a sync of the
//                       directory, which SQLite's unix VFS makes with the first sync of a journal.
//   a failed sync       what it should have written is never on the platter for certain, even if a
//                       later sync succeeds (Linux marks the pages clean).
//   shared memory       the -shm file is gone after a power cut.
//
// Locks work between the connections of one process. Thread-safe as a VFS; the accessors are for a
// moment when no connection is at work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace bitrung::disk {

// What lies on a platter: contents by name.
using Platter = std::map<std::string, std::string>;

// One change, in the order of the calls.
struct Change {
  enum class Kind { kCreate, kDelete, kWrite, kTruncate, kSync, kFailedSync, kSyncDirectory };
  Kind kind{};
  std::size_t file = 0;      // Number of the file, not of its name: a name can be used again.
  std::string name = {};     // kCreate, kDelete
  std::uint64_t offset = 0;  // kWrite; the new size of kTruncate
  std::string bytes = {};    // kWrite
};

// A call that is to fail.
struct Fault {
  enum class Call { kOpen, kRead, kWrite, kSync, kTruncate, kDelete, kAny };
  enum class Error { kIo, kFull };
  Call call = Call::kAny;
  std::size_t at = 0;     // The at-th such call from now on; 0 is none.
  Error error{};          // kFull only makes opens, writes and truncations fail.
  bool for_ever = false;  // Every later one fails as well.
};

class FaultDisk {
 public:
  explicit FaultDisk(Platter platter = {});
  FaultDisk(const FaultDisk&) = delete;
  FaultDisk& operator=(const FaultDisk&) = delete;
  ~FaultDisk();

  void fail(const Fault& fault);
  // Calls that a fault of this kind would have counted.
  std::size_t calls(const Fault& fault) const;
  // Whether the fault has made a call fail.
  bool has_failed() const;

  // Where the disk began, and everything since.
  const Platter& platter() const;
  const std::vector<Change>& journal() const;

 private:
  friend struct Vfs;
  struct State;
  std::unique_ptr<State> state_;
};

// What of the changes that no sync has confirmed is on the platter.
enum class Keep { kNothing, kEverything, kFirst, kAny, kTorn };
inline constexpr Keep kKeeps[] = {Keep::kNothing, Keep::kEverything, Keep::kFirst, Keep::kAny,
                                  Keep::kTorn};

// Walks through a journal; at each position the power may be cut.
class PowerCut {
 public:
  PowerCut(const Platter& start, const std::vector<Change>& journal);
  ~PowerCut();

  // To the moment at which changes[0, position) were asked for, the last of them perhaps not done.
  // Positions rise.
  void advance(std::size_t position);
  // What is left then. Equal arguments leave the same.
  Platter cut(Keep keep, std::uint64_t seed) const;

 private:
  struct File;
  const std::vector<Change>& journal_;
  std::size_t position_ = 0;
  std::map<std::size_t, std::unique_ptr<File>> files_;
  std::map<std::string, std::size_t> names_;  // Durable.
  std::vector<std::size_t> unsynced_names_;   // Positions of creations and deletions.
};

}  // namespace bitrung::disk
