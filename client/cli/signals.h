// Signals as events: Ctrl-C, a closed terminal, a resized window, Ctrl-Z.
//
// While an object lives, these signals are blocked in the thread that made it (and in the threads
// made after it) and wait in a descriptor that an event loop polls. At most one object at a time,
// made before other threads start; a second Ctrl-C is only counted here, the loop decides what it
// means.
#pragma once

#include <csignal>

#include "db/base/files.h"

namespace bitrung::cli {

class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Readable when a signal waits.
  int fd() const { return fd_.get(); }
  // Takes all that wait.
  void drain();

  // SIGINT, SIGTERM and SIGHUP so far.
  int interrupts() const { return interrupts_; }
  // True once after each SIGWINCH, SIGTSTP.
  bool take_resized();
  bool take_suspend();

 private:
  FileDescriptor fd_;
  sigset_t previous_{};
  int interrupts_ = 0;
  bool resized_ = false;
  bool suspend_ = false;
};

// Stops this process as Ctrl-Z would; returns when it is continued.
void suspend_self();

}  // namespace bitrung::cli
