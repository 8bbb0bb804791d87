// Preloaded into the programs under test: kills the process at a named point.
//
// The programs that are shipped know nothing of it. A point is a system call on a file of a known
// name, before or after the call, which is where a crash matters: what was decided is durable or
// not, said or not. tests/crash/crash_points.py has the names and arms one by writing into a file
// that the processes share; until then a call costs one load more.
//
// FAIL_POINTS names a directory; the file in it is called like the program, e.g. bitrung-server.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

// As struct.Struct("<IIIII64s64s") in crash_points.py.
struct Control {
  std::atomic<std::uint32_t> armed;  // Written last by the test, cleared by the process that dies.
  std::uint32_t call;                // A Call.
  std::uint32_t after;               // 1: after the call.
  std::atomic<std::uint32_t> countdown;  // The call that makes it 0 is the one.
  std::atomic<std::uint32_t>
      prepared;    // A call on `first` was seen; 1 from the start if there is none.
  char first[64];  // Part of a path whose sync has to come before; empty for none.
  char path[64];   // Part of the path of the call's file.
};
enum Call : std::uint32_t { kWrite = 1, kSync = 2, kRename = 3, kUnlink = 4, kSend = 5 };

Control* control() {
  static Control* const mapped = []() -> Control* {
    const char* directory = std::getenv("FAIL_POINTS");
    if (directory == nullptr) return nullptr;
    char program[256];
    const ssize_t size = ::readlink("/proc/self/exe", program, sizeof program);
    if (size <= 0) return nullptr;
    std::string_view name(program, static_cast<std::size_t>(size));
    name.remove_prefix(name.rfind('/') + 1);
    const int fd =
        ::open((std::string(directory) + "/" + std::string(name)).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return nullptr;
    void* page = ::mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    return page == MAP_FAILED ? nullptr : static_cast<Control*>(page);
  }();
  return mapped;
}

// A part that ends with '$' is the end of the text.
bool contains(std::string_view text, std::string_view part) {
  if (part.ends_with('$')) return text.ends_with(part.substr(0, part.size() - 1));
  return text.find(part) != std::string_view::npos;
}

void reached(Call call, bool after, std::string_view path) {
  Control& c = *control();
  if (call == kSync && after && c.first[0] != '\0' && contains(path, c.first)) c.prepared.store(1);
  if (c.call != call || (c.after == 1) != after || c.prepared.load() == 0 ||
      !contains(path, c.path))
    return;
  if (c.countdown.fetch_sub(1) != 1) return;
  c.armed.store(0);
  ::kill(::getpid(), SIGKILL);
}

void reached(Call call, bool after, int fd) {
  char path[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = ::readlink(link.c_str(), path, sizeof path);
  if (size > 0) reached(call, after, std::string_view(path, static_cast<std::size_t>(size)));
}

bool armed() {
  const Control* c = control();
  return c != nullptr && c->armed.load(std::memory_order_acquire) == 1;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

// The call between its two points. `file` is a descriptor or a path.
template <typename File, typename Function, typename... Arguments>
auto between(Call call, File file, Function* function, Arguments... arguments) {
  if (armed()) reached(call, false, file);
  const auto result = function(arguments...);
  const int error = errno;
  if (armed()) reached(call, true, file);
  errno = error;
  return result;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* bytes, size_t size) {
  static auto* const function = next<ssize_t(int, const void*, size_t)>("write");
  return between(kWrite, fd, function, fd, bytes, size);
}
ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* const function = next<ssize_t(int, const iovec*, int)>("writev");
  return between(kWrite, fd, function, fd, parts, count);
}
ssize_t pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  static auto* const function = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return between(kWrite, fd, function, fd, bytes, size, offset);
}
ssize_t pwrite64(int fd, const void* bytes, size_t size, off64_t offset) {
  static auto* const function = next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return between(kWrite, fd, function, fd, bytes, size, offset);
}
int fsync(int fd) {
  static auto* const function = next<int(int)>("fsync");
  return between(kSync, fd, function, fd);
}
int fdatasync(int fd) {
  static auto* const function = next<int(int)>("fdatasync");
  return between(kSync, fd, function, fd);
}
int rename(const char* from, const char* to) noexcept {
  static auto* const function = next<int(const char*, const char*)>("rename");
  return between(kRename, std::string_view(to), function, from, to);
}
int unlink(const char* path) noexcept {
  static auto* const function = next<int(const char*)>("unlink");
  return between(kUnlink, std::string_view(path), function, path);
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static auto* const function = next<ssize_t(int, const msghdr*, int)>("sendmsg");
  return between(kSend, fd, function, fd, message, flags);
}

}  // extern "C"
