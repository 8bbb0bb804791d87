#include "tests/disk/fault_disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <utility>

namespace bitrung::disk {
namespace {

constexpr std::uint64_t kSectorBytes = 512;
constexpr int kLocks = SQLITE_SHM_NLOCK;

struct Node {
  std::size_t number = 0;
  std::string bytes;
  // Locks of the file itself, by level.
  int shared = 0;
  const void* reserved = nullptr;
  const void* exclusive = nullptr;  // Pending or exclusive.
  // Shared memory and its locks: number of sharers, or -1.
  std::vector<std::unique_ptr<char[]>> memory;
  std::array<int, kLocks> memory_locks{};
  int mapped = 0;
};

void apply_write(std::string& content, std::uint64_t offset, std::string_view bytes) {
  if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size(), '\0');
  content.replace(offset, bytes.size(), bytes);
}

void apply(std::string& content, const Change& change) {
  if (change.kind == Change::Kind::kWrite) {
    apply_write(content, change.offset, change.bytes);
  } else {
    content.resize(change.offset, '\0');
  }
}

}  // namespace

struct FaultDisk::State {
  mutable std::mutex mutex;
  Platter platter;
  std::map<std::string, std::shared_ptr<Node>> names;
  std::vector<Change> journal;
  std::size_t next_number = 0;
  Fault fault;
  std::array<std::size_t, 6> calls{};  // By Fault::Call; without those of the error kFull.
  std::size_t until_fault = 0;
  bool failed = false;
  int last_errno = 0;
  std::mt19937_64 random{1};  // SQLite's salts: a workload is the same each time.
  std::string vfs_name;
  sqlite3_vfs vfs{};
  sqlite3_vfs* old_default = nullptr;

  // Counts the call; true if it is to fail.
  bool fails(Fault::Call call) {
    ++calls[static_cast<std::size_t>(call)];
    if (fault.call != Fault::Call::kAny && fault.call != call) return false;
    if (fault.error == Fault::Error::kFull && call != Fault::Call::kWrite &&
        call != Fault::Call::kTruncate && call != Fault::Call::kOpen) {
      return false;
    }
    if (until_fault == 0) return false;
    if (until_fault > 1) {
      --until_fault;
      return false;
    }
    if (!fault.for_ever) until_fault = 0;
    failed = true;
    last_errno = fault.error == Fault::Error::kFull ? ENOSPC : EIO;
    return true;
  }
  int code(int io_code) const { return fault.error == Fault::Error::kFull ? SQLITE_FULL : io_code; }
};

// The callbacks of SQLite. A file object of SQLite is an Open; it must start with sqlite3_file.
struct Vfs {
  using State = FaultDisk::State;

  struct Open : sqlite3_file {
    State* state;
    std::shared_ptr<Node>* node;
    std::string* delete_on_close;
    bool sync_directory;  // With the next sync of the file.
    int level;
    bool mapped;
    int last_errno;
  };
  static Open& of(sqlite3_file* file) { return *static_cast<Open*>(file); }
  static int state_errno(const Open& open) { return open.state->last_errno; }

  static int open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags,
                  int* out_flags) {
    State& state = *static_cast<State*>(vfs->pAppData);
    const std::lock_guard lock(state.mutex);
    file->pMethods = nullptr;
    const bool writes = (flags & SQLITE_OPEN_CREATE) != 0;
    const auto found = name == nullptr ? state.names.end() : state.names.find(name);
    if (state.fails(Fault::Call::kOpen) &&
        (state.fault.error == Fault::Error::kIo || (writes && found == state.names.end()))) {
      return SQLITE_CANTOPEN;
    }
    std::shared_ptr<Node> node;
    bool created = false;
    if (found != state.names.end()) {
      node = found->second;
    } else if (writes || name == nullptr) {
      node = std::make_shared<Node>();
      node->number = state.next_number++;
      if (name != nullptr) {
        created = true;
        state.names.emplace(name, node);
        state.journal.push_back(
            {.kind = Change::Kind::kCreate, .file = node->number, .name = name});
      }
    } else {
      return SQLITE_CANTOPEN;
    }
    Open& open = of(file);
    open.state = &state;
    open.node = new std::shared_ptr<Node>(std::move(node));
    open.delete_on_close = name != nullptr && (flags & SQLITE_OPEN_DELETEONCLOSE) != 0
                               ? new std::string(name)
                               : nullptr;
    // As the unix VFS does it: journals and logs, not the database.
    open.sync_directory =
        created &&
        (flags & (SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL | SQLITE_OPEN_SUPER_JOURNAL)) != 0;
    open.level = SQLITE_LOCK_NONE;
    open.mapped = false;
    open.last_errno = 0;
    open.pMethods = methods();
    if (out_flags != nullptr) *out_flags = flags;
    return SQLITE_OK;
  }

  static int close(sqlite3_file* file) {
    Open& open = of(file);
    unlock(file, SQLITE_LOCK_NONE);
    unmap(file, 0);
    {
      const std::lock_guard lock(open.state->mutex);
      if (open.delete_on_close != nullptr) remove(*open.state, *open.delete_on_close);
    }
    delete open.node;
    delete open.delete_on_close;
    return SQLITE_OK;
  }

  static void remove(State& state, const std::string& name) {
    const auto found = state.names.find(name);
    if (found == state.names.end()) return;
    state.journal.push_back(
        {.kind = Change::Kind::kDelete, .file = found->second->number, .name = name});
    state.names.erase(found);
  }

  static int read(sqlite3_file* file, void* out, int count, sqlite3_int64 offset) {
    Open& open = of(file);
    const std::lock_guard lock(open.state->mutex);
    if (open.state->fails(Fault::Call::kRead)) {
      open.last_errno = state_errno(open);
      return SQLITE_IOERR_READ;
    }
    const std::string& bytes = (*open.node)->bytes;
    const auto from = std::min(static_cast<std::size_t>(offset), bytes.size());
    const auto size = static_cast<std::size_t>(count);
    const std::size_t got = std::min(size, bytes.size() - from);
    std::memcpy(out, bytes.data() + from, got);
    if (got == size) return SQLITE_OK;
    std::memset(static_cast<char*>(out) + got, 0, size - got);
    return SQLITE_IOERR_SHORT_READ;
  }

  static int write(sqlite3_file* file, const void* in, int count, sqlite3_int64 offset) {
    Open& open = of(file);
    State& state = *open.state;
    const std::lock_guard lock(state.mutex);
    std::string_view bytes(static_cast<const char*>(in), static_cast<std::size_t>(count));
    const bool fails = state.fails(Fault::Call::kWrite);
    if (fails) bytes = bytes.substr(0, bytes.size() / 2);  // A part of it was taken.
    Node& node = **open.node;
    apply_write(node.bytes, static_cast<std::uint64_t>(offset), bytes);
    state.journal.push_back({.kind = Change::Kind::kWrite,
                             .file = node.number,
                             .offset = static_cast<std::uint64_t>(offset),
                             .bytes = std::string(bytes)});
    if (!fails) return SQLITE_OK;
    open.last_errno = state_errno(open);
    return state.code(SQLITE_IOERR_WRITE);
  }

  static int truncate(sqlite3_file* file, sqlite3_int64 size) {
    Open& open = of(file);
    State& state = *open.state;
    const std::lock_guard lock(state.mutex);
    if (state.fails(Fault::Call::kTruncate)) {
      open.last_errno = state_errno(open);
      return state.code(SQLITE_IOERR_TRUNCATE);
    }
    Node& node = **open.node;
    node.bytes.resize(static_cast<std::size_t>(size), '\0');
    state.journal.push_back({.kind = Change::Kind::kTruncate,
                             .file = node.number,
                             .offset = static_cast<std::uint64_t>(size)});
    return SQLITE_OK;
  }

  static int sync(sqlite3_file* file, int) {
    Open& open = of(file);
    State& state = *open.state;
    const std::lock_guard lock(state.mutex);
    const std::size_t number = (*open.node)->number;
    if (state.fails(Fault::Call::kSync)) {
      open.last_errno = state_errno(open);
      state.journal.push_back({.kind = Change::Kind::kFailedSync, .file = number});
      return SQLITE_IOERR_FSYNC;
    }
    state.journal.push_back({.kind = Change::Kind::kSync, .file = number});
    if (std::exchange(open.sync_directory, false)) {
      state.journal.push_back({.kind = Change::Kind::kSyncDirectory});
    }
    return SQLITE_OK;
  }

  static int size(sqlite3_file* file, sqlite3_int64* out) {
    Open& open = of(file);
    const std::lock_guard lock(open.state->mutex);
    *out = static_cast<sqlite3_int64>((*open.node)->bytes.size());
    return SQLITE_OK;
  }

  static int lock(sqlite3_file* file, int level) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    Node& node = **open.node;
    if (level <= open.level) return SQLITE_OK;
    if (open.level == SQLITE_LOCK_NONE) {
      if (node.exclusive != nullptr && node.exclusive != file) return SQLITE_BUSY;
      ++node.shared;
      open.level = SQLITE_LOCK_SHARED;
    }
    if (level >= SQLITE_LOCK_RESERVED) {
      if (node.reserved != nullptr && node.reserved != file) return SQLITE_BUSY;
      node.reserved = file;
      open.level = SQLITE_LOCK_RESERVED;
    }
    if (level >= SQLITE_LOCK_PENDING) {
      node.exclusive = file;
      open.level = SQLITE_LOCK_PENDING;
      if (node.shared > 1) return SQLITE_BUSY;
      open.level = SQLITE_LOCK_EXCLUSIVE;
    }
    return SQLITE_OK;
  }

  static int unlock(sqlite3_file* file, int level) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    Node& node = **open.node;
    if (level >= open.level) return SQLITE_OK;
    if (node.exclusive == file) node.exclusive = nullptr;
    if (node.reserved == file) node.reserved = nullptr;
    if (level == SQLITE_LOCK_NONE) --node.shared;
    open.level = level;
    return SQLITE_OK;
  }

  static int check_reserved(sqlite3_file* file, int* out) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    *out = (*open.node)->reserved != nullptr ? 1 : 0;
    return SQLITE_OK;
  }

  static int control(sqlite3_file* file, int operation, void* argument) {
    Open& open = of(file);
    if (operation == SQLITE_FCNTL_LAST_ERRNO) {
      *static_cast<int*>(argument) = open.last_errno;
      return SQLITE_OK;
    }
    return SQLITE_NOTFOUND;
  }

  // As the unix VFS has them by default.
  static int sector_size(sqlite3_file*) { return 4096; }
  static int characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

  static int map(sqlite3_file* file, int region, int bytes, int extend, void volatile** out) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    Node& node = **open.node;
    if (!std::exchange(open.mapped, true)) ++node.mapped;
    *out = nullptr;
    const auto wanted = static_cast<std::size_t>(region);
    while (node.memory.size() <= wanted) {
      if (extend == 0) return SQLITE_OK;
      node.memory.push_back(std::make_unique<char[]>(static_cast<std::size_t>(bytes)));
    }
    *out = node.memory[wanted].get();
    return SQLITE_OK;
  }

  static int lock_map(sqlite3_file* file, int first, int count, int flags) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    auto& locks = (*open.node)->memory_locks;
    const bool shared = (flags & SQLITE_SHM_SHARED) != 0;
    if ((flags & SQLITE_SHM_UNLOCK) != 0) {
      for (int i = first; i < first + count; ++i) {
        int& held = locks[static_cast<std::size_t>(i)];
        held = shared ? held - 1 : 0;
      }
      return SQLITE_OK;
    }
    for (int i = first; i < first + count; ++i) {
      const int held = locks[static_cast<std::size_t>(i)];
      if (shared ? held < 0 : held != 0) return SQLITE_BUSY;
    }
    for (int i = first; i < first + count; ++i) {
      int& held = locks[static_cast<std::size_t>(i)];
      held = shared ? held + 1 : -1;
    }
    return SQLITE_OK;
  }

  static void barrier(sqlite3_file* file) { const std::lock_guard guard(of(file).state->mutex); }

  static int unmap(sqlite3_file* file, int) {
    Open& open = of(file);
    const std::lock_guard guard(open.state->mutex);
    Node& node = **open.node;
    if (std::exchange(open.mapped, false) && --node.mapped == 0) node.memory.clear();
    return SQLITE_OK;
  }

  static int remove_file(sqlite3_vfs* vfs, const char* name, int sync_directory) {
    State& state = *static_cast<State*>(vfs->pAppData);
    const std::lock_guard lock(state.mutex);
    if (!state.names.contains(name)) return SQLITE_IOERR_DELETE_NOENT;
    if (state.fails(Fault::Call::kDelete)) return SQLITE_IOERR_DELETE;
    remove(state, name);
    if (sync_directory != 0) state.journal.push_back({.kind = Change::Kind::kSyncDirectory});
    return SQLITE_OK;
  }

  static int access(sqlite3_vfs* vfs, const char* name, int flags, int* out) {
    State& state = *static_cast<State*>(vfs->pAppData);
    const std::lock_guard lock(state.mutex);
    const auto found = state.names.find(name);
    // The unix VFS counts an empty file as none; a hot journal must have something in it.
    *out = found != state.names.end() &&
                   (flags != SQLITE_ACCESS_EXISTS || !found->second->bytes.empty())
               ? 1
               : 0;
    return SQLITE_OK;
  }

  static int full_path(sqlite3_vfs*, const char* name, int size, char* out) {
    sqlite3_snprintf(size, out, "%s", name);
    return SQLITE_OK;
  }

  static int random(sqlite3_vfs* vfs, int count, char* out) {
    State& state = *static_cast<State*>(vfs->pAppData);
    const std::lock_guard lock(state.mutex);
    for (int i = 0; i < count; ++i) out[i] = static_cast<char>(state.random());
    return count;
  }
  static int sleep(sqlite3_vfs*, int microseconds) { return microseconds; }
  static int time(sqlite3_vfs*, sqlite3_int64* out) {
    *out = 212'000'000'000'000;  // Milliseconds of the Julian calendar: some day in 2006.
    return SQLITE_OK;
  }
  static int last_error(sqlite3_vfs* vfs, int, char*) {
    return static_cast<State*>(vfs->pAppData)->last_errno;
  }

  static const sqlite3_io_methods* methods() {
    static const sqlite3_io_methods all = [] {
      sqlite3_io_methods methods{};
      methods.iVersion = 2;
      methods.xClose = close;
      methods.xRead = read;
      methods.xWrite = write;
      methods.xTruncate = truncate;
      methods.xSync = sync;
      methods.xFileSize = size;
      methods.xLock = lock;
      methods.xUnlock = unlock;
      methods.xCheckReservedLock = check_reserved;
      methods.xFileControl = control;
      methods.xSectorSize = sector_size;
      methods.xDeviceCharacteristics = characteristics;
      methods.xShmMap = map;
      methods.xShmLock = lock_map;
      methods.xShmBarrier = barrier;
      methods.xShmUnmap = unmap;
      return methods;
    }();
    return &all;
  }
};

FaultDisk::FaultDisk(Platter platter) : state_(std::make_unique<State>()) {
  sqlite3_initialize();
  State& state = *state_;
  state.platter = std::move(platter);
  for (const auto& [name, bytes] : state.platter) {
    auto node = std::make_shared<Node>();
    node->number = state.next_number++;
    node->bytes = bytes;
    state.names.emplace(name, std::move(node));
  }
  state.old_default = sqlite3_vfs_find(nullptr);
  state.vfs_name = "fault_disk_" + std::to_string(reinterpret_cast<std::uintptr_t>(this));
  state.vfs.iVersion = 2;
  state.vfs.szOsFile = sizeof(Vfs::Open);
  state.vfs.mxPathname = 512;
  state.vfs.zName = state.vfs_name.c_str();
  state.vfs.pAppData = &state;
  state.vfs.xOpen = Vfs::open;
  state.vfs.xDelete = Vfs::remove_file;
  state.vfs.xAccess = Vfs::access;
  state.vfs.xFullPathname = Vfs::full_path;
  state.vfs.xRandomness = Vfs::random;
  state.vfs.xSleep = Vfs::sleep;
  state.vfs.xGetLastError = Vfs::last_error;
  state.vfs.xCurrentTimeInt64 = Vfs::time;
  if (sqlite3_vfs_register(&state.vfs, 1) != SQLITE_OK) std::abort();
}

FaultDisk::~FaultDisk() {
  sqlite3_vfs_unregister(&state_->vfs);
  sqlite3_vfs_register(state_->old_default, 1);
}

void FaultDisk::fail(const Fault& fault) {
  state_->fault = fault;
  state_->until_fault = fault.at;
  state_->failed = false;
}

std::size_t FaultDisk::calls(const Fault& fault) const {
  std::size_t sum = 0;
  for (std::size_t i = 0; i < state_->calls.size(); ++i) {
    const auto call = static_cast<Fault::Call>(i);
    if (fault.call != Fault::Call::kAny && fault.call != call) continue;
    if (fault.error == Fault::Error::kFull && call != Fault::Call::kWrite &&
        call != Fault::Call::kTruncate && call != Fault::Call::kOpen) {
      continue;
    }
    sum += state_->calls[i];
  }
  return sum;
}

bool FaultDisk::has_failed() const {
  return state_->failed;
}

const Platter& FaultDisk::platter() const {
  return state_->platter;
}

const std::vector<Change>& FaultDisk::journal() const {
  return state_->journal;
}

// A file as the platter has it, and what has been asked for since.
struct PowerCut::File {
  enum class State { kWaits, kAbandoned, kSynced };
  struct Since {
    std::size_t position;
    State state;
  };
  std::string synced;
  // In order. What is synced stays here only behind something abandoned, which is under it.
  std::deque<Since> since;
};

PowerCut::PowerCut(const Platter& start, const std::vector<Change>& journal) : journal_(journal) {
  for (const auto& [name, bytes] : start) {
    const std::size_t number = files_.size();  // As FaultDisk numbers them.
    files_[number] = std::make_unique<File>();
    files_[number]->synced = bytes;
    names_[name] = number;
  }
}

PowerCut::~PowerCut() = default;

void PowerCut::advance(std::size_t position) {
  for (; position_ < position; ++position_) {
    const Change& change = journal_[position_];
    auto& file = files_[change.file];
    switch (change.kind) {
      case Change::Kind::kCreate:
        file = std::make_unique<File>();
        unsynced_names_.push_back(position_);
        break;
      case Change::Kind::kDelete:
        unsynced_names_.push_back(position_);
        break;
      case Change::Kind::kWrite:
      case Change::Kind::kTruncate:
        if (file == nullptr) file = std::make_unique<File>();  // It never had a name.
        file->since.push_back({position_, File::State::kWaits});
        break;
      case Change::Kind::kSync:
        if (file == nullptr) break;
        for (File::Since& each : file->since) {
          if (each.state == File::State::kWaits) each.state = File::State::kSynced;
        }
        while (!file->since.empty() && file->since.front().state == File::State::kSynced) {
          apply(file->synced, journal_[file->since.front().position]);
          file->since.pop_front();
        }
        break;
      case Change::Kind::kFailedSync:
        if (file == nullptr) break;
        for (File::Since& each : file->since) {
          if (each.state == File::State::kWaits) each.state = File::State::kAbandoned;
        }
        break;
      case Change::Kind::kSyncDirectory:
        for (const std::size_t at : unsynced_names_) {
          const Change& named = journal_[at];
          if (named.kind == Change::Kind::kCreate) {
            names_[named.name] = named.file;
          } else {
            names_.erase(named.name);
          }
        }
        unsynced_names_.clear();
        break;
    }
  }
}

Platter PowerCut::cut(Keep keep, std::uint64_t seed) const {
  std::mt19937_64 random(seed);
  const auto below = [&random](std::size_t limit) { return random() % limit; };
  // Which of `count` changes are kept; the one at `torn` is kept in part.
  const auto choose = [&](std::size_t count, std::size_t& torn) {
    torn = count;
    std::vector<bool> kept(count, keep == Keep::kEverything);
    if (keep == Keep::kFirst) std::fill_n(kept.begin(), below(count + 1), true);
    if (keep == Keep::kAny || keep == Keep::kTorn) {
      for (std::size_t i = 0; i < count; ++i) kept[i] = below(2) == 0;
    }
    if (keep == Keep::kTorn && count > 0) torn = below(count);
    return kept;
  };

  std::map<std::string, std::size_t> names = names_;
  std::size_t torn = 0;
  const std::vector<bool> kept_names = choose(unsynced_names_.size(), torn);
  for (std::size_t i = 0; i < unsynced_names_.size(); ++i) {
    if (!kept_names[i]) continue;
    const Change& change = journal_[unsynced_names_[i]];
    if (change.kind == Change::Kind::kCreate) {
      names[change.name] = change.file;
    } else if (const auto found = names.find(change.name);
               found != names.end() && found->second == change.file) {
      names.erase(found);
    }
  }

  Platter platter;
  for (const auto& [name, number] : names) {
    const File& file = *files_.at(number);
    std::string content = file.synced;
    const std::vector<bool> kept = choose(file.since.size(), torn);
    for (std::size_t i = 0; i < file.since.size(); ++i) {
      const Change& change = journal_[file.since[i].position];
      if (file.since[i].state == File::State::kSynced) {
        apply(content, change);
      } else if (i == torn && change.kind == Change::Kind::kWrite) {
        // The size may have grown without the bytes, and each sector is old or new.
        const std::uint64_t end = change.offset + change.bytes.size();
        if (below(2) == 0 && content.size() < end) content.resize(end, '\0');
        for (std::uint64_t at = change.offset; at < end;) {
          const std::uint64_t next = std::min(end, (at / kSectorBytes + 1) * kSectorBytes);
          if (below(2) == 0) {
            apply_write(content, at,
                        std::string_view(change.bytes).substr(at - change.offset, next - at));
          }
          at = next;
        }
      } else if (kept[i]) {
        apply(content, change);
      }
    }
    platter.emplace(name, std::move(content));
  }
  return platter;
}

}  // namespace bitrung::disk
