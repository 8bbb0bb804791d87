// What a checkpoint's network computes, for tests that compare with other programs.
//
//   bitrung-forward CHECKPOINT IMAGES OUT float|double
//
// IMAGES holds the tensor "images", (N,3,32,32) normalised floats. OUT gets "logits" (N,classes) and
// for each layer with a quantized input NAME.real, NAME.quantized and NAME.output.
#include <exception>
#include <iostream>
#include <string>

#include "worker/train/checkpoint.h"
#include "worker/train/nn/network.h"
#include "worker/train/safetensors.h"

namespace bitrung::train {

namespace {

class Recorder : public Probe {
 public:
  void activation(const Layer& layer, const at::Tensor& real,
                  const at::Tensor& quantized) override {
    const std::string& name = layer.plan.name;
    file.tensors[name + ".real"] = to_bytes(real);
    file.tensors[name + ".quantized"] = to_bytes(quantized);
    file.tensors[name + ".output"] = to_bytes(layer.apply(quantized, kEvaluationPass));
  }

  SafetensorsFile file;
};

void forward(const std::string& checkpoint, const std::string& images, const std::string& out,
             at::ScalarType type) {
  const at::NoGradGuard no_grad;
  const SafetensorsFile file = read_checkpoint(checkpoint, checkpoint);
  const Spec spec = parse_spec(file.metadata.at("bitrung.spec"), NumericsRule::kAny);
  const NetworkShape shape{spec.network, class_count(spec.dataset)};
  const auto network = make_network(shape, /*seed=*/0, at::TensorOptions().dtype(type));
  load_network(file, checkpoint, LoadRule::kExact, *network);
  const at::Tensor x = from_bytes(read_safetensors(images).tensors.at("images"))
                           .to(type)
                           .contiguous(at::MemoryFormat::ChannelsLast);
  Recorder recorder;
  Taps taps;
  taps.probe = &recorder;
  // Without the probe faster kernels may run; these are the ones that trainings use.
  recorder.file.tensors["logits"] = to_bytes(network->forward(x, kEvaluationPass));
  network->forward(x, kEvaluationPass, taps);
  write_safetensors(out, recorder.file);
}

}  // namespace

}  // namespace bitrung::train

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: bitrung-forward CHECKPOINT IMAGES OUT float|double\n";
    return 2;
  }
  try {
    bitrung::train::forward(argv[1], argv[2], argv[3],
                            std::string(argv[4]) == "double" ? at::kDouble : at::kFloat);
  } catch (const std::exception& error) {
    std::cerr << "bitrung-forward: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
