// The options of submitted jobs, checked: whole ones, and those that are partly shared.
//
// Reads the headline columns from the text that is stored, so that they cannot disagree with it.
// Text that is canonical already takes a short way without a tree (spec_scan.h) and keeps its
// shared part; any other is parsed, merged and written anew.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/repeated_ptr_field.h>
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitrung/v1/experiment_service.pb.h"
#include "db/base/shared_spec.h"
#include "db/rows.h"
#include "server/rpc/spec_scan.h"

namespace bitrung::rpc {

inline constexpr std::size_t kSpecBytesMax = std::size_t{64} << 10;
inline constexpr int kSpecDepthMax = 32;
// Of all jobs of a request, every job's shared part counted.
inline constexpr std::size_t kSpecBytesTogetherMax = std::size_t{256} << 20;

// The texts of the options that have a column, in the order of the list in the .cc.
using SpecFields = std::array<std::string_view, 10>;

// What the jobs of a request share. Immutable once made; readers on several threads may use it.
class SharedSpecs {
 public:
  // InvalidArgument or ResourceExhausted for a shared part that no job may have, for a job that
  // names one that is not there, and for too much of all together.
  static absl::StatusOr<SharedSpecs> make(
      const google::protobuf::RepeatedPtrField<std::string>& texts,
      const google::protobuf::RepeatedPtrField<v1::JobNode>& jobs);

 private:
  friend class SpecReader;
  struct Part {
    std::shared_ptr<const std::string> text;
    bool is_canonical = false;
    SpecFields fields{};              // If it is; views into the text, as the members are.
    std::vector<SpecMember> members;  // If it is.
  };

  // Nothing for a job without one.
  const Part* of(const v1::JobNode& node) const {
    return node.shared_spec() == 0 ? nullptr : &parts_[node.shared_spec() - 1];
  }

  std::vector<Part> parts_;
};

// Reads one job after the other; each thread has its own. Does not outlive the shared parts.
class SpecReader {
 public:
  explicit SpecReader(const SharedSpecs& shared) : shared_(shared) {}

  // Sets what a row has of the job's options, from spec_json to `numerics`. InvalidArgument or
  // ResourceExhausted with the job's name, the value and what is allowed.
  absl::Status read(const v1::JobNode& node, db::JobSpecRow& row);

 private:
  // False if anything is not as it should be: the long way says what, or takes it.
  bool read_canonical(const std::string& own, const SharedSpecs::Part* shared, db::JobSpecRow& row);
  static absl::Status read_any(const v1::JobNode& node, const SharedSpecs::Part* shared,
                               db::JobSpecRow& row);

  const SharedSpecs& shared_;
  SpecScanner scanner_;
  std::vector<SpecMember> own_members_;
  std::string whole_;
};

}  // namespace bitrung::rpc
