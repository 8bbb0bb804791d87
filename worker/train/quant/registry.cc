#include <array>

#include "worker/train/failure.h"
#include "worker/train/quant/dorefa.h"
#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

const MethodEntry& quantization_method(std::string_view name) {
  static const std::array<MethodEntry, 1> kMethods = {dorefa_method()};
  std::string known;
  for (const MethodEntry& method : kMethods) {
    if (method.name == name) {
      return method;
    }
    known += (known.empty() ? "" : ", ") + std::string(method.name);
  }
  fail_user_error("spec: method \"" + std::string(name) +
                  "\" is unknown to this trainer; known are " + known);
}

}  // namespace bitrung::train
