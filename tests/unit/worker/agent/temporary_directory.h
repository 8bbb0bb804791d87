// A directory of a test's own, removed with everything in it at its end.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "db/base/check.h"

namespace bitrung::agent {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "bitrung-agent-XXXXXX").string();
    BITRUNG_CHECK(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;  // What cannot be removed fails no test.
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace bitrung::agent
