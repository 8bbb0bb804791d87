// What a job takes from others: several teachers, a source, the best of several candidates.
#include "db/schema.h"
#include "db/sqlite.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// one, two, three     student: the best of two and three, then one; quantized: source one
class StoreInputsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = value_of(Store::open(directory_.path()));
    ASSERT_OK(store_->begin());
    ASSERT_OK(store_->insert_experiment(make_experiment(1)));
    for (const std::int64_t id : {1, 2, 3}) {
      ASSERT_OK(store_->insert_job(make_job(id, 1, fmt::format("teacher-{}", id)), make_state(id)));
    }
    student_ = make_job(4, 1, "student");
    student_.inputs = {{InputRole::kTeacher, JobId{2}, std::nullopt, 1},
                       {InputRole::kTeacher, JobId{3}, std::nullopt, 1},
                       {InputRole::kTeacher, JobId{1}, std::nullopt},
                       {InputRole::kTeacher, std::nullopt, digest_of("weights")}};
    ASSERT_OK(store_->insert_job(student_, make_state(4, JobState::kBlocked)));
    JobSpecRow quantized = make_job(5, 1, "quantized");
    quantized.epochs = 0;
    quantized.inputs = {{InputRole::kSource, JobId{1}, std::nullopt}};
    ASSERT_OK(store_->insert_job(quantized, make_state(5, JobState::kBlocked)));
    ASSERT_OK(store_->commit());
    reader_ = value_of(StoreReader::open(directory_.path()));
  }

  absl::Status update(const JobStateRow& state) {
    EXPECT_OK(store_->begin());
    const absl::Status status = store_->update_job(state);
    if (status.ok()) EXPECT_OK(store_->commit());
    return status;
  }

  JobStateRow chosen(std::vector<std::uint32_t> positions) const {
    JobStateRow state = make_state(4, JobState::kReady);
    state.chosen = std::move(positions);
    return state;
  }

  std::vector<std::string> ask(const std::string& sql) { return select(directory_.path(), sql); }

  TemporaryDirectory directory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StoreReader> reader_;
  JobSpecRow student_;
};

TEST_F(StoreInputsTest, Inputs_ComeBackInTheirOrder) {
  const JobRow row = value_of(reader_->job(JobId{4}));
  EXPECT_EQ(row.spec.inputs, student_.inputs);
  EXPECT_THAT(row.state.chosen, IsEmpty());
  EXPECT_EQ(value_of(reader_->job(JobId{5})).spec.inputs.at(0).role, InputRole::kSource);
  EXPECT_EQ(value_of(store_->load()).jobs.at(3).spec.inputs, student_.inputs);
}

TEST_F(StoreInputsTest, AChoice_IsKeptWithTheJob) {
  ASSERT_OK(update(chosen({1})));
  ASSERT_OK(update(chosen({1})));
  EXPECT_THAT(value_of(reader_->job(JobId{4})).state.chosen, ElementsAre(1));
  EXPECT_EQ(value_of(store_->load()).jobs.at(3).state, chosen({1}));
}

TEST_F(StoreInputsTest, AJobThatHasChosenAtOnce_IsInsertedSo) {
  ASSERT_OK(store_->begin());
  JobSpecRow spec = make_job(6, 1, "late");
  spec.inputs = student_.inputs;
  JobStateRow state = make_state(6);
  state.chosen = {0};
  ASSERT_OK(store_->insert_job(spec, state));
  ASSERT_OK(store_->commit());
  EXPECT_EQ(value_of(reader_->job(JobId{6})).state, state);
}

TEST_F(StoreInputsTest, ASecondChoice_IsRefusedByTheSchema) {
  ASSERT_OK(update(chosen({1})));
  const absl::Status status = update(chosen({0, 1}));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(status)), HasSubstr("UNIQUE"));
  store_.reset();
  sqlite3* handle = nullptr;
  sqlite3_open((directory_.path() / kDatabaseFile).c_str(), &handle);
  EXPECT_EQ(sqlite3_exec(handle, "UPDATE job_input SET chosen = 0 WHERE job_id = 4", nullptr,
                         nullptr, nullptr),
            SQLITE_CONSTRAINT);
  EXPECT_THAT(std::string(sqlite3_errmsg(handle)), HasSubstr("choice of a teacher is final"));
  sqlite3_close(handle);
}

TEST_F(StoreInputsTest, WhatIsNoCandidate_CannotBeChosen) {
  const absl::Status status = update(chosen({2}));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(status)), HasSubstr("CHECK"));
}

TEST_F(StoreInputsTest, Views_NameTheTeachersThatAreKnown) {
  const std::string outside = "artifact " + digest_of("weights").hex();
  EXPECT_THAT(ask("SELECT teacher FROM results WHERE name = 'student'"),
              ElementsAre("teacher-1, " + outside));
  EXPECT_THAT(ask("SELECT teacher FROM ladders WHERE job = 'student'"), ElementsAre("teacher-1"));
  ASSERT_OK(update(chosen({1})));
  EXPECT_THAT(ask("SELECT teacher FROM results WHERE name = 'student'"),
              ElementsAre("teacher-3, teacher-1, " + outside));
  EXPECT_THAT(ask("SELECT teacher FROM ladders WHERE job = 'student'"),
              ElementsAre("teacher-3", "teacher-1"));
  EXPECT_THAT(ask("SELECT coalesce(teacher, 'none') FROM results WHERE name = 'quantized'"),
              ElementsAre("none"));
}

TEST(StoreInputs, OfAnOlderVersion_AreKept) {
  TemporaryDirectory directory;
  {
    auto connection =
        value_of(Connection::open(directory.path() / kDatabaseFile, Connection::Mode::kReadWrite));
    ASSERT_OK(connection.use_write_ahead_log());
    ASSERT_OK(migrate(connection, migrations().first(5)));
    constexpr const char* kJob =
        "INSERT INTO job (id, experiment_id, name, spec_sha256, model, dataset, method, "
        "weight_bits, "
        "activation_bits, seed, epochs, numerics, retries, timeout_seconds, priority, devices, "
        "memory_bytes, estimated_flops, state, attempt, retries_used, losses, failure_class, "
        "error, "
        "resume_epoch, started_at_ms, finished_at_ms, changed_seq) SELECT {0}, 1, '{1}', "
        "zeroblob(32), 'resnet8', 'cifar10', 'dorefa', 4, 4, 20, 3, 1, 2, 0, 0, 1, 0, 0, 'ready', "
        "0, "
        "0, 0, 'none', '', 0, 0, 0, {0}; INSERT INTO job_spec VALUES ({0}, '{{}}'); INSERT INTO "
        "job_name VALUES (1, '{1}', {0}, 0);";
    const std::string rows =
        "INSERT INTO experiment (id, name, request_id, request_sha256, graph_sha256, source_yaml, "
        "submitted_at_ms, finished_at_ms) VALUES (1, 'old', 'r', zeroblob(32), zeroblob(32), '', "
        "0, "
        "0);" +
        fmt::format(fmt::runtime(kJob), 1, "teacher") +
        fmt::format(fmt::runtime(kJob), 2, "student") +
        "INSERT INTO job_input VALUES (2, 0, 'teacher', 1, NULL), (2, 1, 'init', NULL, "
        "zeroblob(32));";
    ASSERT_OK(connection.execute("fill", rows.c_str()));
  }
  auto store = value_of(Store::open(directory.path()));
  const std::vector<InputRow> expected = {{InputRole::kTeacher, JobId{1}, std::nullopt},
                                          {InputRole::kInit, std::nullopt, Digest{}}};
  EXPECT_EQ(value_of(store->load()).jobs.at(1).spec.inputs, expected);
  EXPECT_THAT(select(directory.path(), "SELECT teacher FROM results WHERE name = 'student'"),
              ElementsAre("teacher"));
}

}  // namespace
}  // namespace bitrung::db
