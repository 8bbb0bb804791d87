// Series as people want them: joined over a job's attempts and no longer than asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "bitrung/v1/job_service.pb.h"
#include "db/rows.h"

namespace bitrung::rpc {

// Joins the attempts of each metric: a later attempt's points replace an earlier one's from its
// first step on, because it trained those steps again. Points come out by step; series by name.
std::vector<db::SeriesRow> join_attempts(std::vector<db::SeriesRow> series);

// At most `buckets_max` buckets of equally many points; with fewer points each is its own bucket.
void fill_buckets(const db::SeriesRow& series, std::uint32_t buckets_max, v1::Series& out);

}  // namespace bitrung::rpc
