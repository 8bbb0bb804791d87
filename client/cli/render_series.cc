#include "client/cli/render_series.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "client/cli/json_shapes.h"

namespace bitrung::cli {
namespace {

// More characters tell no more in a list.
constexpr std::size_t kSparklineWidth = 32;

// At most kSparklineWidth values; of each stretch the last one.
std::vector<double> thinned(const v1::Series& series) {
  const auto size = static_cast<std::size_t>(series.buckets_size());
  const std::size_t width = std::min(size, kSparklineWidth);
  std::vector<double> values;
  for (std::size_t i = 1; i <= width; ++i) {
    values.push_back(series.buckets(static_cast<int>(i * size / width - 1)).last());
  }
  return values;
}

std::string series_text(const v1::GetSeriesResponse& response, const Style& style) {
  if (response.series().empty()) return "no series yet\n";
  Table table({{"job", Align::kLeft},
               {"series", Align::kLeft},
               {"points", Align::kRight},
               {"last", Align::kRight},
               {"min", Align::kRight},
               {"max", Align::kRight},
               {"", Align::kLeft}});
  std::string job_before;
  for (const v1::Series& series : response.series()) {
    // The name once per job; the rest of its block reads better without.
    const std::string job = series.job() == job_before ? std::string() : series.job();
    job_before = series.job();
    if (series.buckets().empty()) {
      table.add_row({job, series.name(), format_count(series.point_count())});
      continue;
    }
    const auto& buckets = series.buckets();
    const double low = std::ranges::min(buckets, {}, &v1::Bucket::min).min();
    const double high = std::ranges::max(buckets, {}, &v1::Bucket::max).max();
    table.add_row({job, series.name(), format_count(series.point_count()),
                   format_value(buckets.rbegin()->last()), format_value(low), format_value(high),
                   Cell(sparkline(thinned(series), style), Tone::kBusy)});
  }
  return table.text(style);
}

}  // namespace

std::string render_series(const v1::GetSeriesResponse& response, OutputMode mode,
                          const Style& style) {
  switch (mode) {
    case OutputMode::kText:
      return series_text(response, style);
    case OutputMode::kTsv: {
      std::string out = tsv_line({"job", "series", "step", "last", "min", "max", "count"});
      for (const v1::Series& series : response.series()) {
        for (const v1::Bucket& bucket : series.buckets()) {
          out += tsv_line({series.job(), series.name(), fmt::format("{}", bucket.step()),
                           fmt::format("{}", bucket.last()), fmt::format("{}", bucket.min()),
                           fmt::format("{}", bucket.max()), fmt::format("{}", bucket.count())});
        }
      }
      return out;
    }
    case OutputMode::kJson:
      break;
  }
  Json json;
  json["series"] = Json::array();
  for (const v1::Series& series : response.series()) json["series"].push_back(series_json(series));
  return json_text(json);
}

}  // namespace bitrung::cli
