#include "client/cli/environment.h"

#include <cstdlib>

namespace bitrung::cli {
namespace {

std::filesystem::path home() {
  return environment("HOME").value_or(".");
}

}  // namespace

std::optional<std::string> environment(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing in this program changes the environment.
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::filesystem::path default_data_directory() {
  if (const auto directory = environment("BITRUNG_DATA_DIR")) return *directory;
  if (const auto cache = environment("XDG_CACHE_HOME")) {
    return std::filesystem::path(*cache) / "bitrung";
  }
  return home() / ".cache" / "bitrung";
}

std::filesystem::path user_config_directory() {
  if (const auto config = environment("XDG_CONFIG_HOME")) {
    return std::filesystem::path(*config) / "bitrung";
  }
  return home() / ".config" / "bitrung";
}

std::filesystem::path user_state_directory() {
  if (const auto state = environment("XDG_STATE_HOME")) {
    return std::filesystem::path(*state) / "bitrung";
  }
  return home() / ".local" / "state" / "bitrung";
}

}  // namespace bitrung::cli
