// Where the memory of a long-running program comes from: tcmalloc where the build has it, else what
// the system has.
#pragma once

namespace bitrung {

// Lets the allocator, if it is tcmalloc, take memory in pieces that the kernel may back with huge
// pages: a request of 100,000 jobs touches a few hundred megabytes for the first time, and a fault
// for each 4 KiB costs more than what is done with them, most of all in virtual machines. Early in
// main(); what was allocated before stays where it is.
void use_huge_pages();

// Gives memory that is free but still the process's back to the system, as far as the allocator
// can. Takes milliseconds for each 100 MB. Any thread.
void release_free_memory();

}  // namespace bitrung
