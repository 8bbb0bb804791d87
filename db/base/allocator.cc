#include "db/base/allocator.h"

#include <cstddef>
#include <cstdint>

#if defined(BITRUNG_HAS_TCMALLOC)

#include <gperftools/malloc_extension.h>
#include <sys/mman.h>

namespace bitrung {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Asked of the kernel at a time; what is not touched costs nothing.
constexpr std::size_t kPiece = 8 * kHugePage;

std::size_t rounded_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

class HugePages final : public SysAllocator {
 public:
  void* Alloc(std::size_t size, std::size_t* actual_size, std::size_t alignment) override {
    if (alignment > kHugePage) return nullptr;
    const std::size_t wanted = rounded_up(size, kPiece);
    void* const mapped = ::mmap(nullptr, wanted + kHugePage, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    // The kernel chooses any page; what sticks out at both ends goes back.
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
    const std::uintptr_t first = rounded_up(begin, kHugePage);
    const std::size_t before = first - begin;
    if (before > 0) ::munmap(mapped, before);
    auto* const result = static_cast<std::byte*>(mapped) + before;
    if (before < kHugePage) ::munmap(result + wanted, kHugePage - before);
    ::madvise(result, wanted, MADV_HUGEPAGE);
    if (actual_size != nullptr) *actual_size = wanted;
    return result;
  }
};

}  // namespace

void use_huge_pages() {
  static HugePages pages;  // For as long as anything allocates.
  MallocExtension::instance()->SetSystemAllocator(&pages);
}

void release_free_memory() {
  MallocExtension::instance()->ReleaseFreeMemory();
}

}  // namespace bitrung

#else

#include <malloc.h>

namespace bitrung {

void use_huge_pages() {}

void release_free_memory() {
  ::malloc_trim(0);
}

}  // namespace bitrung

#endif
