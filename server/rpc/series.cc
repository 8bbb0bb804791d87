#include "server/rpc/series.h"

#include <algorithm>
#include <map>
#include <string>

namespace bitrung::rpc {

std::vector<db::SeriesRow> join_attempts(std::vector<db::SeriesRow> series) {
  std::map<std::string, std::vector<db::SeriesRow*>> by_name;
  for (db::SeriesRow& row : series) by_name[row.name].push_back(&row);
  std::vector<db::SeriesRow> joined;
  for (auto& [name, attempts] : by_name) {
    std::ranges::sort(attempts, {}, &db::SeriesRow::attempt);
    db::SeriesRow all = std::move(*attempts.front());
    for (auto next = attempts.begin() + 1; next != attempts.end(); ++next) {
      std::erase_if(all.points, [first = (*next)->first_step](const auto& point) {
        return point.first >= first;
      });
      all.points.insert(all.points.end(), (*next)->points.begin(), (*next)->points.end());
      all.attempt = (*next)->attempt;
    }
    constexpr auto kStep = &std::pair<std::int64_t, double>::first;
    if (!std::ranges::is_sorted(all.points, {}, kStep))  // It nearly always is.
      std::ranges::stable_sort(all.points, {}, kStep);
    all.point_count = all.points.size();
    joined.push_back(std::move(all));
  }
  return joined;
}

void fill_buckets(const db::SeriesRow& series, std::uint32_t buckets_max, v1::Series& out) {
  out.set_name(series.name);
  out.set_point_count(series.points.size());
  const std::size_t count = series.points.size();
  const std::size_t buckets = std::min<std::size_t>(count, buckets_max);
  for (std::size_t i = 0; i < buckets; ++i) {
    const auto begin = series.points.begin() + static_cast<std::ptrdiff_t>(count * i / buckets);
    const auto end = series.points.begin() + static_cast<std::ptrdiff_t>(count * (i + 1) / buckets);
    const auto [low, high] = std::minmax_element(
        begin, end, [](const auto& left, const auto& right) { return left.second < right.second; });
    v1::Bucket& bucket = *out.add_buckets();
    bucket.set_step(std::prev(end)->first);
    bucket.set_min(low->second);
    bucket.set_max(high->second);
    bucket.set_last(std::prev(end)->second);
    bucket.set_count(static_cast<std::uint32_t>(end - begin));
  }
}

}  // namespace bitrung::rpc
