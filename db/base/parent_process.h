// A program that ends with the one that started it.
#pragma once

#include <sys/types.h>

namespace bitrung {

// From now on the kernel sends SIGTERM when the parent ends. False if it has ended already, and the
// caller should end too. `parent_at_start` is getppid() at the very start of main().
//
// A process whose parent was gone before main() began has process 1 as its parent, and so has one
// that a container's first program started: the latter is told by that program's name, "bitrung…".
bool end_with_parent(pid_t parent_at_start);

}  // namespace bitrung
