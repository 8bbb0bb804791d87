// Commands against a server in this process that answers from a script: exit codes, cursors,
// idempotency, logins.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/fleet_service.grpc.pb.h"
#include "bitrung/v1/job_service.grpc.pb.h"
#include "bitrung/v1/results_service.grpc.pb.h"
#include "client/cli/cli.h"
#include "client/cli/state_directory.h"
#include "db/base/certificates.h"
#include "db/base/login_file.h"
#include "db/base/secret.h"
#include "tests/unit/client/cli/sample.h"
#include "tests/unit/client/cli/temporary.h"

namespace bitrung::cli {
namespace {

namespace fs = std::filesystem;
using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
using testing::ElementsAre;

class FakeFleet final : public v1::FleetService::Service {
 public:
  Status GetServer(ServerContext*, const v1::GetServerRequest*,
                   v1::GetServerResponse* response) override {
    response->set_version("9.9.9");
    return Status::OK;
  }
  Status ListWorkers(ServerContext*, const v1::ListWorkersRequest*,
                     v1::ListWorkersResponse* response) override {
    for (const v1::Worker& worker : sample_workers()) *response->add_workers() = worker;
    return Status::OK;
  }
  Status DrainWorker(ServerContext*, const v1::DrainWorkerRequest* request,
                     v1::DrainWorkerResponse* response) override {
    if (request->worker() != "a7") {
      return {StatusCode::NOT_FOUND, "no worker \"" + request->worker() + "\""};
    }
    *response->mutable_worker() = sample_workers().front();
    response->mutable_worker()->set_draining(request->drain());
    return Status::OK;
  }
};

class FakeExperiments final : public v1::ExperimentService::Service {
 public:
  std::mutex mutex;
  std::vector<std::int64_t> cursors;  // Of the watch calls so far.
  v1::ExperimentState end_state = v1::EXPERIMENT_STATE_SUCCEEDED;
  bool break_first_watch = false;
  Status submit_status = Status::OK;
  std::vector<v1::SubmitExperimentRequest> submits;

  Status ListExperiments(ServerContext*, const v1::ListExperimentsRequest* request,
                         v1::ListExperimentsResponse* response) override {
    // Five experiments, two per page at most.
    const int first = request->page_token().empty() ? 0 : std::stoi(request->page_token());
    int next = first;
    for (; next < 5 && next - first < std::min<int>(2, static_cast<int>(request->page_size()));
         ++next) {
      v1::Experiment& experiment = *response->add_experiments();
      experiment = sample_experiment();
      experiment.set_experiment_id(5 - next);
    }
    if (next < 5) response->set_next_page_token(std::to_string(next));
    return Status::OK;
  }
  Status GetExperiment(ServerContext*, const v1::GetExperimentRequest* request,
                       v1::GetExperimentResponse* response) override {
    if (request->experiment() == "none") {
      return {StatusCode::NOT_FOUND, "no experiment \"none\""};
    }
    *response->mutable_experiment() = sample_experiment();
    return Status::OK;
  }
  Status SubmitExperiment(ServerContext*, const v1::SubmitExperimentRequest* request,
                          v1::SubmitExperimentResponse* response) override {
    const std::lock_guard lock(mutex);
    submits.push_back(*request);
    if (!submit_status.ok()) return submit_status;
    *response->mutable_experiment() = sample_experiment();
    return Status::OK;
  }
  Status WatchExperiment(ServerContext*, const v1::WatchExperimentRequest* request,
                         grpc::ServerWriter<v1::WatchExperimentResponse>* writer) override {
    bool first = false;
    {
      const std::lock_guard lock(mutex);
      first = cursors.empty();
      cursors.push_back(request->cursor());
    }
    if (request->experiment() == "none") {
      return {StatusCode::NOT_FOUND, "no experiment \"none\""};
    }
    v1::WatchExperimentResponse message;
    *message.mutable_experiment() = sample_experiment();
    for (const v1::Job& job : sample_jobs()) *message.add_jobs() = job;
    message.set_cursor(41);
    if (request->cursor() == 0) writer->Write(message);
    if (first && break_first_watch) return {StatusCode::UNAVAILABLE, "draining"};
    message.clear_jobs();
    *message.add_jobs() = sample_jobs()[2];
    message.mutable_jobs(0)->set_state(v1::JOB_STATE_SUCCEEDED);
    message.mutable_experiment()->set_state(end_state);
    message.set_cursor(42);
    writer->Write(message);
    return Status::OK;
  }
  Status CancelExperiment(ServerContext*, const v1::CancelExperimentRequest* request,
                          v1::CancelExperimentResponse* response) override {
    response->set_changed(request->jobs_size() == 0 ? 5 : 1);
    return Status::OK;
  }
  Status RetryExperiment(ServerContext*, const v1::RetryExperimentRequest*,
                         v1::RetryExperimentResponse* response) override {
    response->set_changed(0);
    return Status::OK;
  }
};

class FakeJobs final : public v1::JobService::Service {
 public:
  bool break_first_stream = false;
  int streams = 0;

  Status ListJobs(ServerContext*, const v1::ListJobsRequest* request,
                  v1::ListJobsResponse* response) override {
    const std::vector<v1::Job> jobs = sample_jobs();
    if (request->page_token().empty()) {
      for (int i = 0; i < 3; ++i) *response->add_jobs() = jobs[static_cast<std::size_t>(i)];
      response->set_next_page_token("3");
    } else {
      for (std::size_t i = 3; i < jobs.size(); ++i) *response->add_jobs() = jobs[i];
    }
    return Status::OK;
  }
  Status ExplainJob(ServerContext*, const v1::ExplainJobRequest* request,
                    v1::ExplainJobResponse* response) override {
    response->set_state(v1::JOB_STATE_READY);
    response->add_lines("job " + request->job().job() + " of " + request->job().experiment());
    return Status::OK;
  }
  Status GetReport(ServerContext*, const v1::GetReportRequest* request,
                   v1::GetReportResponse* response) override {
    if (request->job().job() == "alone.bits=1") {
      return {StatusCode::FAILED_PRECONDITION, "alone.bits=1 is failed"};
    }
    *response = sample_report();
    return Status::OK;
  }
  Status StreamLogs(ServerContext*, const v1::StreamLogsRequest*,
                    grpc::ServerWriter<v1::StreamLogsResponse>* writer) override {
    ++streams;
    v1::StreamLogsResponse response;
    const auto add = [&](std::uint32_t attempt, std::uint64_t line, const std::string& text) {
      v1::LogLine& one = *response.add_lines();
      one.set_attempt(attempt);
      one.set_line(line);
      one.set_time_ms(kNowMs);
      one.set_text(text);
    };
    add(1, 1, "first \x1b[31mtry\x1b[0m");
    add(1, 2, "died");
    if (break_first_stream && streams == 1) {
      writer->Write(response);
      return {StatusCode::UNAVAILABLE, "draining"};
    }
    add(2, 1, "second try");
    writer->Write(response);
    return Status::OK;
  }
};

class FakeResults final : public v1::ResultsService::Service {
 public:
  v1::GetResultsRequest asked;
  v1::CompareRequest compared;

  Status GetResults(ServerContext*, const v1::GetResultsRequest* request,
                    v1::GetResultsResponse* response) override {
    asked = *request;
    if (request->group_by_size() == 1 && request->group_by(0) == "temperature") {
      return {StatusCode::INVALID_ARGUMENT, "did you mean distill.temperature?"};
    }
    *response = sample_results();
    return Status::OK;
  }
  Status Compare(ServerContext*, const v1::CompareRequest* request,
                 v1::CompareResponse* response) override {
    compared = *request;
    *response = sample_comparison();
    return Status::OK;
  }
};

class Commands : public testing::Test {
 protected:
  Commands() : directory_(folder_.path() / "state") {
    EXPECT_TRUE(directory_.create().ok());
    start();
    std::ofstream(file()) << "experiment: bit-ladder\n"
                             "defaults: {model: resnet8, dataset: synthetic, epochs: 1}\n"
                             "jobs:\n  alone: {bits: 4}\n";
  }
  ~Commands() override { server_->Shutdown(std::chrono::system_clock::now()); }

  void start() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + directory_.socket().string(),
                             grpc::InsecureServerCredentials());
    for (grpc::Service* service :
         std::initializer_list<grpc::Service*>{&fleet_, &experiments_, &jobs_, &results_}) {
      builder.RegisterService(service);
    }
    server_ = builder.BuildAndStart();
  }

  fs::path file() const { return folder_.path() / "ladder.yaml"; }

  // Runs the command on the state directory of the test.
  int run(std::vector<std::string> words) {
    words.insert(words.end(), {"--state-dir", directory_.path.string()});
    return run_exactly(words);
  }
  int run_exactly(const std::vector<std::string>& words) {
    out_.str({});
    err_.str({});
    Terminal out_terminal;
    out_terminal.interactive = text_;
    Streams streams{out_, err_, out_terminal, {}};
    return run_cli(words, streams);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  TemporaryFolder folder_;
  const EnvironmentVariable config_{"XDG_CONFIG_HOME", (folder_.path() / "config").string()};
  StateDirectory directory_;
  FakeFleet fleet_;
  FakeExperiments experiments_;
  FakeJobs jobs_;
  FakeResults results_;
  std::unique_ptr<grpc::Server> server_;
  bool text_ = true;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(Commands, List_ReadsAllPagesUpToTheLimit) {
  EXPECT_EQ(run({"list", "--output", "json", "--limit", "0"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("experiments").size(), 5U);
  EXPECT_EQ(run({"list", "--output", "json", "--limit", "3"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("experiments").size(), 3U);
}

TEST_F(Commands, Status_ReadsAllPagesAndKnowsWhatIsMissing) {
  EXPECT_EQ(run({"status", "--output", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("jobs").size(), 5U);
  EXPECT_EQ(run({"status", "none"}), 3);
  EXPECT_EQ(err(), "bitrung: no experiment \"none\"\n");
}

TEST_F(Commands, Results_DefaultToTsvOnAPipe) {
  text_ = false;
  EXPECT_EQ(run({"results"}), 0);
  EXPECT_TRUE(out().starts_with("model\tdataset\t")) << out();
  EXPECT_EQ(run({"results", "bit-ladder", "--output", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("experiment"), "bit-ladder");
}

TEST_F(Commands, Results_AskForLinesAndMetric) {
  EXPECT_EQ(run({"results", "3", "--group-by", "bits,distill.temperature", "--group-by", "method",
                 "--metric", "nll"}),
            0);
  EXPECT_EQ(results_.asked.experiment(), "3");
  EXPECT_THAT(results_.asked.group_by(), ElementsAre("bits", "distill.temperature", "method"));
  EXPECT_EQ(results_.asked.metric(), "nll");

  EXPECT_EQ(run({"results", "--group-by", "bits,,method"}), 2);
  EXPECT_EQ(err(),
            "bitrung: --group-by \"bits,,method\" has an empty name; names of options with commas "
            "between are expected, e.g. bits,distill.temperature\n");
  EXPECT_EQ(run({"results", "--group-by", "temperature"}), 2);
  EXPECT_EQ(err(), "bitrung: did you mean distill.temperature?\n");
  EXPECT_EQ(run({"results", "--metric", "top2"}), 2);
  EXPECT_NE(err().find("did you mean top1?"), std::string::npos) << err();
}

TEST_F(Commands, Compare_TakesJobsEntriesAndExperiments) {
  const auto sides = [&] {
    const v1::CompareRequest& asked = results_.compared;
    return asked.a().experiment() + "|" + asked.a().job() + " " + asked.b().experiment() + "|" +
           asked.b().job();
  };
  EXPECT_EQ(run({"compare", "3/alone.bits=4", "7/assisted"}), 0);
  EXPECT_EQ(sides(), "3|alone.bits=4 7|assisted");
  EXPECT_EQ(run({"compare", "3", "bit-ladder"}), 0);
  EXPECT_EQ(sides(), "3| bit-ladder|");
  EXPECT_EQ(run({"compare", "-e", "3", "alone", "assisted"}), 0);
  EXPECT_EQ(sides(), "3|alone 3|assisted");
  // No experiment is called so: a job of the newest one.
  EXPECT_EQ(run({"compare", "none", "3"}), 0);
  EXPECT_EQ(sides(), "5|none 3|");

  EXPECT_EQ(run({"compare", "3/alone"}), 2);
  EXPECT_EQ(run({"compare", "3/", "3/alone"}), 2);
  EXPECT_NE(err().find("\"3/\" names no jobs; EXPERIMENT/JOB"), std::string::npos) << err();
}

TEST_F(Commands, Inspect_ShowsOneJob) {
  EXPECT_EQ(run({"inspect", "3/assisted.bits=2.seed=20", "--output", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("experiment"), "3");
  EXPECT_EQ(run({"inspect", "3/assisted.bits=2.seed=20", "--layer", "fc"}), 3);
  EXPECT_NE(err().find("no layer is named like \"fc\""), std::string::npos) << err();
  EXPECT_EQ(run({"inspect", "3/alone.bits=1"}), 5);
  EXPECT_EQ(err(), "bitrung: alone.bits=1 is failed\n");
  EXPECT_EQ(run({"inspect", "3/a", "3/b"}), 2);
}

TEST_F(Commands, Wait_SaysByItsCodeHowItEnded) {
  EXPECT_EQ(run({"wait", "3"}), 0);
  EXPECT_TRUE(out().starts_with("bit-ladder #3 succeeded: ")) << out();
  experiments_.end_state = v1::EXPERIMENT_STATE_FAILED;
  EXPECT_EQ(run({"wait", "3"}), 6);
  experiments_.end_state = v1::EXPERIMENT_STATE_CANCELLED;
  EXPECT_EQ(run({"wait", "3"}), 1);
  EXPECT_EQ(run({"wait", "none"}), 3);
}

TEST_F(Commands, Watch_ContinuesWithTheCursorAfterABreak) {
  experiments_.break_first_watch = true;
  EXPECT_EQ(run({"watch", "3"}), 0);
  EXPECT_EQ(experiments_.cursors, (std::vector<std::int64_t>{0, 41}));
  EXPECT_NE(err().find("assisted.bits=4: running on a7, attempt 2\n"), std::string::npos) << err();
  EXPECT_NE(err().find("assisted.bits=4: succeeded\n"), std::string::npos) << err();
  // What was told before the break is not told again.
  EXPECT_EQ(err().find("alone.bits=32: succeeded"), err().rfind("alone.bits=32: succeeded"));
}

TEST_F(Commands, Watch_OnAPipe_WritesOneLinePerChange) {
  text_ = false;
  EXPECT_EQ(run({"watch", "3", "--output", "json"}), 0);
  std::istringstream lines(out());
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_TRUE(nlohmann::json::parse(line).contains("job"));
  }
  EXPECT_EQ(count, 5);  // Four that are not waiting, one change.
  EXPECT_EQ(err(), "");
}

TEST_F(Commands, Submit_AfterALostAnswer_SendsTheSameRequestId) {
  experiments_.submit_status = {StatusCode::UNAVAILABLE, "draining"};
  EXPECT_EQ(run({"submit", file()}), 7);
  experiments_.submit_status = Status::OK;
  EXPECT_EQ(run({"submit", file()}), 0);
  EXPECT_EQ(run({"submit", file()}), 0);
  ASSERT_EQ(experiments_.submits.size(), 3U);
  EXPECT_FALSE(experiments_.submits[0].request_id().empty());
  EXPECT_EQ(experiments_.submits[0].request_id(), experiments_.submits[1].request_id());
  // The answer has arrived, so the third one is meant anew.
  EXPECT_NE(experiments_.submits[1].request_id(), experiments_.submits[2].request_id());
  EXPECT_FALSE(experiments_.submits[0].join_active());
  EXPECT_EQ(experiments_.submits[0].jobs_size(), 1);
}

TEST_F(Commands, Submit_Refused_IsExitCodeFive) {
  experiments_.submit_status = {StatusCode::RESOURCE_EXHAUSTED,
                                "experiment has 9 jobs, the limit is 8"};
  EXPECT_EQ(run({"submit", file()}), 5);
  EXPECT_EQ(err(), "bitrung: experiment has 9 jobs, the limit is 8\n");
}

TEST_F(Commands, BadFile_FailsBeforeTheServerIsAsked) {
  EXPECT_EQ(run({"submit", "/no/such/file.yaml"}), 3);
  std::ofstream(file()) << "experiment: x\nbogus: 1\n";
  EXPECT_EQ(run({"submit", file()}), 2);
  EXPECT_EQ(run({"run", file()}), 2);
  EXPECT_EQ(run({"plan", file()}), 2);
  EXPECT_TRUE(experiments_.submits.empty());
}

TEST_F(Commands, Run_JoinsTheServerOfTheDirectoryAndItsWorker) {
  text_ = false;
  EXPECT_EQ(run({"run", file(), "--output", "json"}), 1);  // The scripted results are not final.
  ASSERT_EQ(experiments_.submits.size(), 1U);
  EXPECT_TRUE(experiments_.submits[0].join_active());
  EXPECT_EQ(nlohmann::json::parse(out()).at("state"), "active");
  EXPECT_NE(err().find("bit-ladder #3: 1 job, 0 edges, critical path 1"), std::string::npos)
      << err();
  EXPECT_FALSE(fs::exists(directory_.worker_log()));
  EXPECT_EQ(run({"run", file(), "--quiet"}), 1);
  EXPECT_EQ(err(), "");
}

TEST_F(Commands, Logs_AreCleanAndNotRepeatedAfterABreak) {
  EXPECT_EQ(run({"logs", "3/alone.bits=4"}), 0);
  EXPECT_EQ(out(), "first try\ndied\nattempt 2\nsecond try\n");
  jobs_.streams = 0;
  jobs_.break_first_stream = true;
  EXPECT_EQ(run({"logs", "3/alone.bits=4", "--follow"}), 0);
  EXPECT_EQ(out(), "first try\ndied\nattempt 2\nsecond try\n");
  jobs_.streams = 0;
  EXPECT_EQ(run({"logs", "3/alone.bits=4"}), 7);  // Without --follow a break is an error.
}

TEST_F(Commands, Explain_TakesTheNewestExperiment) {
  EXPECT_EQ(run({"explain", "alone.bits=4"}), 0);
  EXPECT_EQ(out(), "5/alone.bits=4 is ready\n  job alone.bits=4 of 5\n");
  EXPECT_EQ(run({"explain", "ladder", "alone.bits=4"}), 0);
  EXPECT_EQ(out(), "ladder/alone.bits=4 is ready\n  job alone.bits=4 of ladder\n");
}

TEST_F(Commands, CancelRetryDrain_SayWhatChanged) {
  EXPECT_EQ(run({"cancel", "3"}), 0);
  EXPECT_EQ(out(), "5 jobs cancelled\nnext: bitrung status 3   bitrung retry 3\n");
  EXPECT_EQ(run({"cancel", "3/alone.bits=4", "--output", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("changed"), 1);
  EXPECT_EQ(run({"retry", "3"}), 0);
  EXPECT_TRUE(out().starts_with("nothing to retry in 3")) << out();
  EXPECT_EQ(run({"drain", "a7"}), 0);
  EXPECT_EQ(out(),
            "worker a7 gets no new jobs; it still holds 1 job\nnext: bitrung drain a7 --off\n");
  EXPECT_EQ(run({"drain", "zz"}), 3);
}

TEST_F(Commands, ServerOverTcp_WantsALogin) {
  EXPECT_EQ(run_exactly({"list", "--server", "127.0.0.1:1"}), 4);
  EXPECT_NE(err().find("bitrung login FILE"), std::string::npos) << err();
  EXPECT_EQ(run_exactly({"login"}), 4);
  EXPECT_NE(err().find("bitrung token create NAME"), std::string::npos) << err();
}

TEST_F(Commands, Version_AsksANamedServer) {
  EXPECT_EQ(run_exactly({"version", "--server", "unix:" + directory_.socket().string(), "--output",
                         "json"}),
            0);
  EXPECT_EQ(nlohmann::json::parse(out()).at("server_version"), "9.9.9");
}

TEST_F(Commands, NoServerAndNoDirectory_SaysWhatToDo) {
  const fs::path nothing = folder_.path() / "nothing";
  EXPECT_EQ(run_exactly({"list", "--state-dir", nothing}), 3);
  EXPECT_NE(err().find("no server and no state directory"), std::string::npos) << err();
  EXPECT_EQ(run_exactly({"plan", file(), "--state-dir", nothing}), 0);
  EXPECT_NE(out().find("cache unknown"), std::string::npos);
  EXPECT_FALSE(fs::exists(nothing));
}

TEST_F(Commands, UnreachableServer_IsExitCodeSevenSoon) {
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(run_exactly({"list", "--server", "unix:" + (folder_.path() / "none.sock").string()}),
            7);
  const fs::path login = folder_.path() / "a.login";
  const auto authority = make_issuing_authority(
      "test", {.from_ms = 1'800'000'000'000, .lifetime = std::chrono::hours(1)});
  ASSERT_TRUE(write_login_file(login, {.kind = LoginFile::Kind::kLogin,
                                       .server = "127.0.0.1:1",
                                       .authority_pem = authority->certificate_pem,
                                       .token = make_secret().text})
                  .ok());
  EXPECT_EQ(run_exactly({"list", "--login", login}), 7);
  EXPECT_TRUE(err().starts_with("bitrung: no answer from the server at 127.0.0.1:1 (")) << err();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(15));
}

}  // namespace
}  // namespace bitrung::cli
