// export and import: files of this machine, and a server in this process that hands out a
// checkpoint.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/fleet_service.grpc.pb.h"
#include "bitrung/v1/job_service.grpc.pb.h"
#include "client/cli/cli.h"
#include "client/cli/state_directory.h"
#include "client/interop/model_fit.h"
#include "client/interop/state_dict.h"
#include "db/base/digest.h"
#include "tests/unit/client/cli/temporary.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;
using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
using ::testing::HasSubstr;
using Tensors = std::map<std::string, train::TensorBytes>;

// resnet8's tensors for 10 classes, all zeros.
Tensors resnet8() {
  Tensors tensors;
  const auto architecture = train::parse_architecture("resnet8").value();
  for (const interop::ExpectedTensor& expected : interop::expected_tensors(architecture, 10)) {
    std::size_t bytes = expected.is_counter ? 8 : 4;
    for (const std::int64_t side : expected.shape) bytes *= static_cast<std::size_t>(side);
    tensors[expected.name] = {expected.is_counter ? train::Dtype::kI64 : train::Dtype::kF32,
                              expected.shape, std::vector<std::uint8_t>(bytes)};
  }
  return tensors;
}

std::string checkpoint_bytes() {
  train::SafetensorsFile file;
  file.tensors = resnet8();
  file.metadata["bitrung.spec"] = "{}";
  const std::vector<std::uint8_t> bytes = train::encode_safetensors(file);
  return {bytes.begin(), bytes.end()};
}

class FakeFleet final : public v1::FleetService::Service {
  Status GetServer(ServerContext*, const v1::GetServerRequest*, v1::GetServerResponse*) override {
    return Status::OK;
  }
};

class FakeExperiments final : public v1::ExperimentService::Service {
  Status ListExperiments(ServerContext*, const v1::ListExperimentsRequest*,
                         v1::ListExperimentsResponse* response) override {
    response->add_experiments()->set_experiment_id(7);
    return Status::OK;
  }
};

class FakeJobs final : public v1::JobService::Service {
 public:
  std::string digest;

  Status GetJob(ServerContext*, const v1::GetJobRequest* request,
                v1::GetJobResponse* response) override {
    if (request->job().experiment() != "7" && request->job().experiment() != "ladder") {
      return {StatusCode::NOT_FOUND, "no experiment " + request->job().experiment()};
    }
    const bool done = request->job().job() == "alone.bits=4";
    response->mutable_job()->set_state(done ? v1::JOB_STATE_SUCCEEDED : v1::JOB_STATE_RUNNING);
    if (done) response->mutable_job()->mutable_result()->set_artifact_sha256(digest);
    return Status::OK;
  }
};

class FakeArtifacts final : public v1::ArtifactService::Service {
 public:
  std::string content;
  std::size_t breaks_after = std::string::npos;  // Bytes of the first stream.
  std::vector<std::uint64_t> offsets;            // Asked for.

  Status DownloadArtifact(ServerContext*, const v1::DownloadArtifactRequest* request,
                          grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) override {
    constexpr std::size_t kChunk = 1000;
    const bool first = offsets.empty();
    offsets.push_back(request->offset());
    for (std::size_t at = request->offset(); at < content.size(); at += kChunk) {
      if (first && at >= breaks_after) return {StatusCode::UNAVAILABLE, "draining"};
      v1::DownloadArtifactResponse response;
      response.set_data(content.substr(at, kChunk));
      writer->Write(response);
    }
    return Status::OK;
  }
};

class Interop : public testing::Test {
 protected:
  Interop() : directory_(folder_.path() / "state"), before_(fs::current_path()) {
    EXPECT_TRUE(directory_.create().ok());
    artifacts_.content = checkpoint_bytes();
    jobs_.digest = sha256(artifacts_.content).hex();
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + directory_.socket().string(),
                             grpc::InsecureServerCredentials());
    for (grpc::Service* service :
         std::initializer_list<grpc::Service*>{&fleet_, &experiments_, &jobs_, &artifacts_}) {
      builder.RegisterService(service);
    }
    server_ = builder.BuildAndStart();
    fs::current_path(folder_.path());
  }
  ~Interop() override {
    fs::current_path(before_);
    server_->Shutdown(std::chrono::system_clock::now());
  }

  int run(const std::vector<std::string>& words) {
    out_.str({});
    err_.str({});
    Terminal terminal;
    terminal.interactive = text_;
    Streams streams{out_, err_, terminal, {}};
    return run_cli(words, streams);
  }
  int export_job(std::vector<std::string> words) {
    words.insert(words.begin(), "export");
    words.insert(words.end(), {"--state-dir", directory_.path.string()});
    return run(words);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  static std::string read(const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  }
  static void write(const fs::path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary) << bytes;
  }
  // Names in the folder besides the state directory.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_.path())) {
      if (entry.path().filename() != "state") names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    return names;
  }

  TemporaryFolder folder_;
  StateDirectory directory_;
  FakeFleet fleet_;
  FakeExperiments experiments_;
  FakeJobs jobs_;
  FakeArtifacts artifacts_;
  std::unique_ptr<grpc::Server> server_;
  bool text_ = true;

 private:
  const fs::path before_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(Interop, Export_WritesTheCheckpointAsItIs) {
  EXPECT_EQ(export_job({"ladder/alone.bits=4"}), 0) << err();
  EXPECT_EQ(read("alone.bits=4.safetensors"), artifacts_.content);
  EXPECT_EQ(files(), std::vector<std::string>{"alone.bits=4.safetensors"});
  EXPECT_THAT(out(), HasSubstr("ladder/alone.bits=4 as safetensors: alone.bits=4.safetensors"));
}

TEST_F(Interop, Export_GoesOnAfterABrokenStream) {
  artifacts_.breaks_after = 5000;
  EXPECT_EQ(export_job({"alone.bits=4", "--out", "x"}), 0) << err();
  EXPECT_EQ(read("x"), artifacts_.content);
  EXPECT_EQ(artifacts_.offsets, (std::vector<std::uint64_t>{0, 5000}));
}

TEST_F(Interop, Export_OfDamagedBytes_FailsAndLeavesNothing) {
  artifacts_.content[100] = static_cast<char>(artifacts_.content[100] ^ 1);
  EXPECT_EQ(export_job({"ladder/alone.bits=4"}), 1);
  EXPECT_THAT(err(), HasSubstr("its copy or the way is damaged"));
  EXPECT_TRUE(files().empty());
}

TEST_F(Interop, ExportAsPt_HoldsTheSameTensors) {
  text_ = false;
  EXPECT_EQ(export_job({"alone.bits=4", "--format", "pt", "--output", "json"}), 0) << err();
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["source"], "7/alone.bits=4");
  EXPECT_EQ(json["format"], "pt");
  EXPECT_EQ(json["file"], "alone.bits=4.pt");
  const std::string bytes = read("alone.bits=4.pt");
  EXPECT_EQ(json["size_bytes"], bytes.size());
  EXPECT_EQ(json["sha256"], sha256(bytes).hex());
  EXPECT_EQ(bytes, interop::encode_torch_file(resnet8()));
}

TEST_F(Interop, Export_OverwritesOnlyWhenTold) {
  write("x.pt", "mine");
  EXPECT_EQ(export_job({"alone.bits=4", "--format", "pt", "--out", "x.pt"}), 5);
  EXPECT_THAT(err(), HasSubstr("x.pt is there already"));
  EXPECT_EQ(read("x.pt"), "mine");
  EXPECT_EQ(export_job({"alone.bits=4", "--format", "pt", "--out", "x.pt", "--force"}), 0);
  EXPECT_NE(read("x.pt"), "mine");
}

TEST_F(Interop, Export_TakesALocalCheckpoint_WithoutAServer) {
  write("mine.safetensors", artifacts_.content);
  EXPECT_EQ(run({"export", "mine.safetensors", "--format", "pt", "--state-dir", "/none"}), 0);
  EXPECT_EQ(read("mine.pt"), interop::encode_torch_file(resnet8()));
  EXPECT_EQ(run({"export", "other.safetensors", "--format", "pt", "--state-dir", "/none"}), 3);
  EXPECT_THAT(err(), HasSubstr("no file other.safetensors"));
}

TEST_F(Interop, Export_OfAJobThatHasNotSucceeded_SaysWhereToLook) {
  EXPECT_EQ(export_job({"ladder/alone.bits=2"}), 5);
  EXPECT_THAT(err(), HasSubstr("job ladder/alone.bits=2 has no checkpoint: it has not succeeded; "
                               "see bitrung explain ladder/alone.bits=2"));
  EXPECT_EQ(export_job({"none/alone.bits=2"}), 3);
  EXPECT_TRUE(files().empty());
}

TEST_F(Interop, Import_FindsTheNetworkAndWritesATeacher) {
  Tensors wrapped;
  for (auto& [name, tensor] : resnet8()) wrapped["module." + name] = tensor;
  write("net.pt", interop::encode_torch_file(wrapped));
  EXPECT_EQ(run({"import", "net.pt"}), 0) << err();
  EXPECT_EQ(out(),
            "net.pt: resnet8 with 10 classes, 46 tensors (PyTorch)\n"
            "  removed \"module.\" from the front of all names\n"
            "written to net.safetensors; in an experiment file:\n"
            "  teacher: {artifact: net.safetensors, model: resnet8}\n");
  const std::string bytes = read("net.safetensors");
  const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  const train::SafetensorsFile file = train::parse_safetensors({begin, bytes.size()});
  EXPECT_EQ(file.tensors.size(), 46U);
  EXPECT_EQ(file.metadata.at("bitrung.model"), "resnet8");

  // What was written can be imported again.
  EXPECT_EQ(run({"import", "net.safetensors", "--model", "resnet8"}), 0) << err();
  EXPECT_EQ(read("net.imported.safetensors"), bytes);
}

TEST_F(Interop, Import_OfWhatDoesNotFit_ListsEveryDifference) {
  Tensors tensors = resnet8();
  tensors["fc.weights"] = tensors["fc.weight"];
  tensors.erase("fc.weight");
  tensors["fc.bias"].shape = {5, 2};
  write("net.pt", interop::encode_torch_file(tensors));
  EXPECT_EQ(run({"import", "net.pt", "--model", "resnet8"}), 2);
  EXPECT_EQ(out(),
            "  difference   tensor\n"
            "  missing      fc.weight   expected (10,64); is it fc.weights?\n"
            "  wrong shape  fc.bias     is (5,2), expected (10)\n"
            "  unexpected   fc.weights  (10,64); is it fc.weight?\n");
  EXPECT_EQ(err(), "bitrung: net.pt does not fit resnet8: 3 differences above\n");
  EXPECT_FALSE(fs::exists("net.safetensors"));

  EXPECT_EQ(run({"import", "net.pt", "--output", "json"}), 2);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["model"], "resnet8");
  EXPECT_EQ(json["differences"].size(), 3U);
  EXPECT_EQ(json["differences"][0]["nearest"], "fc.weights");
  EXPECT_TRUE(json["differences"][0]["found"].is_null());
  EXPECT_EQ(
      err(),
      "bitrung: net.pt fits no network; the nearest is resnet8 with 10 classes, 3 differences "
      "above\n");
}

TEST_F(Interop, Import_OfADifferentNetwork_DoesNotFloodTheTerminal) {
  write("net.pt", interop::encode_torch_file(resnet8()));
  EXPECT_EQ(run({"import", "net.pt", "--model", "resnet110"}), 2);
  EXPECT_EQ(std::ranges::count(out(), '\n'), 42);
  EXPECT_THAT(out(), HasSubstr(" more; --output json lists all\n"));
}

TEST_F(Interop, Import_RefusesWhatItNeedNotOrCannotTake) {
  write("own.safetensors", artifacts_.content);
  EXPECT_EQ(run({"import", "own.safetensors"}), 2);
  EXPECT_THAT(err(),
              HasSubstr("own.safetensors is a checkpoint of bitrung itself and needs no import"));
  write("text.pt", "hello");
  EXPECT_EQ(run({"import", "text.pt"}), 2);
  EXPECT_EQ(err(), "bitrung: text.pt: it is neither a file of torch.save nor a safetensors file\n");
  EXPECT_EQ(run({"import", "none.pt"}), 3);
  EXPECT_EQ(run({"import", "text.pt", "--model", "resnet9"}), 2);
  write("net.pt", interop::encode_torch_file(resnet8()));
  EXPECT_EQ(run({"import", "net.pt", "--model", "resnet9"}), 2);
  EXPECT_THAT(err(), HasSubstr("--model resnet9: expected resnet8, 14"));
}

}  // namespace
}  // namespace bitrung::cli
