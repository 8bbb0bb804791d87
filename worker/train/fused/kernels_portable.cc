// For any machine.
#define BITRUNG_LANES 4
#define BITRUNG_TABLE k_portable
#define BITRUNG_TABLE_NAME "portable"
#include "worker/train/fused/kernels_impl.h"
