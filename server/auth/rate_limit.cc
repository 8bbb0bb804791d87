#include "server/auth/rate_limit.h"

#include <algorithm>

namespace bitrung::auth {

double Bucket::tokens_at(Time now) const {
  if (at_ == Time{} || now <= at_) return tokens_;
  const std::chrono::duration<double> passed = now - at_;
  return std::min(rate_.burst, tokens_ + passed.count() * rate_.per_second);
}

bool Bucket::take(Time now) {
  tokens_ = tokens_at(now);
  at_ = std::max(at_, now);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

double Bucket::wait_seconds(Time now) const {
  return std::max(0.0, (1 - tokens_at(now)) / rate_.per_second);
}

bool Bucket::full(Time now) const {
  return tokens_at(now) >= rate_.burst;
}

double FailedLogins::wait_seconds(std::string_view address, Time now) {
  const std::lock_guard lock(mutex_);
  const auto found = buckets_.find(std::string(address));
  return found == buckets_.end() ? 0 : found->second.wait_seconds(now);
}

void FailedLogins::add(std::string_view address, Time now) {
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= kAddressesMax) {
    std::erase_if(buckets_, [now](const auto& entry) { return entry.second.full(now); });
    if (buckets_.size() >= kAddressesMax) buckets_.clear();
  }
  buckets_.try_emplace(std::string(address), kRate).first->second.take(now);
}

}  // namespace bitrung::auth
