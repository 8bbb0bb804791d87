#include "db/base/parent_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "db/base/check.h"

namespace bitrung {

bool end_with_parent(pid_t parent_at_start) {
  BITRUNG_CHECK(::prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
  if (::getppid() != parent_at_start) return false;
  if (parent_at_start != 1) return true;
  std::ifstream file("/proc/1/comm");
  std::string first;
  std::getline(file, first);
  return first.starts_with("bitrung");
}

}  // namespace bitrung
