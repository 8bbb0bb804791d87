#include "client/cli/progress_view.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/cli/json_shapes.h"
#include "client/cli/render_download.h"
#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kNameWidthMin = 8;
constexpr std::size_t kNameWidthMax = 48;
constexpr std::size_t kEpochWidth = 13;  // "epoch 160/160"
constexpr std::size_t kBarWidth = 12;
constexpr std::size_t kAccuracyWidth = 8;  // "100.00 %"
constexpr std::size_t kRateWidth = 12;     // "12,345 img/s"
constexpr std::size_t kTimeWidth = 11;     // "59m59s left"
constexpr std::size_t kGap = 2;

// Which columns fit; the least needed go first.
struct Layout {
  std::size_t width = 80;
  std::size_t name = kNameWidthMin;
  bool bar = false;
  bool rate = false;
  bool time = false;
  bool accuracy = false;
  bool detail = true;
};

std::size_t numbers_width(const Layout& layout) {
  std::size_t width = 0;
  if (layout.detail) width += kGap + kEpochWidth;
  if (layout.bar) width += kGap + kBarWidth;
  if (layout.accuracy) width += kGap + kAccuracyWidth;
  if (layout.rate) width += kGap + kRateWidth;
  if (layout.time) width += kGap + kTimeWidth;
  return width;
}

Layout layout_for(std::size_t width, std::size_t longest_name) {
  Layout layout{.width = width,
                .name = 0,
                .bar = true,
                .rate = true,
                .time = true,
                .accuracy = true,
                .detail = true};
  const std::size_t wanted = std::clamp(longest_name, kNameWidthMin, kNameWidthMax);
  const auto fits = [&] { return 2 + wanted + numbers_width(layout) <= width; };
  for (bool* column : {&layout.bar, &layout.rate, &layout.accuracy, &layout.time, &layout.detail}) {
    if (fits()) break;
    // A long name gives way before the numbers that people watch.
    if ((column == &layout.accuracy || column == &layout.time || column == &layout.detail) &&
        2 + std::min<std::size_t>(wanted, 20) + numbers_width(layout) <= width) {
      break;
    }
    *column = false;
  }
  const std::size_t used = 2 + numbers_width(layout);
  layout.name = std::min(wanted, width > used ? width - used : 0);
  return layout;
}

bool shows_numbers(const v1::Job& job) {
  return (job.state() == v1::JOB_STATE_RUNNING && job.has_progress()) ||
         (job.state() == v1::JOB_STATE_SUCCEEDED && job.has_result());
}

// For a job that has no numbers to show: what it waits for, or what went wrong.
std::string words_for(const ExperimentView& view, const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_BLOCKED) {
    const std::vector<std::string> parents = view.unfinished_parents(job);
    return parents.empty() ? "blocked" : "waits for " + join(parents, ", ");
  }
  if (job.state() == v1::JOB_STATE_FAILED) return "failed: " + printable(job.error());
  if (job.state() == v1::JOB_STATE_RUNNING) return "starting";
  if (job.state() == v1::JOB_STATE_READY && !job.error().empty()) {
    return "will be tried again: " + printable(job.error());
  }
  return state_name(job.state());
}

std::string job_line(const ExperimentView& view, const v1::Job& job, const Layout& layout,
                     const Style& style) {
  const Tone tone = tone_of(job.state());
  std::string line = style.paint(tone, glyph(job.state(), style));
  if (layout.width < 3) return line;
  line += ' ';
  const std::string name = pad_right(fit(job.name(), layout.name, style), layout.name);
  line += job.state() == v1::JOB_STATE_BLOCKED || job.state() == v1::JOB_STATE_SKIPPED
              ? style.paint(Tone::kFaint, name)
              : name;
  if (!shows_numbers(job)) {
    const std::size_t used = 2 + layout.name + kGap;
    if (layout.width <= used) return line;
    return line + std::string(kGap, ' ') +
           style.paint(tone, fit(words_for(view, job), layout.width - used, style));
  }

  const bool running = job.state() == v1::JOB_STATE_RUNNING;
  const v1::Progress& progress = job.progress();
  const std::string gap(kGap, ' ');
  if (layout.detail) {
    const std::string detail = running
                                   ? fmt::format("epoch {}/{}", progress.epoch(), progress.epochs())
                                   : shown_state(job);
    line += gap + style.paint(tone, pad_right(fit(detail, kEpochWidth, style), kEpochWidth));
  }
  if (layout.bar) {
    const double share = progress.steps() == 0 ? 0.0
                                               : static_cast<double>(progress.step()) /
                                                     static_cast<double>(progress.steps());
    line += gap + (running ? style.paint(tone, progress_bar(share, kBarWidth, style))
                           : std::string(kBarWidth, ' '));
  }
  if (layout.accuracy) {
    const bool has = running ? progress.has_accuracy() : job.result().has_test_accuracy();
    const double accuracy = running ? progress.accuracy() : job.result().test_accuracy();
    line += gap + pad_left(has ? format_percent(accuracy) + " %" : std::string(), kAccuracyWidth);
  }
  if (layout.rate) {
    const double rate = running        ? progress.images_per_second()
                        : job.cached() ? 0
                                       : job.result().images_per_second();
    line +=
        gap + pad_left(rate > 0 ? fmt::format("{} img/s",
                                              format_count(static_cast<std::uint64_t>(rate + 0.5)))
                                : std::string(),
                       kRateWidth);
  }
  if (layout.time) {
    std::string time;
    if (running && progress.has_eta_seconds()) {
      time = format_duration(progress.eta_seconds()) + " left";
    } else if (!running && !job.cached()) {
      time = "in " + format_duration(job.result().duration_seconds());
    }
    line += gap + pad_left(time, kTimeWidth);
  }
  while (line.ends_with(' ')) line.pop_back();
  return line;
}

std::string whole_line(const ExperimentView& view, double elapsed_seconds,
                       const Terminal& terminal) {
  const Style& style = terminal.style;
  // A large experiment arrives in parts; the experiment itself tells of all jobs from the first
  // part on.
  const std::size_t total =
      std::max<std::size_t>(view.jobs().size(), view.experiment().job_count());
  std::size_t done = 0;
  std::size_t cached = 0;
  for (const auto& [id, job] : view.jobs()) {
    if (is_terminal(job.state())) ++done;
    if (job.cached()) ++cached;
  }
  struct Part {
    std::string text;
    Tone tone;
  };
  std::vector<Part> parts{{fmt::format("{}/{} done", done, total), Tone::kStrong}};
  const std::uint32_t running = view.count(v1::JOB_STATE_RUNNING);
  const std::uint32_t failed = view.count(v1::JOB_STATE_FAILED);
  if (failed > 0) parts.push_back({fmt::format("{} failed", failed), Tone::kBad});
  if (const auto left = view.remaining_seconds(); left && done < total) {
    parts.push_back({fmt::format("about {} left", format_duration(*left)), Tone::kPlain});
  }
  parts.push_back({fmt::format("elapsed {}", format_duration(elapsed_seconds)), Tone::kPlain});
  if (running > 0) parts.push_back({fmt::format("{} running", running), Tone::kBusy});
  if (cached > 0) parts.push_back({fmt::format("{} cached", cached), Tone::kGood});

  const std::string separator = fmt::format(" {} ", style.dot());
  std::string line;
  std::size_t width = 0;
  for (const Part& part : parts) {
    const std::size_t more = display_width(part.text) + (line.empty() ? 0 : 3);
    if (width + more > terminal.width) break;  // The parts are in order of importance.
    if (!line.empty()) line += separator;
    line += style.paint(part.tone, part.text);
    width += more;
  }
  return line;
}

// Lower is more worth a line.
int rank(const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_RUNNING || job.state() == v1::JOB_STATE_CANCELLING) return 0;
  if (job.state() == v1::JOB_STATE_FAILED) return 1;
  if (job.state() == v1::JOB_STATE_OFFERED) return 2;
  if (job.state() == v1::JOB_STATE_READY) return 3;
  if (job.state() == v1::JOB_STATE_BLOCKED) return 4;
  return 5;
}

std::string collapsed_line(const std::vector<const v1::Job*>& hidden, const Terminal& terminal) {
  std::size_t waiting = 0;
  std::size_t finished = 0;
  std::size_t cached = 0;
  std::size_t others = 0;
  for (const v1::Job* job : hidden) {
    if (is_terminal(job->state())) {
      ++finished;
      if (job->cached()) ++cached;
    } else if (rank(*job) >= 3) {
      ++waiting;
    } else {
      ++others;
    }
  }
  std::vector<std::string> parts;
  if (others > 0) parts.push_back(fmt::format("{} running", others));
  if (finished > 0) {
    parts.push_back(cached > 0 ? fmt::format("{} finished ({} cached)", finished, cached)
                               : fmt::format("{} finished", finished));
  }
  if (waiting > 0) parts.push_back(fmt::format("{} waiting", waiting));
  const std::string text =
      fmt::format("{} and {}", terminal.style.unicode ? "…" : "...", join(parts, ", "));
  return terminal.style.paint(Tone::kFaint, fit(text, terminal.width, terminal.style));
}

}  // namespace

std::vector<std::string> progress_lines(const ExperimentView& view, double elapsed_seconds,
                                        const Terminal& terminal) {
  std::vector<const v1::Job*> shown;
  std::vector<const v1::Job*> hidden;
  for (const auto& [id, job] : view.jobs()) shown.push_back(&job);
  // One line for the whole, and one that stays free so that the cursor does not scroll the
  // terminal.
  const std::size_t room = terminal.height > 3 ? terminal.height - 2 : 1;
  if (shown.size() > room) {
    std::vector<const v1::Job*> order = shown;
    std::ranges::stable_sort(order, {}, [](const v1::Job* job) { return rank(*job); });
    const std::size_t keep = room - 1;  // One line tells of the hidden ones.
    hidden.assign(order.begin() + static_cast<std::ptrdiff_t>(keep), order.end());
    order.resize(keep);
    std::ranges::sort(order, {}, [](const v1::Job* job) { return job->job_id(); });
    shown = std::move(order);
  }
  std::size_t longest_name = 0;
  for (const v1::Job* job : shown) longest_name = std::max(longest_name, job->name().size());
  const Layout layout = layout_for(terminal.width, longest_name);
  std::vector<std::string> lines;
  for (const v1::Job* job : shown) lines.push_back(job_line(view, *job, layout, terminal.style));
  if (!hidden.empty()) lines.push_back(collapsed_line(hidden, terminal));
  lines.push_back(whole_line(view, elapsed_seconds, terminal));
  return lines;
}

std::string change_line(const v1::Job& job) {
  std::string line = job.name() + ": ";
  if (job.state() == v1::JOB_STATE_RUNNING) {
    line += fmt::format("running on {}, attempt {}", printable(job.worker()), job.attempts());
  } else if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    line += shown_state(job);
    if (job.result().has_test_accuracy()) {
      line += fmt::format(", test accuracy {} %", format_percent(job.result().test_accuracy()));
    }
    if (!job.cached() && job.has_result()) {
      line += fmt::format(", in {}", format_duration(job.result().duration_seconds()));
    }
  } else if (job.state() == v1::JOB_STATE_FAILED) {
    line += fmt::format("failed: {}", printable(job.error()));
  } else if (job.state() == v1::JOB_STATE_READY && !job.error().empty()) {
    line += fmt::format("will be tried again: {}", printable(job.error()));
  } else if (job.state() == v1::JOB_STATE_CANCELLED || job.state() == v1::JOB_STATE_CANCELLING ||
             job.state() == v1::JOB_STATE_SKIPPED) {
    line += state_name(job.state());
  } else {
    return {};  // Ready and offered are over in a moment.
  }
  return line;
}

std::string change_tsv_header() {
  return tsv_line(
      {"time_ms", "job", "state", "cached", "attempts", "worker", "test_accuracy", "error"});
}

std::string change_tsv(const v1::Job& job, std::int64_t now_ms) {
  return tsv_line({fmt::format("{}", now_ms), job.name(), state_name(job.state()),
                   job.cached() ? "true" : "false", fmt::format("{}", job.attempts()), job.worker(),
                   job.result().has_test_accuracy()
                       ? fmt::format("{}", job.result().test_accuracy())
                       : std::string(),
                   job.error()});
}

std::string change_json(const v1::Job& job, std::int64_t now_ms) {
  Json json;
  json["time_ms"] = now_ms;
  json["job"] = status_job_json(job);
  return json_line(json);
}

}  // namespace bitrung::cli
