// Any bytes as a file of torch.save (zip and pickle) or safetensors, as `bitrung import` reads it.
#include <string>

#include "client/interop/state_dict.h"
#include "db/base/check.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto state =
      bitrung::interop::read_state_dict(std::string(bitrung::fuzz::as_text(data, size)));
  if (!state.ok()) {
    BITRUNG_CHECK(!state.status().message().empty());
    return 0;
  }
  constexpr std::uint64_t kElementsMax = 1 << 20;
  for (const auto& [name, view] : state->tensors) {
    if (view.elements() > kElementsMax) continue;  // A view may repeat elements without end.
    const auto rows = bitrung::interop::to_rows(view);
    BITRUNG_CHECK(rows.bytes.size() == view.elements() * bitrung::train::dtype_bytes(rows.dtype));
  }
  return 0;
}
