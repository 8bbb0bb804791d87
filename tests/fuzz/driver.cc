// Runs a fuzz target where there is no libFuzzer: first the corpus, then mutations of it, drawn
// from a seed, for some seconds. It knows nothing of coverage; the `fuzz` preset does, and what
// that finds is kept in the corpus.
//
//   bitrung-fuzz-NAME [--seconds S] [--seed N] [--dictionary FILE] CORPUS…
//
// Each CORPUS is an input or a directory of them. An input that ends the process is left in
// fuzz-crash-… in the working directory.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

using Bytes = std::string;

constexpr std::size_t kInputBytesMax = std::size_t{256} << 10;
constexpr unsigned kSecondsPerInputMax = 30;
constexpr rlim_t kMemoryBytesMax = rlim_t{2} << 30;

// Of the input that runs; read by the signal handler.
const Bytes* running = nullptr;
char crash_file[256];

void keep_input(int signal_number) {
  const int fd = ::open(crash_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && running != nullptr) {
    const ssize_t ignored = ::write(fd, running->data(), running->size());
    static_cast<void>(ignored);
    const char* const text = "fuzz: the input is kept in ";
    for (const char* part : {text, static_cast<const char*>(crash_file), "\n"}) {
      const ssize_t unheard = ::write(2, part, std::strlen(part));
      static_cast<void>(unheard);
    }
  }
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

void run(const Bytes& input) {
  running = &input;
  ::alarm(kSecondsPerInputMax);  // SIGALRM: it hangs.
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  ::alarm(0);
  running = nullptr;
}

Bytes read(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Lines of "text" with \xNN, \\ and \" as libFuzzer's dictionaries have them.
std::vector<Bytes> read_dictionary(const std::filesystem::path& file) {
  std::vector<Bytes> words;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::size_t begin = line.find('"');
    const std::size_t end = line.rfind('"');
    if (line.starts_with('#') || begin == end) continue;
    Bytes word;
    for (std::size_t i = begin + 1; i < end; ++i) {
      if (line[i] == '\\' && i + 3 < end && line[i + 1] == 'x') {
        word += static_cast<char>(std::stoi(line.substr(i + 2, 2), nullptr, 16));
        i += 3;
      } else {
        if (line[i] == '\\') ++i;
        word += line[i];
      }
    }
    words.push_back(std::move(word));
  }
  return words;
}

class Mutator {
 public:
  Mutator(std::uint64_t seed, const std::vector<Bytes>& corpus, const std::vector<Bytes>& words)
      : engine_(seed), corpus_(corpus), words_(words) {}

  Bytes next() {
    Bytes input = corpus_.empty() ? Bytes() : corpus_[below(corpus_.size())];
    for (std::size_t steps = 1 + below(below(2) == 0 ? 3 : 16); steps > 0; --steps) mutate(input);
    if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
    return input;
  }

 private:
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(engine_() % end); }
  char byte() { return static_cast<char>(below(256)); }
  // A place and a length in the input.
  std::pair<std::size_t, std::size_t> piece(const Bytes& input, std::size_t size_max) {
    const std::size_t begin = below(input.size());
    return {begin, 1 + below(std::min(size_max, input.size() - begin))};
  }

  void mutate(Bytes& input) {
    static constexpr char kSpecial[] = {0,   1,   0x7f, '\x80', '\xff', '[',
                                        ']', '{', '}',  '"',    '-',    '9'};
    if (input.empty()) {
      input += byte();
      return;
    }
    const std::size_t at = below(input.size());
    switch (below(10)) {
      case 0:
        input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1:
        input[at] = byte();
        break;
      case 2:
        input[at] = kSpecial[below(sizeof kSpecial)];
        break;
      case 3:
        input.insert(at, 1 + below(8), byte());
        break;
      case 4: {
        const auto [begin, size] = piece(input, 64);
        input.erase(begin, size);
        break;
      }
      case 5: {  // Once more, or very often.
        const auto [begin, size] = piece(input, 64);
        const Bytes part = input.substr(begin, size);
        for (std::size_t times = below(8) == 0 ? 1 + below(1000) : 1; times > 0; --times) {
          input.insert(at, part);
        }
        break;
      }
      case 6: {
        if (corpus_.empty()) break;
        const Bytes& other = corpus_[below(corpus_.size())];
        if (other.empty()) break;
        const auto [begin, size] = piece(other, other.size());
        input.replace(at, std::min(size, input.size() - at), other, begin, size);
        break;
      }
      case 7:
      case 8:
        if (!words_.empty()) input.insert(at, words_[below(words_.size())]);
        break;
      default: {  // A number beside itself.
        static constexpr std::int8_t kSteps[] = {-1, 1, 16, -16};
        input[at] = static_cast<char>(input[at] + kSteps[below(4)]);
        break;
      }
    }
  }

  std::mt19937_64 engine_;
  const std::vector<Bytes>& corpus_;
  const std::vector<Bytes>& words_;
};

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  std::uint64_t seed = 0;
  std::vector<Bytes> corpus;
  std::vector<Bytes> words;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (argument == "--seconds") {
      seconds = std::stod(value());
    } else if (argument == "--seed") {
      seed = std::stoull(value());
    } else if (argument == "--dictionary") {
      words = read_dictionary(value());
    } else if (std::filesystem::is_directory(argument)) {
      std::vector<std::filesystem::path> files;
      for (const auto& entry : std::filesystem::directory_iterator(argument)) {
        if (entry.is_regular_file()) files.push_back(entry.path());
      }
      std::sort(files.begin(), files.end());
      for (const auto& file : files) corpus.push_back(read(file));
    } else if (std::filesystem::is_regular_file(argument)) {
      corpus.push_back(read(argument));
    } else {
      std::fprintf(stderr, "fuzz: there is no %s\n", argument.c_str());
      return 2;
    }
  }
  if (seed == 0) seed = std::random_device{}();
  std::snprintf(crash_file, sizeof crash_file, "fuzz-crash-%s-%llu",
                std::filesystem::path(argv[0]).filename().c_str(),
                static_cast<unsigned long long>(seed));
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM}) {
    std::signal(number, keep_input);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory{kMemoryBytesMax, kMemoryBytesMax};
  ::setrlimit(RLIMIT_AS, &memory);
#endif

  for (const Bytes& input : corpus) run(input);
  Mutator mutator(seed, corpus, words);
  std::uint64_t runs = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    run(mutator.next());
    ++runs;
  }
  std::printf("fuzz: %zu inputs of the corpus, %llu mutations of seed %llu\n", corpus.size(),
              static_cast<unsigned long long>(runs), static_cast<unsigned long long>(seed));
  return 0;
}
