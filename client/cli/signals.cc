#include "client/cli/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <utility>

#include "db/base/check.h"

namespace bitrung::cli {

Signals::Signals() {
  sigset_t set;
  sigemptyset(&set);
  // SIGCHLD too, so that the death of a private program wakes the loop at once.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCHLD}) {
    sigaddset(&set, number);
  }
  BITRUNG_CHECK(pthread_sigmask(SIG_BLOCK, &set, &previous_) == 0);
  fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  BITRUNG_CHECK(fd_.valid());
}

Signals::~Signals() {
  pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
}

void Signals::drain() {
  signalfd_siginfo info{};
  while (::read(fd_.get(), &info, sizeof info) == sizeof info) {
    switch (info.ssi_signo) {
      case SIGINT:
      case SIGTERM:
      case SIGHUP:
        ++interrupts_;
        break;
      case SIGWINCH:
        resized_ = true;
        break;
      case SIGTSTP:
        suspend_ = true;
        break;
      default:
        break;
    }
  }
}

bool Signals::take_resized() {
  return std::exchange(resized_, false);
}

bool Signals::take_suspend() {
  return std::exchange(suspend_, false);
}

void suspend_self() {
  ::kill(::getpid(), SIGSTOP);
}

}  // namespace bitrung::cli
