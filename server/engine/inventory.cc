#include "server/engine/inventory.h"

#include <nlohmann/json.hpp>

namespace bitrung::engine {

std::string inventory_json(const core::WorkerInfo& worker) {
  nlohmann::json inventory = {{"datasets", nlohmann::json::array()},
                              {"shared_cores", worker.shared_cores},
                              {"slots", nlohmann::json::array()}};
  for (const core::DatasetInfo& dataset : worker.datasets) {
    inventory["datasets"].push_back({{"name", dataset.name}, {"sha256", dataset.sha256.hex()}});
  }
  for (const core::SlotInfo& slot : worker.slots) {
    inventory["slots"].push_back({{"device", slot.device},
                                  {"device_name", slot.device_name},
                                  {"memory_bytes", slot.memory_bytes},
                                  {"threads", slot.threads}});
  }
  // Names come from outside: text that is not UTF-8 is replaced, not refused.
  return inventory.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace bitrung::engine
