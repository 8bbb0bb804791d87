// Which role may call what: one table of all methods, the default is to refuse.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace bitrung::auth {

// Of people, each with all that the one before it may; and of workers, apart.
enum class Role : std::uint8_t { kViewer, kSubmitter, kOperator, kAdmin, kWorker };

std::string_view name(Role role);
std::optional<Role> parse_role(std::string_view text);

struct Permission {
  std::string_view method;    // "bitrung.v1.JobService/GetJob", as in the path of the call.
  std::optional<Role> least;  // Of people; nothing if no person may.
  bool worker = false;        // Workers may.
  bool anyone = false;        // Without a login: the request carries its own authority.
  bool audited = false;       // It changes something: each call is written down before it is done.
};

std::span<const Permission> permissions();

// Null for a method that is not in the table; it is to be refused.
const Permission* find_permission(std::string_view method);

}  // namespace bitrung::auth
