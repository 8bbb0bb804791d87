// Means, spreads and tests as the tables of results and comparisons show them. Pure; the server has
// computed every number.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "bitrung/v1/results_service.pb.h"
#include "client/cli/json_shapes.h"
#include "client/cli/output.h"

namespace bitrung::cli {

// How a metric is shown.
struct MetricLook {
  std::string_view title;  // "test accuracy in %"
  int digits = 2;
  bool lower_is_better = false;
};
// Of "top1", "nll", …; a plain look with the name itself for one that this version does not know.
MetricLook look_of(std::string_view metric);

std::string format_metric(double value, const MetricLook& look);
// "+0.51"; a difference that rounds to nothing has no sign.
std::string format_difference(double value, const MetricLook& look);

// "66.90 ± 0.70"; nothing without a mean.
std::string mean_text(const v1::Summary& summary, const MetricLook& look, const Style& style);
// "±1.74", half of the 95 % confidence interval; empty below two values.
std::string interval_text(const v1::Summary& summary, const MetricLook& look, const Style& style);
// "+0.51 ± 0.30" in the colour of its direction, if there is evidence for one.
Cell difference_cell(const v1::PairedTest& test, const MetricLook& look, const Style& style);
// "0.043", "<0.001", or in a word why there is none.
Cell p_value_cell(const v1::PairedTest& test, const Style& style);
// Adds what the word of p_value_cell means to the notes, unless the test has a p value.
void note_no_test(const v1::PairedTest& test, std::set<std::string>& notes);
// "no p: equal (the pairs are equal)"; empty for no notes.
std::string no_test_line(const std::set<std::string>& notes);

Json summary_json(const v1::Summary& summary);  // {"count", "mean", "sd", "low", "high"}
Json test_json(const v1::PairedTest& test);     // The same of the difference, with t and p_value.
Json bits_json(const v1::Bits& bits);
// The number as it is, or an empty text.
std::string number_field(bool has, double value);

}  // namespace bitrung::cli
