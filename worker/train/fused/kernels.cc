#include "worker/train/fused/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bitrung::train::fused {

extern const Kernels k_portable;
#if defined(__x86_64__)
extern const Kernels k_amx;
extern const Kernels k_avx512_vnni;
extern const Kernels k_avx512;
extern const Kernels k_avx2;
#endif

#if defined(__x86_64__)

namespace {

// Tiles of halves and of bytes, and the vectors that fill them. g++ 12 does not know their names.
bool has_amx_instructions() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kBf16 = 1U << 22U;
  constexpr unsigned kTile = 1U << 24U;
  constexpr unsigned kInt8 = 1U << 25U;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kBf16) == 0 || (d & kTile) == 0 ||
      (d & kInt8) == 0) {
    return false;
  }
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

// Linux gives the 8 KB of tile registers to processes that ask, once for all of their threads; old
// kernels and some virtual machines do not.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  static const bool granted = ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace

#endif

KernelList usable_kernels() {
  KernelList list{};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && has_amx_instructions() && may_use_tiles()) {
    list.tables[list.count++] = &k_amx;
  }
  if (has_avx512 && __builtin_cpu_supports("avx512vnni")) {
    list.tables[list.count++] = &k_avx512_vnni;
  }
  if (has_avx512) {
    list.tables[list.count++] = &k_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    list.tables[list.count++] = &k_avx2;
  }
#endif
  list.tables[list.count++] = &k_portable;
  return list;
}

const Kernels& kernels() {
  static const Kernels* const fastest = usable_kernels().tables[0];
  return *fastest;
}

}  // namespace bitrung::train::fused
