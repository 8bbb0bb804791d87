// For x86-64 machines with the instructions that CMakeLists.txt names for this file.
#define BITRUNG_LANES 16
#define BITRUNG_TABLE k_avx512
#define BITRUNG_TABLE_NAME "avx512"
#include "worker/train/fused/kernels_impl.h"
