// bitrung-trainer: trains quantized networks, one job at a time.
#include <charconv>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/train/failure.h"
#include "worker/train/pack.h"
#include "worker/train/runtime.h"
#include "worker/train/serve.h"
#include "worker/train/spec.h"

namespace bitrung::train {

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kThreadsMax = 1024;

constexpr std::string_view kHelp =
    R"(bitrung-trainer trains quantized networks, one job at a time, and stays warm between jobs.

  bitrung-trainer [--device DEVICE] [--threads N] [--cache-dir DIR] [--events-fd FD]
      Reads commands as JSON lines on standard input until it ends; writes events as JSON lines.
  bitrung-trainer --job FILE [--data-dir DIR] [--work-dir DIR] [--teacher FILE]… [--init FILE] [--source FILE]
                  [--resume FILE]
      Does the one job whose spec lies in FILE.
  bitrung-trainer --pack CHECKPOINT --out FILE
      Writes a trained network as integer codes with their scales (client/interop/PACKED.md).
  bitrung-trainer --inventory
      Prints the devices as one JSON object.

Options
  --device DEVICE   cpu (default) or cuda:N
  --threads N       CPU threads of the training (default 1); part of what makes results bit-identical
  --events-fd FD    descriptor for events (default 1, standard output)
  --data-dir DIR    folder with cifar-10-batches-bin or cifar-100-binary, or with their files
  --cache-dir DIR   folder that trainers of this host share: synthetic data sets, teachers' logits (default: none)
  --work-dir DIR    where checkpoints go (default: the current folder)
  --teacher FILE    teacher's checkpoint, for specs with distill or init "teacher"; once for each teacher
  --init FILE       checkpoint to start from, for specs with init "job" or "artifact"
  --source FILE     checkpoint to quantize or evaluate, for specs of that kind
  --resume FILE     resume state to continue from
  --help, --version

Examples
  bitrung-trainer --inventory
  bitrung-trainer --job spec.json --work-dir /tmp/out > events.jsonl
  bitrung-trainer --job spec.json --data-dir ~/data --threads 2 --resume /tmp/out/resume-7.safetensors
  bitrung-trainer --device cuda:0 --events-fd 3 3> events.jsonl < commands.jsonl

A spec (every option written out; see worker/train/PROTOCOL.md)
  {"augment":["crop","flip"],"backend":"auto","batch_size":128,"bits":{"activations":4,"first":32,"gradients":32,"last":32,
   "layers":[],"shortcut":32,"weights":4},"dataset":"cifar10","epochs":5,"init":"scratch","kind":"train",
   "method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet8","numerics":5,"optimizer":{"kind":"sgd",
   "learning_rate":0.1,"momentum":0.9,"nesterov":false,"weight_decay":0.0001},"schedule":{"kind":"cosine",
   "warmup_epochs":0},"seed":20,"shortcut":"block","train_images":0,"validation":0}

Exit status: 0 done, 1 the job failed, 2 wrong use, 3 the device failed and the process cannot go on.
)";

int print_inventory() {
  nlohmann::json devices = nlohmann::json::array();
  for (const DeviceInfo& device : list_devices()) {
    devices.push_back(
        {{"device", device.device}, {"name", device.name}, {"memory_bytes", device.memory_bytes}});
  }
  const nlohmann::json inventory = {
      {"numerics", kNumerics}, {"torch", libtorch_version()}, {"devices", devices}};
  std::cout << inventory.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  return 0;
}

struct Arguments {
  bool help = false;
  bool version = false;
  bool inventory = false;
  std::string device = "cpu";
  int threads = 1;
  int events_fd = 1;
  std::optional<std::filesystem::path> job;
  std::optional<std::filesystem::path> data_dir;
  std::optional<std::filesystem::path> cache_dir;
  std::optional<std::filesystem::path> work_dir;
  std::vector<std::filesystem::path> teachers;
  std::optional<std::filesystem::path> init;
  std::optional<std::filesystem::path> source;
  std::optional<std::filesystem::path> resume;
  std::optional<std::filesystem::path> pack;
  std::optional<std::filesystem::path> out;
};

// Prints what is wrong and returns nothing.
std::nullopt_t usage_error(const std::string& message) {
  std::cerr << "bitrung-trainer: " << message << "; see bitrung-trainer --help\n";
  return std::nullopt;
}

std::optional<int> parse_number(std::string_view option, std::string_view text, int min, int max) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < min || value > max) {
    return usage_error(std::string(option) + " is \"" + std::string(text) +
                       "\", expected an integer from " + std::to_string(min) + " to " +
                       std::to_string(max));
  }
  return value;
}

bool is_device(std::string_view device) {
  if (device == "cpu") {
    return true;
  }
  return device.starts_with("cuda:") && device.size() > 5 && device.size() < 9 &&
         device.find_first_not_of("0123456789", 5) == std::string_view::npos;
}

std::optional<Arguments> parse_arguments(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string name = words[i];
    std::optional<std::string> value;
    if (const std::size_t equals = name.find('=');
        name.starts_with("--") && equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (name == "--help" || name == "-h") {
      arguments.help = true;
      continue;
    }
    if (name == "--version") {
      arguments.version = true;
      continue;
    }
    if (name == "--inventory") {
      arguments.inventory = true;
      continue;
    }
    std::optional<std::filesystem::path>* path = nullptr;
    if (name == "--job") {
      path = &arguments.job;
    } else if (name == "--data-dir") {
      path = &arguments.data_dir;
    } else if (name == "--cache-dir") {
      path = &arguments.cache_dir;
    } else if (name == "--work-dir") {
      path = &arguments.work_dir;
    } else if (name == "--source") {
      path = &arguments.source;
    } else if (name == "--init") {
      path = &arguments.init;
    } else if (name == "--resume") {
      path = &arguments.resume;
    } else if (name == "--pack") {
      path = &arguments.pack;
    } else if (name == "--out") {
      path = &arguments.out;
    } else if (name != "--teacher" && name != "--device" && name != "--threads" &&
               name != "--events-fd") {
      return usage_error("unknown argument \"" + words[i] + "\"");
    }
    if (!value) {
      if (i + 1 == words.size()) {
        return usage_error(name + " needs a value");
      }
      value = words[++i];
    }
    if (path != nullptr) {
      *path = *value;
    } else if (name == "--teacher") {
      arguments.teachers.emplace_back(*value);
    } else if (name == "--device") {
      if (!is_device(*value)) {
        return usage_error("--device is \"" + *value + "\", expected cpu or cuda:N");
      }
      arguments.device = *value;
    } else {
      const bool is_threads = name == "--threads";
      const std::optional<int> number =
          parse_number(name, *value, is_threads ? 1 : 0, is_threads ? kThreadsMax : 4095);
      if (!number) {
        return std::nullopt;
      }
      (is_threads ? arguments.threads : arguments.events_fd) = *number;
    }
  }
  if (arguments.pack.has_value() != arguments.out.has_value()) {
    return usage_error("--pack CHECKPOINT and --out FILE go together");
  }
  return arguments;
}

int pack(const std::filesystem::path& checkpoint, const std::filesystem::path& out) {
  try {
    pack_file(checkpoint, out);
  } catch (const Failure& failure) {
    std::cerr << "bitrung-trainer: " << failure.what() << '\n';
    return kExitFailed;
  }
  return 0;
}

int run(const std::vector<std::string>& words) {
  const std::optional<Arguments> arguments = parse_arguments(words);
  if (!arguments) {
    return kExitUsage;
  }
  if (arguments->help) {
    std::cout << kHelp;
    return 0;
  }
  if (arguments->version) {
    std::cout << "bitrung-trainer numerics " << kNumerics << ", LibTorch " << libtorch_version()
              << '\n';
    return 0;
  }
  if (arguments->inventory) {
    return print_inventory();
  }
  if (arguments->pack) {
    return pack(*arguments->pack, *arguments->out);
  }
  if (!has_device(arguments->device)) {
    usage_error("device " + arguments->device +
                " is not here; bitrung-trainer --inventory lists those that are");
    return kExitUsage;
  }
  if (arguments->job) {
    AloneOptions options;
    options.device = arguments->device;
    options.threads = arguments->threads;
    options.events_fd = arguments->events_fd;
    options.spec_path = *arguments->job;
    options.data_dir = arguments->data_dir.value_or("");
    options.cache_dir = arguments->cache_dir.value_or("");
    options.work_dir = arguments->work_dir.value_or(".");
    options.teachers = arguments->teachers;
    options.init = arguments->init;
    options.source = arguments->source;
    options.resume = arguments->resume;
    return train_alone(options);
  }
  serve({arguments->device, arguments->threads, arguments->cache_dir.value_or(""),
         /*commands_fd=*/0, arguments->events_fd});
}

}  // namespace

}  // namespace bitrung::train

int main(int argc, char** argv) {
  return bitrung::train::run(std::vector<std::string>(argv + 1, argv + argc));
}
