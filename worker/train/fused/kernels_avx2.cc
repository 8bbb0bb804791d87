// For x86-64 machines with the instructions that CMakeLists.txt names for this file.
#define BITRUNG_LANES 8
#define BITRUNG_TABLE k_avx2
#define BITRUNG_TABLE_NAME "avx2"
#include "worker/train/fused/kernels_impl.h"
