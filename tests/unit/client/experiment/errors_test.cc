#include <fmt/format.h>

#include <tuple>

#include "client/experiment/options.h"
#include "tests/unit/client/experiment/testing.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

struct Case {
  std::string text;
  std::string message;
};

void expect_messages(const std::vector<Case>& cases) {
  for (const auto& [text, expected] : cases) EXPECT_EQ(error_of(text), expected) << text;
}

// A file with these lines under a job named a; the first stands in line 4.
std::string job(const std::string& lines) {
  std::string text = "experiment: e\njobs:\n  a:\n    ";
  for (const char c : lines) {
    text += c;
    if (c == '\n') text += "    ";
  }
  return text + "\n";
}

// The same under defaults; the first line is the third of the file.
std::string defaults(const std::string& line) {
  return "experiment: e\ndefaults:\n  " + line + "\njobs: {a: }\n";
}

TEST(Errors, UnknownOptions_SuggestTheNearest) {
  expect_messages({
      {defaults("epoch: 1"),
       R"(ladder.yaml:3: unknown option "epoch" in defaults; did you mean "epochs"?)"},
      {job("epohcs: 1"),
       R"(ladder.yaml:4: unknown option "epohcs" in job a; did you mean "epochs"?)"},
      {job("laddr: {bits: [4]}"),
       R"(ladder.yaml:4: unknown option "laddr" in job a; did you mean "ladder"?)"},
      {job("learning_rate: 0.1"),
       R"(ladder.yaml:4: unknown option "learning_rate" in job a; write optimizer: {learning_rate: …})"},
      {job("optimizer.momentum: 0.1"),
       R"(ladder.yaml:4: unknown option "optimizer.momentum" in job a; write optimizer: {momentum: …})"},
      {job("optimizer: {lerning_rate: 0.1}"),
       R"(ladder.yaml:4: unknown option "lerning_rate" in optimizer of job a; did you mean )"
       R"("learning_rate"?)"},
      {job("distill: {lr: 1}"),
       R"(ladder.yaml:4: unknown option "lr" in distill of job a; allowed: kind, temperature, )"
       R"(temperature_end, weight, weight_end, schedule, self_study, attention, hint, similarity, )"
       R"(alpha, beta)"},
      {job("sweep: {bit: [4]}"),
       R"(ladder.yaml:4: unknown option "bit" in sweep of job a; did you mean "bits"?)"},
      {job("sweep: {momentum: [0.9]}"),
       R"(ladder.yaml:4: unknown option "momentum" in sweep of job a; did you mean )"
       R"("optimizer.momentum"?)"},
      {job("ladder: {epochs: [4]}"),
       R"(ladder.yaml:4: unknown option "epochs" in ladder of job a; allowed: bits)"},
      {job("teacher: {file: x}"),
       R"(ladder.yaml:4: unknown option "file" in teacher; allowed: artifact, model, bits, method, shortcut)"},
      {job("init: {artifact: x, model: resnet8}"),
       R"(ladder.yaml:4: unknown option "model" in init; allowed: artifact)"},
      {defaults("qqqq: 1"),
       R"(ladder.yaml:3: unknown option "qqqq" in defaults; allowed: model, shortcut, dataset, )"
       R"(synthetic, train_images, method, bits, epochs, batch_size, seed, optimizer, schedule, )"
       R"(augment, validation, backend, init, distill, teacher, quantize, evaluate, calibration, )"
       R"(retries, timeout, priority, resources)"},
  });
}

TEST(Errors, TopLevel) {
  expect_messages({
      {"experiment: e\njobs: {a: }\njbos: 1\n",
       R"(ladder.yaml:3: unknown option "jbos" at the top level; did you mean "jobs"?)"},
      {"experiment: e\njobs: {a: }\nworkers: 1\n",
       R"(ladder.yaml:3: unknown option "workers" at the top level; allowed: experiment, defaults, )"
       R"(replicate, jobs)"},
      {"experiment: e\nepochs: 1\njobs: {a: }\n",
       R"(ladder.yaml:2: option "epochs" is not allowed at the top level; put it under "defaults" for )"
       R"(all jobs, or under a job)"},
      {"jobs: {a: }\n",
       R"(ladder.yaml: "experiment" is missing; the file needs "experiment: NAME" and "jobs:" with at )"
       R"(least one job)"},
      {"experiment: e\n",
       R"(ladder.yaml: "jobs" is missing; the file needs "experiment: NAME" and "jobs:" with at least )"
       R"(one job)"},
      {"experiment: e\njobs: {}\n",
       "ladder.yaml:2: jobs is an empty mapping; expected a mapping of names to jobs, at least "
       "one"},
      {"experiment: e\njobs:\n",
       "ladder.yaml:2: jobs is empty; expected a mapping of names to jobs, at least one"},
      {"experiment: e\njobs: [a, b]\n",
       "ladder.yaml:2: jobs is a list; expected a mapping of names to jobs, at least one"},
      {"experiment: my ladder\njobs: {a: }\n",
       R"(ladder.yaml:1: experiment is "my ladder"; expected a name: a name has 1 to 128 characters out )"
       R"(of letters, digits and . _ = -)"},
      {"experiment: e\ndefaults: 3\njobs: {a: }\n",
       R"(ladder.yaml:2: defaults is "3"; expected a mapping of options)"},
      {defaults("sweep: {bits: [1]}"),
       R"(ladder.yaml:3: sweep is not allowed in defaults; put it under a job, or use "replicate" to )"
       R"(vary every job)"},
      {"experiment: e\nreplicate: [20, 31]\njobs: {a: }\n",
       "ladder.yaml:2: replicate is a list; expected a mapping of options to lists of values, such "
       "as "
       "{seed: [20, 31]}"},
  });
}

TEST(Errors, JobNames) {
  expect_messages({
      {"experiment: e\njobs:\n  a.b:\n",
       R"(ladder.yaml:3: job name "a.b" is not allowed; expected 1 to 128 characters out of letters, )"
       R"(digits and _ -)"},
      {"experiment: e\njobs: {'': }\n",
       R"(ladder.yaml:2: job name "" is not allowed; expected 1 to 128 characters out of letters, digits )"
       R"(and _ -)"},
      {"experiment: e\njobs:\n  scratch:\n",
       R"(ladder.yaml:3: job name "scratch" is a value of the options teacher and init; choose another )"
       R"(name)"},
      {"experiment: e\njobs:\n  a: 4\n",
       R"(ladder.yaml:3: job a is "4"; expected a mapping of options)"},
  });
  const std::string long_name(120, 'n');
  expect_messages(
      {{"experiment: e\njobs:\n  " + long_name + ":\n    sweep: {bits: [4, w1a32]}\n",
        "ladder.yaml:3: job name " + long_name +
            ".bits=w1a32 has 131 characters, the limit is 128; shorten the name of the job "
            "or sweep fewer options in it"}});
  EXPECT_EQ(graph_of("experiment: e\njobs: {" + std::string(128, 'n') + ": }").jobs.size(), 1U);
}

TEST(Errors, Bits) {
  const std::string expected =
      R"(; expected 1 to 8, 16 or 32, "w1a32", or {weights: 1, activations: 32})";
  expect_messages({
      {job("bits: 0"), "ladder.yaml:4: bits is 0" + expected},
      {job("bits: 9"), "ladder.yaml:4: bits is 9" + expected},
      {job("bits: 33"), "ladder.yaml:4: bits is 33" + expected},
      {job("bits: -4"), "ladder.yaml:4: bits is -4" + expected},
      {job("bits: 4.0"), "ladder.yaml:4: bits is 4.0" + expected},
      {job("bits: 04"), "ladder.yaml:4: bits is 04" + expected},
      {job("bits: four"), "ladder.yaml:4: bits is \"four\"" + expected},
      {job("bits: w9a4"), "ladder.yaml:4: bits is \"w9a4\"" + expected},
      {job("bits: w4"), "ladder.yaml:4: bits is \"w4\"" + expected},
      {job("bits: a4w4"), "ladder.yaml:4: bits is \"a4w4\"" + expected},
      {job("bits: [4, 2]"), "ladder.yaml:4: bits is a list" + expected},
      {job("bits:"), "ladder.yaml:4: bits has no value" + expected},
      {job("bits: {weights: 9}"), "ladder.yaml:4: bits.weights is 9; expected 1 to 8, 16 or 32"},
      {job("bits: {w: 4}"),
       R"(ladder.yaml:4: unknown option "w" in bits of job a; allowed: weights, activations, gradients, )"
       R"(first, shortcut, last, layers)"},
      {job("sweep:\n  bits: [4,\n    33]"), "ladder.yaml:6: bits is 33" + expected},
  });
}

TEST(Errors, Ranges_NameValueAndLimits) {
  const std::string methods = allowed_values(info(Option::kMethodWeights));
  expect_messages({
      {job("epochs: 0"), "ladder.yaml:4: epochs is 0; expected an integer from 1 to 1,000,000"},
      {job("epochs: 1.5"), "ladder.yaml:4: epochs is 1.5; expected an integer from 1 to 1,000,000"},
      {job("epochs: many"),
       "ladder.yaml:4: epochs is \"many\"; expected an integer from 1 to 1,000,000"},
      {job("epochs: [1]"),
       "ladder.yaml:4: epochs is a list; expected an integer from 1 to 1,000,000"},
      {job("epochs: 99999999999999999999"),
       "ladder.yaml:4: epochs is 99999999999999999999; expected an integer from 1 to 1,000,000"},
      {job("seed: -1"),
       "ladder.yaml:4: seed is -1; expected an integer from 0 to 9,007,199,254,740,991"},
      {job("optimizer: {learning_rate: 0}"),
       "ladder.yaml:4: optimizer.learning_rate is 0; expected a number above 0 and at most 1,000"},
      {job("optimizer: {learning_rate: nan}"),
       "ladder.yaml:4: optimizer.learning_rate is \"nan\"; expected a number above 0 and at most "
       "1,000"},
      {job("optimizer: {learning_rate: 1e999}"),
       "ladder.yaml:4: optimizer.learning_rate is \"1e999\"; expected a number above 0 and at most "
       "1,000"},
      {job("optimizer: {momentum: 1}"),
       "ladder.yaml:4: optimizer.momentum is 1; expected a number from 0 to below 1"},
      {job("optimizer: {nesterov: yes}"),
       "ladder.yaml:4: optimizer.nesterov is \"yes\"; expected true or false"},
      {job("optimizer: {nesterov: true, momentum: 0}"),
       "ladder.yaml:4: a: optimizer.nesterov is true, but optimizer.momentum is 0; raise the "
       "momentum or "
       "say nesterov: false"},
      {job("optimizer: adam"),
       "ladder.yaml:4: optimizer is \"adam\"; expected a mapping of kind, learning_rate, momentum, "
       "weight_decay and nesterov"},
      {job("optimizer: {kind: adam}"), "ladder.yaml:4: optimizer.kind is \"adam\"; expected sgd"},
      {job("distill: {weight: 1.5}"),
       "ladder.yaml:4: distill.weight is 1.5; expected a number from 0 to 1"},
      {job("retries: 101"), "ladder.yaml:4: retries is 101; expected an integer from 0 to 100"},
      {job("priority: -1001"),
       "ladder.yaml:4: priority is -1001; expected an integer from -1,000 to 1,000"},
      {job("timeout: soon"),
       "ladder.yaml:4: timeout is \"soon\"; expected seconds or text such as \"90m\" or \"2h\", at "
       "most "
       "366 days, 0 for unlimited"},
      {job("timeout: -1"),
       "ladder.yaml:4: timeout is -1; expected seconds or text such as \"90m\" or \"2h\", at most "
       "366 "
       "days, 0 for unlimited"},
      {job("resources: {devices: 2}"), "ladder.yaml:4: resources.devices is 2; expected 1"},
      {job("resources: {memory: 8 gigs}"),
       "ladder.yaml:4: resources.memory is \"8 gigs\"; expected bytes or text such as \"8GiB\", 0 "
       "for any"},
      {job("model: resnet21"), "ladder.yaml:4: model is \"resnet21\"; expected " +
                                   std::string(train::model_names()) +
                                   "; did you mean \"resnet20\"?"},
      {job("dataset: imagenet"),
       "ladder.yaml:4: dataset is \"imagenet\"; expected cifar10, cifar100 or synthetic"},
      {job("method: {weights: dorfa}"), "ladder.yaml:4: method.weights is \"dorfa\"; expected " +
                                            methods + "; did you mean \"dorefa\"?"},
      {job("method: pakt"),
       "ladder.yaml:4: method is \"pakt\"; expected " + methods + "; did you mean \"pact\"?"},
      {job("augment: crop"),
       "ladder.yaml:4: augment is \"crop\"; expected a list of crop and flip, or [] for none"},
      {job("augment: [crop, crop]"), "ladder.yaml:4: augment lists \"crop\" twice; remove one"},
      {job("augment: [blur]"),
       "ladder.yaml:4: augment is \"blur\"; expected a list of crop and flip, or [] for none"},
      {job("schedule: {at: [80, 120]}"),
       "ladder.yaml:4: schedule.at has 80; expected at most 64 ascending fractions of the training "
       "between 0 and 1, such as [0.5, 0.75]"},
      {job("schedule: {at: [0.5, 0.5]}"),
       "ladder.yaml:4: schedule.at has 0.5; expected at most 64 ascending fractions of the "
       "training "
       "between 0 and 1, such as [0.5, 0.75]"},
      {job("schedule: {at: 0.5}"),
       "ladder.yaml:4: schedule.at is 0.5; expected at most 64 ascending fractions of the training "
       "between 0 and 1, such as [0.5, 0.75]"},
      {job("schedule: {at: [0.5], kind: cosine}"),
       "ladder.yaml:4: schedule.at belongs to a step schedule, this one is cosine; remove it or "
       "say kind: "
       "step"},
      {job("schedule: linear"),
       "ladder.yaml:4: schedule is \"linear\"; expected step, cosine or constant"},
  });
}

TEST(Errors, Methods_RefuseWhatTheyCannotDo) {
  expect_messages({
      {job("method: wrpn\nbits: 1"),
       "ladder.yaml:5: a: wrpn cannot quantize weights to 1 bit: its weights have 2^k - 1 levels, "
       "which is one for 1 bit"},
      {job("method: sawb\nbits: 4"),
       "ladder.yaml:5: a: sawb cannot quantize activations; it is for weights only"},
      {job("method: {weights: apot}\nladder: {bits: [32, 2, 1]}"),
       "ladder.yaml:5: a.bits=1: apot cannot quantize weights to 1 bit: one bit of each weight is "
       "its sign, so 1 bit leaves none for the powers of two"},
      {job("method: {weights: linear, activations: linear, range: symmetric-restricted}\nbits: "
           "w1a4"),
       "ladder.yaml:5: a: linear cannot quantize weights to 1 bit with range symmetric-restricted: "
       "it has 2^k - 1 levels, which is one"},
      {job("method: wrpn\nbits: {weights: 4, activations: 4, first: 1}"),
       "ladder.yaml:5: a: wrpn cannot quantize weights to 1 bit: its weights have 2^k - 1 levels, "
       "which is one for 1 bit"},
      {job("method: wrpn\nbits: {layers: {layer1.0.conv1: w1a4}}"),
       "ladder.yaml:5: a: wrpn cannot quantize weights to 1 bit: its weights have 2^k - 1 levels, "
       "which is one for 1 bit"},
      {job("method: {range: asymmetric}"),
       "ladder.yaml:4: a: method.range is set, but method dorefa has no such option; remove it, or "
       "take linear"},
      {job("method: {weights: sawb, activations: lsq, clip_init: 3}"),
       "ladder.yaml:4: a: method.clip_init is set, but method sawb/lsq has no such option; remove "
       "it, or take pact"},
      {job("bits: {gradients: 6}"),
       "ladder.yaml:4: a: bits.gradients is 6, but method dorefa leaves gradients as they are; "
       "remove it, or take dorefa-paper"},
      {job("model: plane4\nshortcut: convolution"),
       "ladder.yaml:5: a: shortcut is convolution, but plane4 has no shortcuts; say shortcut: "
       "block"},
      {job("model: resnet56-bottleneck\nshortcut: convolution"),
       "ladder.yaml:5: a: shortcut is convolution, but resnet56-bottleneck has bottleneck blocks; "
       "say shortcut: block"},
  });
}

TEST(Errors, BitsOfLayers) {
  expect_messages({
      {job("model: resnet8\nbits: {layers: {layer4.0.conv1: 2}}"),
       R"(ladder.yaml:5: a: bits.layers has "layer4.0.conv1", which is no layer of resnet8; did you )"
       R"(mean "layer1.0.conv1"?)"},
      {job("model: plane2\nbits: {layers: {\"layer*\": 2}}"),
       R"(ladder.yaml:5: a: bits.layers has "layer*", which is no layer of plane2; its layers are )"
       R"(conv1 to fc1)"},
      {job("bits: {layers: {\"layer3.*\": 9}}"),
       R"(ladder.yaml:4: bits.layers of layer3.* is 9; expected 1 to 8, 16 or 32, or a pair such as )"
       R"("w1a32")"},
      {job("bits: {layers: {\"layer 3\": 2}}"),
       R"(ladder.yaml:4: bits.layers has the layer "layer 3"; expected a name such as )"
       R"(layer2.0.conv1, in which * stands for any text)"},
      {job("bits: {layers: [2]}"),
       R"(ladder.yaml:4: bits.layers is a list; expected a mapping of layers or patterns to bits, )"
       R"(such as {"layer3.*": 2, "layer2.0.conv1": w1a4})"},
  });
}

TEST(Errors, PathsAndSearch) {
  const std::string six = "paths: {bits: [32, 16, 8, 4, 2, 1]}\n";
  std::string many = "paths: {bits: [32";
  for (int bits = 1; bits <= 8; ++bits) {
    many += fmt::format(", {0}, w{0}a32, w{0}a16", bits);
  }
  expect_messages({
      {job(six + "search: best-path\nvalidation: 0"),
       "ladder.yaml:6: a.bits=32: search: best-path chooses teachers by their validation accuracy, "
       "but validation is 0; hold out training images, such as validation: 5000 (the test set "
       "never chooses)"},
      {job("search: best-path"),
       "ladder.yaml:4: search of job a needs paths, such as paths: {bits: [32, 16, 8, 4, 2, 1]}; "
       "add them, or remove search"},
      {job(six + "search: all"), "ladder.yaml:5: search of job a is \"all\"; expected best-path"},
      {job(six + "ladder: {bits: [32, 4]}"),
       "ladder.yaml:5: job a has both a ladder and paths; a ladder is one of the paths, so remove "
       "it, or move it to another job"},
      {job("paths: {epochs: [1, 2]}"),
       R"(ladder.yaml:4: unknown option "epochs" in paths of job a; allowed: bits)"},
      {job("paths: [32, 4]"),
       "ladder.yaml:4: paths of job a is a list; expected a mapping such as {bits: [32, 16, 8, "
       "4]}"},
      {job(many + "]}"),
       "ladder.yaml:4: paths of job a has 25 rungs, from which 16,777,216 paths lead down (2^24), "
       "the limit is 100,000 jobs; take fewer rungs, or say search: best-path"},
      {"experiment: e\nreplicate: {seed: [1, 2]}\njobs:\n  a: {paths: {bits: [32, 16, 8, 7, 6, 5, "
       "4, 3, 2, 1, w1a2, w1a3, w1a4, w1a5, w1a6, w1a7, w1a8]}}\n",
       "ladder.yaml:4: job a expands to 131,072 jobs (65536 path x 2 seed), the limit is 100,000; "
       "sweep fewer values or split the experiment"},
      {"experiment: e\ndefaults:\n  paths: {bits: [32]}\njobs: {a: }\n",
       "ladder.yaml:3: paths is not allowed in defaults; put it under a job, or use "
       "\"replicate\" to vary every job"},
  });
}

TEST(Errors, JobsThatTrainNothing) {
  const std::string big = "experiment: e\njobs:\n  big:\n  a: ";
  expect_messages({
      {big + "{quantize: big, epochs: 3}\n",
       "ladder.yaml:4: a: epochs is set, but a job with quantize trains nothing; remove it"},
      {big + "{quantize: big, teacher: big}\n",
       "ladder.yaml:4: a: teacher is set, but a job with quantize trains nothing; remove it"},
      {big + "{quantize: big, model: resnet8}\n",
       "ladder.yaml:4: a: model is set, but a quantized network is that of its source; remove it"},
      {big + "{quantize: big, method: lsq}\n",
       "ladder.yaml:4: a: method.weights is lsq, which needs a training; quantize takes linear "
       "only"},
      {big + "{evaluate: big, bits: 4}\n",
       "ladder.yaml:4: a: bits.weights is set, but a job with evaluate takes the network as it is; "
       "remove it"},
      {big + "{evaluate: big, quantize: big}\n",
       "ladder.yaml:4: a: quantize and evaluate are both set; a quantized network is evaluated "
       "anyway, so remove evaluate, or make it a job of its own"},
      {big + "{calibration: {batches: 3}}\n",
       "ladder.yaml:4: a: calibration.batches is set, but it is only for jobs with quantize; "
       "remove it"},
      {big + "{quantize: b, bits: 4}\n  b: {quantize: big, bits: 8}\n",
       "ladder.yaml:4: quantize of a is b, which trains nothing; name a job that does"},
      {big + "{evaluate: b}\n  b: {evaluate: big}\n",
       "ladder.yaml:4: evaluate of a is b, which trains nothing; name a job that does"},
      {big + "{teacher: b}\n  b: {evaluate: big}\n",
       "ladder.yaml:4: teacher of a is b, which only evaluates a network; name the job that trains "
       "it"},
      {big + "{quantize: a}\n", "ladder.yaml:4: jobs form a cycle: a -> a"},
      {big + "{quantize: big, calibration: {batch_size: 50000}}\n",
       "ladder.yaml:4: a: calibration.batch_size is 50000; expected at most the 45,000 images that "
       "are left to train on (50,000 less 5,000 for validation)"},
      {"experiment: e\ndefaults: {quantize: a}\njobs: {a: }\n",
       "ladder.yaml:2: quantize is not allowed in defaults; put it under a job"},
  });
  EXPECT_EQ(graph_of(big + "{teacher: b}\n  b: {quantize: big, bits: 8}\n").jobs.size(), 3U);
}

TEST(Errors, DistillationThatContradictsItself) {
  const std::string big = "experiment: e\njobs:\n  big:\n  a: {bits: 4, teacher: big, distill: ";
  expect_messages({
      {big + "{schedule: constant, weight_end: 0}}\n",
       "ladder.yaml:4: a: distill.schedule is constant, but temperature or weight has another "
       "value at the end; remove temperature_end and weight_end, or say linear or cosine"},
      {big + "{beta: 4}}\n",
       "ladder.yaml:4: a: distill.beta is set, but distill.kind is kd; remove it, or say kind: "
       "dkd"},
      {big + "{temperature_end: stop}}\n",
       "ladder.yaml:4: distill.temperature_end is \"stop\"; expected a number from 0.001 to "
       "1,000,000, or start"},
      {big + "{self_study: 1}}\n",
       "ladder.yaml:4: distill.self_study is 1; expected a number from 0 to below 1"},
  });
}

TEST(Errors, ImagesMustSuffice) {
  expect_messages({
      {job("train_images: 60000"),
       "ladder.yaml:4: a: train_images is 60000; cifar10 has 50,000 training images, expected at "
       "most so "
       "many or 0 for all"},
      {job("validation: 50000"),
       "ladder.yaml:4: a: validation is 50000; expected fewer than the 50,000 training images, "
       "from which "
       "they are taken, or 0"},
      // The default of one is too much for the other: the line is that of what was written.
      {job("train_images: 5000"),
       "ladder.yaml:4: a: validation is 5000; expected fewer than the 5,000 training images, from "
       "which "
       "they are taken, or 0"},
      {job("dataset: synthetic\nsynthetic: {train_images: 100}\nvalidation: 0"),
       "ladder.yaml:5: a: batch_size is 128; expected at most the 100 images that are left to "
       "train on "
       "(100 less 0 for validation)"},
      {job("train_images: 5100"),
       "ladder.yaml:4: a: batch_size is 128; expected at most the 100 images that are left to "
       "train on "
       "(5,100 less 5,000 for validation)"},
      {job("synthetic: {seed: 3}"),
       "ladder.yaml:4: a: synthetic.seed is set, but dataset is cifar10; remove it or say dataset: "
       "synthetic"},
  });
}

TEST(Errors, Sweeps) {
  expect_messages({
      {job("sweep: {bits: []}"),
       "ladder.yaml:4: bits in sweep of job a is an empty list; expected a list of values, such as "
       "[32, 4]"},
      {job("sweep: {bits: 4}"),
       R"(ladder.yaml:4: bits in sweep of job a is "4"; expected a list of values, such as [4])"},
      {job("sweep: {}"),
       "ladder.yaml:4: sweep of job a is an empty mapping; expected a mapping of options to lists "
       "of "
       "values, such as {bits: [32, 4]}"},
      {job("ladder: [32, 4]"),
       "ladder.yaml:4: ladder of job a is a list; expected a mapping such as {bits: [32, 16, 8, "
       "4]}"},
      {job("sweep: {bits: [4, w4a4]}"),
       "ladder.yaml:4: bits in sweep of job a lists the value 4 twice; remove one"},
      {job("bits: 4\nsweep: {bits: [8]}"),
       "ladder.yaml:4: job a sets bits.weights, which sweep of job a varies; remove one of the "
       "two"},
      {job("sweep: {bits: [8], bits.weights: [4]}"),
       "ladder.yaml:4: bits.weights in sweep of job a and bits in sweep of job a set the same "
       "option of "
       "job a; remove one"},
      {job("sweep: {bits: [8]}\nladder: {bits: [4]}"),
       "ladder.yaml:5: bits in ladder of job a and bits in sweep of job a set the same option of "
       "job a; "
       "remove one"},
      {"experiment: e\nreplicate: {seed: [1, 2]}\njobs:\n  a: {seed: 3}\n",
       "ladder.yaml:4: job a sets seed, which replicate varies; remove one of the two"},
      {"experiment: e\nreplicate: {seed: [1, 2]}\njobs:\n  a: {sweep: {seed: [3]}}\n",
       "ladder.yaml:2: seed in replicate and seed in sweep of job a set the same option of job a; "
       "remove "
       "one"},
  });
}

TEST(Errors, Distillation_NeedsATeacher) {
  expect_messages({
      {job("distill: {temperature: 2}"),
       "ladder.yaml:4: a: distill.temperature is set, but the job has no teacher; say teacher: "
       "NAME, or "
       "remove distill"},
      {job("bits: 4\nsweep: {distill.weight: [1]}"),
       "ladder.yaml:5: a.weight=1: distill.weight is set, but the job has no teacher; say teacher: "
       "NAME, "
       "or remove distill"},
      {job("init: teacher"),
       "ladder.yaml:4: a: init is teacher, but the job has no teacher; say teacher: NAME, or init: "
       "scratch"},
  });
}

TEST(Errors, References) {
  const std::string alone =
      "experiment: e\njobs:\n  alone: {sweep: {bits: [32, 16, 8, 4, 2, 1]}}\n";
  expect_messages({
      {alone + "  a: {teacher: alnoe}",
       R"(ladder.yaml:4: teacher of a is "alnoe", which is no job; did you mean "alone"?)"},
      {alone + "  a: {teacher: qqqq}",
       R"(ladder.yaml:4: teacher of a is "qqqq", which is no job; expected alone or a)"},
      {alone + "  a: {teacher: alone.bit=32}",
       R"(ladder.yaml:4: teacher of a is "alone.bit=32", which is no job; did you mean "alone.bits=32"?)"},
      {alone + "  a: {teacher: alone.bits=three-hundred}",
       R"(ladder.yaml:4: teacher of a is "alone.bits=three-hundred", which is no job; expected )"
       R"(alone.bits=32, alone.bits=16, alone.bits=8, alone.bits=4 or 2 more)"},
      {alone + "  a: {teacher: alone}",
       R"(ladder.yaml:4: teacher of a is "alone", which could be alone.bits=32, alone.bits=16, )"
       R"(alone.bits=8, alone.bits=4 or 2 more; name one of them)"},
      {alone + "  a: {teacher: alone, sweep: {bits: [3]}}",
       R"(ladder.yaml:4: teacher of a.bits=3 is "alone", but none of its jobs has bits=3; name one, such )"
       R"(as "alone.bits=32")"},
      {alone + "  a: {init: alone}",
       R"(ladder.yaml:4: init of a is "alone", which could be alone.bits=32, alone.bits=16, )"
       R"(alone.bits=8, alone.bits=4 or 2 more; name one of them)"},
      {alone + "  a: {teacher: [alone.bits=32, [alone.bits=4]]}",
       "ladder.yaml:4: teacher is a list; expected the name of a job, {artifact: FILE.safetensors, "
       "model: NAME}, a list of these, or none"},
      {alone + "  a: {teacher: []}",
       "ladder.yaml:4: teacher is a list of 0; expected 1 to 16 teachers, or none"},
      {alone + "  a: {teacher: [alone.bits=32, none]}",
       "ladder.yaml:4: teacher has none beside other teachers; remove it"},
      {alone + "  a: {teacher: [alone.bits=32, alone.bits=4, alone.bits=32]}",
       R"(ladder.yaml:4: teacher of a is "alone.bits=32", which is named twice; remove one)"},
      {alone + "  a: {quantize: alnoe}",
       R"(ladder.yaml:4: quantize of a is "alnoe", which is no job; did you mean "alone"?)"},
      {"experiment: e\njobs:\n  teacher:\n  big: {model: resnet56}\n  a: {teacher: big, init: "
       "teacher}\n",
       R"(ladder.yaml:5: a: init is teacher, which could be its own teacher or the job of that name; )"
       R"(rename the job "teacher")"},
  });
}

TEST(Errors, Cycles_NameTheJobs) {
  expect_messages({
      {"experiment: e\njobs:\n  a: {teacher: b}\n  b: {teacher: a}\n",
       "ladder.yaml:3: jobs form a cycle: a -> b -> a"},
      {"experiment: e\njobs:\n  a: {teacher: c}\n  b: {init: a}\n  c: {teacher: b}\n",
       "ladder.yaml:3: jobs form a cycle: a -> b -> c -> a"},
      {"experiment: e\njobs:\n  x:\n  a: {teacher: a}\n  b: {teacher: a}\n",
       "ladder.yaml:4: jobs form a cycle: a -> a"},
      {"experiment: e\njobs:\n  x: {ladder: {bits: [8, 4]}, teacher: x.bits=4}\n",
       "ladder.yaml:3: jobs form a cycle: x.bits=8 -> x.bits=4 -> x.bits=8"},
  });
  std::string text = "experiment: e\njobs:\n";
  for (int i = 0; i < 100; ++i) {
    text += "  j" + std::to_string(i) + ": {teacher: j" + std::to_string((i + 99) % 100) + "}\n";
  }
  expect_messages(
      {{text,
        "ladder.yaml:3: jobs form a cycle: j0 -> j1 -> j2 -> j3 -> j4 -> j5 -> j6 -> j7 -> j8 "
        "-> j9 -> j10 -> j11 -> … (88 more) -> j0"}});
}

TEST(Errors, TeacherAndStudent_MustFit) {
  expect_messages({
      {"experiment: e\njobs:\n  big: {dataset: cifar100}\n  a: {teacher: big}\n",
       "ladder.yaml:4: teacher big learns cifar100 with 100 classes of 32x32 images, but a learns "
       "cifar10 "
       "with 10 classes of 32x32; both must have the same"},
      {"experiment: e\njobs:\n  big: {model: resnet56}\n  a: {init: big}\n",
       "ladder.yaml:4: a starts from big, which is a resnet56, but its model is resnet20; both "
       "must be the "
       "same network"},
      {"experiment: e\njobs:\n  a:\n    method: react\n    init: teacher\n    ladder: {bits: [32, "
       "1]}\n",
       "ladder.yaml:5: a.bits=1 starts from a.bits=32, which has shortcut: block, but its own is "
       "convolution; say shortcut: convolution for both"},
      {"experiment: e\njobs:\n  big: {model: resnet56}\n  a: {teacher: big, init: teacher}\n",
       "ladder.yaml:4: a starts from big, which is a resnet56, but its model is resnet20; both "
       "must be the "
       "same network"},
  });
  // The same classes and sizes are enough.
  EXPECT_EQ(
      graph_of("experiment: e\njobs: {big: {dataset: synthetic}, a: {teacher: big}}").jobs.size(),
      2U);
}

std::string numbers(int first, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(first + i);
  return "[" + text + "]";
}

TEST(Errors, TooManyJobs_AreCountedNotExpanded) {
  const std::string fifty_thousand = numbers(1, 50'000);
  const std::string text = "experiment: e\njobs:\n  a:\n    sweep: {seed: " + fifty_thousand +
                           ", epochs: " + fifty_thousand + ", synthetic.seed: " + fifty_thousand +
                           ", train_images: " + fifty_thousand + ", batch_size: " + fifty_thousand +
                           "}\n";
  const absl::Status status = parse(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      message(status),
      "ladder.yaml:3: job a expands to more than 2^64 jobs (50000 seed x 50000 epochs x 50000 "
      "synthetic.seed x 50000 train_images x 50000 batch_size), the limit is 100,000; sweep fewer "
      "values or split the experiment");
  expect_messages({
      {"experiment: e\nreplicate: {seed: " + numbers(1, 1001) +
           "}\njobs:\n  a: {sweep: {epochs: " + numbers(1, 100) + "}}\n",
       "ladder.yaml:4: job a expands to 100,100 jobs (100 epochs x 1001 seed), the limit is "
       "100,000; "
       "sweep fewer values or split the experiment"},
      {"experiment: e\nreplicate: {seed: " + numbers(1, 60'000) + "}\njobs:\n  a:\n  b:\n",
       "ladder.yaml:5: with job b the experiment expands to 120,000 jobs, the limit is 100,000; "
       "split the "
       "experiment"},
      {"experiment: e\nreplicate: {seed: " + numbers(1, 100'001) + "}\njobs:\n  a:\n",
       "ladder.yaml:2: seed in replicate has 100,001 values, the limit is 100,000 jobs; split the "
       "experiment"},
      {"experiment: e\njobs:\n  big:\n  a: {teacher: big, sweep: {epochs: " + numbers(1, 10'001) +
           "}}\n",
       "ladder.yaml: more than 10,000 jobs take something from big; split the experiment"},
  });
}

}  // namespace
}  // namespace bitrung::client
