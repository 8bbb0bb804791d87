// For x86-64 machines with the instructions that CMakeLists.txt names for this file.
#define BITRUNG_LANES 16
#define BITRUNG_TABLE k_amx
#define BITRUNG_TABLE_NAME "amx"
#include "worker/train/fused/kernels_impl.h"
