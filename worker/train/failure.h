// The trainer's own failures: a class that decides what the server does next, and a message for
// people.
//
// LibTorch reports by exceptions, and the training library links no absl, so its own expected
// failures are exceptions of this one type as well. They are turned into `failed` events in one
// place (serve.cc). Not for programmer errors: those are BITRUNG_CHECK.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace bitrung::train {

enum class FailureClass {
  kUserError,    // The same job fails again anywhere: a wrong option, a missing file, a foreign
                 // checkpoint.
  kDiverged,     // The loss became NaN or infinite.
  kOutOfMemory,  // Host or device memory; another place or a smaller batch may do.
  kDeviceFault,  // The device, or the disk under the work directory, failed.
};

// The word of the `failed` event: "user_error", "diverged", "out_of_memory" or "device_fault".
std::string_view failure_class_name(FailureClass failure_class);

class Failure : public std::runtime_error {
 public:
  Failure(FailureClass failure_class, const std::string& message)
      : std::runtime_error(message), failure_class_(failure_class) {}

  FailureClass failure_class() const { return failure_class_; }

 private:
  FailureClass failure_class_;
};

[[noreturn]] void fail_user_error(const std::string& message);

}  // namespace bitrung::train
