#include "tests/unit/client/cli/golden.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace bitrung::cli {

testing::AssertionResult matches_golden(std::string_view name, std::string_view text) {
  const std::filesystem::path file = std::filesystem::path(BITRUNG_GOLDEN_DIR) / name;
  if (std::getenv("BITRUNG_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(file) << text;
    return testing::AssertionSuccess();
  }
  std::ifstream stream(file);
  if (!stream) return testing::AssertionFailure() << "no golden file " << file;
  std::ostringstream golden;
  golden << stream.rdbuf();
  if (golden.str() == text) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs from " << file << "\n--- golden\n"
                                     << golden.str() << "--- now\n"
                                     << text;
}

}  // namespace bitrung::cli
