// How long jobs take: seconds per operation, learned from attempts that succeeded.
//
// Only the order of ready jobs depends on it, so an estimate may be wrong but must not depend on
// the order in which it was learned: a restart adds the same measurements in another order and must
// come to the same numbers. Sums are therefore kept in whole attoseconds.
#pragma once

#include <cstdint>
#include <vector>

namespace bitrung::core {

class CostModel {
 public:
  // A job of the class with so many operations took so long. True if it is the first measurement of
  // its class. Values that are not positive and finite say nothing and are ignored.
  bool measure(std::uint32_t cost_class, double seconds, double flops);

  // Mean of the class, else of all classes, else a constant. Always positive.
  double seconds_per_flop(std::uint32_t cost_class) const;

  bool is_measured(std::uint32_t cost_class) const;
  bool has_measurements() const { return all_.count > 0; }

 private:
  struct Mean {
    std::int64_t attoseconds_per_flop_sum = 0;
    std::int64_t count = 0;
  };
  std::vector<Mean> classes_;
  Mean all_;
};

}  // namespace bitrung::core
