// Compares a text with a golden file. BITRUNG_UPDATE_GOLDEN=1 writes the files anew; look at the
// difference before you commit it.
#pragma once

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace bitrung::cli {

// Succeeds if the text equals golden/NAME.
testing::AssertionResult matches_golden(std::string_view name, std::string_view text);

}  // namespace bitrung::cli
