#include "tests/disk/recovery.h"

#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::disk {

Expected expected_at(const Witness& witness, std::size_t position) {
  const auto before = [position](const auto& list) {
    std::size_t count = 0;
    while (count < list.size() && list[count].position < position) ++count;
    return count;
  };
  const std::size_t terms = before(witness.terms);
  return {.commits = before(witness.commits),
          .acknowledgements = before(witness.acknowledgements),
          .term = terms == 0 ? 0 : witness.terms[terms - 1].term};
}

Recovery::Recovery(const Witness& witness, std::filesystem::path directory)
    : witness_(witness), directory_(std::move(directory)) {}

std::string Recovery::check(const Platter& platter, const Expected& expected,
                            std::vector<Change>& opening) {
  FaultDisk disk(platter);
  auto store = db::Store::open(directory_, kStoreOptions);
  if (!store.ok()) return "it does not open: " + std::string(message(store.status()));
  opening = disk.journal();
  if ((*store)->term() <= expected.term) {
    return fmt::format("term {} was used before", (*store)->term());
  }
  Question question(directory_);
  for (const char* pragma : {"PRAGMA integrity_check", "PRAGMA foreign_key_check"}) {
    const std::vector<std::string> found = question.rows(pragma);
    const bool is_list = std::string_view(pragma).find("foreign") != std::string_view::npos;
    if (is_list ? !found.empty() : found != std::vector<std::string>{"ok"}) {
      return fmt::format("{}: {}", pragma, found.empty() ? "nothing" : found.front());
    }
  }
  const std::string content = question.content();
  const auto is = [&](std::size_t commit) {
    return commit < witness_.commits.size() && witness_.commits[commit].content == content;
  };
  // The last acknowledged one, or one more that could not be acknowledged any more. Before the
  // first there is the empty store, which is what opening makes.
  const std::size_t last = expected.commits == 0 ? 0 : expected.commits - 1;
  if (!is(last) && !is(last + 1)) {
    return fmt::format("it is neither as after commit {} nor as after the next", last);
  }
  unacknowledged_ += is(last) ? 0 : 1;
  for (std::size_t i = 0; i < expected.acknowledgements; ++i) {
    const Acknowledgement& told = witness_.acknowledgements[i];
    if (question.rows(told.sql) != std::vector<std::string>{"1"}) {
      return fmt::format("\"{}\" was acknowledged and is not so: {}", told.what, told.sql);
    }
  }
  if (const auto snapshot = (*store)->load(); !snapshot.ok()) {
    return std::string(message(snapshot.status()));
  }
  return {};
}

}  // namespace bitrung::disk
