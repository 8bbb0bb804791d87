#include "worker/train/fused/kernels.h"

namespace bitrung::train::fused {

extern const Kernels k_portable;
#if defined(__x86_64__)
extern const Kernels k_avx512_vnni;
extern const Kernels k_avx512;
extern const Kernels k_avx2;
#endif

KernelList usable_kernels() {
  KernelList list{};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
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
