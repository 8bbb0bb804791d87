// The most single-precision operations a second that one core does: multiplications and additions
// of registers, nothing else. Compiled for the machine at hand by training.py; prints GFLOP/s, the
// median of seven.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kSums = 24;
#else
constexpr int kLanes = 8;
constexpr int kSums = 12;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));

int main() {
  constexpr int kRounds = 4'000'000;
  std::array<double, 7> rates{};
  float kept = 0.0F;
  for (double& rate : rates) {
    Floats sums[kSums] = {};
    Floats a = Floats{} + 1.0F + kept * 1e-30F;
    Floats b = Floats{} + 1e-7F;
    // What the compiler must not know: that all sums are equal.
    asm volatile("" : "+x"(a), "+x"(b));
    for (Floats& sum : sums) {
      asm volatile("" : "+x"(sum));
    }
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 32
      for (int i = 0; i < kSums; ++i) {
        sums[i] = sums[i] * a + b;
      }
    }
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    for (const Floats& sum : sums) {
      kept += sum[0];
    }
    rate = 2.0 * kLanes * kSums * kRounds / time.count() / 1e9;
  }
  std::sort(rates.begin(), rates.end());
  std::printf("%.1f %s\n", rates[rates.size() / 2], kept > 0.0F ? "" : "-");
}
