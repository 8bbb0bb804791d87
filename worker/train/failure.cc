#include "worker/train/failure.h"

#include "db/base/check.h"

namespace bitrung::train {

std::string_view failure_class_name(FailureClass failure_class) {
  switch (failure_class) {
    case FailureClass::kUserError:
      return "user_error";
    case FailureClass::kDiverged:
      return "diverged";
    case FailureClass::kOutOfMemory:
      return "out_of_memory";
    case FailureClass::kDeviceFault:
      return "device_fault";
  }
  BITRUNG_CHECK(!"a failure class without a name");
}

void fail_user_error(const std::string& message) {
  throw Failure(FailureClass::kUserError, message);
}

}  // namespace bitrung::train
