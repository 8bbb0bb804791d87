#include <array>
#include <cmath>

#include "db/base/check.h"
#include "worker/train/failure.h"
#include "worker/train/quant/affine.h"
#include "worker/train/quant/apot.h"
#include "worker/train/quant/dorefa.h"
#include "worker/train/quant/dorefa_paper.h"
#include "worker/train/quant/ir_net.h"
#include "worker/train/quant/linear.h"
#include "worker/train/quant/lsq.h"
#include "worker/train/quant/lsq_plus.h"
#include "worker/train/quant/pact.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/quant/react.h"
#include "worker/train/quant/recu.h"
#include "worker/train/quant/sawb.h"
#include "worker/train/quant/uniform.h"
#include "worker/train/quant/wrpn.h"
#include "worker/train/quant/xnor.h"

namespace bitrung::train {

namespace {

// At 32 bits every method leaves its input as it is.
class RealWeights : public WeightQuantizer {
 public:
  at::Tensor quantize(const at::Tensor& w, const Pass&) override { return w; }
  std::optional<Grid> grid(const at::Tensor&) override { return std::nullopt; }
};

class RealActivations : public ActivationQuantizer {
 public:
  at::Tensor quantize(const at::Tensor& x, const Pass&) override { return x; }
  std::optional<Grid> grid() override { return std::nullopt; }
  std::optional<UnitGrid> unit_grid() const override {
    return UnitGrid{UnitGrid::Rounding::kNone, 0.0F};
  }
};

const MethodEntry& find_entry(std::string_view name, Part part, const QuantizerSite& site) {
  static const std::array kEntries = {
      dorefa_method(), dorefa_paper_method(), linear_method(), pact_method(),     sawb_method(),
      wrpn_method(),   affine_method(),       lsq_method(),    lsq_plus_method(), apot_method(),
      xnor_method(),   ir_net_method(),       recu_method(),   react_method()};
  check_method(name, part, site);
  for (const MethodEntry& entry : kEntries) {
    if (entry.name == name) {
      return entry;
    }
  }
  BITRUNG_CHECK(!"a method of the table without an entry");
}

}  // namespace

const MethodInfo& known_method(std::string_view name) {
  if (const MethodInfo* const info = find_method(name)) {
    return *info;
  }
  std::string known;
  for (const MethodInfo& method : methods()) {
    known += (known.empty() ? "" : ", ") + std::string(method.name);
  }
  fail_user_error("spec: method \"" + std::string(name) +
                  "\" is unknown to this trainer; known are " + known);
}

void check_method(std::string_view name, Part part, const QuantizerSite& site) {
  if (const auto reason = refusal(known_method(name), part, site.bits, site.options)) {
    fail_user_error("spec: " + site.layer + ": " + *reason);
  }
}

std::unique_ptr<WeightQuantizer> make_weight_quantizer(std::string_view method,
                                                       const QuantizerSite& site) {
  const MethodEntry& entry = find_entry(method, Part::kWeights, site);
  return site.bits == kFullPrecisionBits ? std::make_unique<RealWeights>()
                                         : entry.make_weights(site);
}

std::unique_ptr<ActivationQuantizer> make_activation_quantizer(std::string_view method,
                                                               const QuantizerSite& site) {
  const MethodEntry& entry = find_entry(method, Part::kActivations, site);
  return site.bits == kFullPrecisionBits ? std::make_unique<RealActivations>()
                                         : entry.make_activations(site);
}

std::optional<UniformRule> ActivationQuantizer::uniform_rule(double) const {
  return std::nullopt;
}

void ActivationQuantizer::observe(double, double) {
  BITRUNG_CHECK(!"a quantizer that follows no range");
}

void ActivationQuantizer::set_range(double, double) {
  fail_user_error("a method without a range cannot be calibrated; take linear");
}

void require_finite(const at::Tensor& x, std::string_view what) {
  // A sum reads x once and writes nothing; it is finite unless a value is not, or it overflows.
  if (std::isfinite(x.detach().sum().item<double>()) ||
      at::isfinite(x.detach()).all().item<bool>()) {
    return;
  }
  throw Failure(FailureClass::kDiverged, std::string(what) + " holds NaN or infinite values");
}

}  // namespace bitrung::train
