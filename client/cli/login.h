// The login that a person has saved: which server, how it is known, and the token. One file, mode
// 0600, written by `bitrung login`.
#pragma once

#include <filesystem>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/login_file.h"

namespace bitrung::cli {

// $XDG_CONFIG_HOME/bitrung/login, else ~/.config/bitrung/login.
std::filesystem::path saved_login_file();

// Nothing if there is none. PERMISSION_DENIED if others may read it.
absl::StatusOr<std::optional<LoginFile>> load_saved_login();

absl::Status save_login(const LoginFile& login);
// Fine if there is none.
absl::Status forget_login();

}  // namespace bitrung::cli
