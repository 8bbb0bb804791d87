// Memory that is free but still the process's.
#pragma once

namespace bitrung {

// Gives it back to the system, as far as the allocator can. Takes milliseconds for each 100 MB. Any
// thread.
void release_free_memory();

}  // namespace bitrung
