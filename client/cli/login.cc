#include "client/cli/login.h"

#include <system_error>

#include "client/cli/environment.h"
#include "client/cli/exit_code.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {

std::filesystem::path saved_login_file() {
  return user_config_directory() / "login";
}

absl::StatusOr<std::optional<LoginFile>> load_saved_login() {
  absl::StatusOr<LoginFile> login = read_login_file(saved_login_file(), LoginFile::Kind::kLogin);
  if (absl::IsNotFound(login.status())) return std::optional<LoginFile>();
  BITRUNG_RETURN_IF_ERROR(login.status());
  return *std::move(login);
}

absl::Status save_login(const LoginFile& login) {
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(user_config_directory(), 0700)));
  return local_error(write_login_file(saved_login_file(), login));
}

absl::Status forget_login() {
  std::error_code error;
  std::filesystem::remove(saved_login_file(), error);
  if (error) return local_error(errno_status("remove", saved_login_file(), error.value()));
  return absl::OkStatus();
}

}  // namespace bitrung::cli
