#include "worker/agent/transfers.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::agent {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
// No call is without a deadline; a transfer that got on meanwhile simply continues in another call.
constexpr std::chrono::minutes kCallTimeout{5};
constexpr std::chrono::seconds kQuestionTimeout{30};

std::string describe(const grpc::Status& status) {
  return fmt::format("{} (gRPC code {})", status.error_message(),
                     static_cast<int>(status.error_code()));
}

}  // namespace

// A call that cancel() can reach.
class Transfers::Call {
 public:
  Call(Transfers& transfers, std::chrono::system_clock::duration timeout) : transfers_(transfers) {
    context_.set_deadline(std::chrono::system_clock::now() + timeout);
    const std::lock_guard lock(transfers_.mutex_);
    if (transfers_.cancelled_) context_.TryCancel();
    transfers_.calls_.insert(&context_);
  }
  ~Call() {
    const std::lock_guard lock(transfers_.mutex_);
    transfers_.calls_.erase(&context_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  grpc::ClientContext* context() { return &context_; }

 private:
  Transfers& transfers_;
  grpc::ClientContext context_;
};

// Several attempts may want one teacher at once; one of them fetches it, the others wait.
class Transfers::Exclusive {
 public:
  Exclusive(Transfers& transfers, const Digest& sha256) : transfers_(transfers), sha256_(sha256) {
    std::unique_lock lock(transfers_.mutex_);
    transfers_.released_.wait(lock, [&] { return !transfers_.fetching_.contains(sha256_); });
    transfers_.fetching_.insert(sha256_);
  }
  ~Exclusive() {
    {
      const std::lock_guard lock(transfers_.mutex_);
      transfers_.fetching_.erase(sha256_);
    }
    transfers_.released_.notify_all();
  }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  Transfers& transfers_;
  const Digest sha256_;
};

Transfers::Transfers(const std::shared_ptr<grpc::Channel>& channel, db::ArtifactStore& cache)
    : stub_(v1::ArtifactService::NewStub(channel)), cache_(cache) {}

void Transfers::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

std::optional<Transfers::Problem> Transfers::fetch(const Digest& sha256) {
  const Exclusive exclusive(*this, sha256);
  if (cache_.contains(sha256) && cache_.verify(sha256).ok()) return std::nullopt;
  while (true) {
    bool progress = false;
    std::optional<Problem> problem = download_once(sha256, &progress);
    if (!problem || problem->kind != FetchProblem::kTransient || !progress) return problem;
  }
}

std::optional<Transfers::Problem> Transfers::download_once(const Digest& sha256, bool* progress) {
  const auto local = [](const absl::Status& status) {
    return Problem{FetchProblem::kLocal, std::string(message(status))};
  };
  const std::uint64_t offset = cache_.partial_size(sha256);
  v1::DownloadArtifactRequest request;
  request.set_sha256(sha256.hex());
  request.set_offset(offset);
  Call call(*this, kCallTimeout);
  const auto reader = stub_->DownloadArtifact(call.context(), request);
  std::unique_ptr<db::ArtifactStore::Upload> file;
  v1::DownloadArtifactResponse piece;
  while (reader->Read(&piece)) {
    if (!file) {
      auto begun = cache_.begin(sha256, piece.size_bytes(), offset);
      if (!begun.ok()) {
        call.context()->TryCancel();
        reader->Finish();
        // A partial that does not fit the announced size is of no use.
        if (offset > 0) (void)cache_.begin(sha256, piece.size_bytes(), 0);
        return local(begun.status());
      }
      file = *std::move(begun);
    }
    if (const absl::Status status = file->append(piece.data()); !status.ok()) {
      call.context()->TryCancel();
      reader->Finish();
      return local(status);
    }
    *progress = *progress || !piece.data().empty();
  }
  const grpc::Status status = reader->Finish();
  if (status.ok() && file) {
    const absl::Status committed = file->commit();
    if (committed.ok()) return std::nullopt;
    *progress = false;
    // A digest that does not match is the network's or the server's fault and may be right next
    // time.
    if (absl::IsDataLoss(committed))
      return Problem{FetchProblem::kTransient, std::string(message(committed))};
    return local(committed);
  }
  if (status.ok()) return Problem{FetchProblem::kTransient, "the server sent nothing"};
  if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) *progress = false;
  return Problem{status.error_code() == grpc::StatusCode::NOT_FOUND ? FetchProblem::kMissing
                                                                    : FetchProblem::kTransient,
                 describe(status)};
}

std::optional<Transfers::UploadProblem> Transfers::upload(const Digest& sha256) {
  while (true) {
    bool progress = false;
    std::optional<UploadProblem> problem = upload_once(sha256, &progress);
    if (!problem || problem->permanent || !progress) return problem;
  }
}

std::optional<Transfers::UploadProblem> Transfers::upload_once(const Digest& sha256,
                                                               bool* progress) {
  v1::GetArtifactResponse known;
  {
    v1::GetArtifactRequest request;
    request.set_sha256(sha256.hex());
    Call call(*this, kQuestionTimeout);
    const grpc::Status status = stub_->GetArtifact(call.context(), request, &known);
    // A server that has never heard of it may say so either way.
    if (!status.ok() && status.error_code() != grpc::StatusCode::NOT_FOUND)
      return UploadProblem{false, describe(status)};
  }
  if (known.complete()) return std::nullopt;

  const absl::StatusOr<std::uint64_t> size = cache_.size(sha256);
  if (!size.ok()) return UploadProblem{true, std::string(message(size.status()))};
  const absl::StatusOr<FileDescriptor> file = cache_.open_for_read(sha256);
  if (!file.ok()) return UploadProblem{true, std::string(message(file.status()))};
  std::uint64_t offset = known.uploaded_bytes();
  if (offset > *size) offset = 0;

  Call call(*this, kCallTimeout);
  v1::UploadArtifactResponse response;
  const auto writer = stub_->UploadArtifact(call.context(), &response);
  v1::UploadArtifactRequest request;
  request.set_sha256(sha256.hex());
  request.set_size_bytes(*size);
  request.set_offset(offset);
  std::uint64_t sent = 0;
  do {
    std::string data(std::min<std::uint64_t>(kChunkBytes, *size - offset), '\0');
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t got = ::pread(file->get(), data.data() + done, data.size() - done,
                                  static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        call.context()->TryCancel();
        writer->Finish();
        return UploadProblem{true, fmt::format("{} cannot be read", cache_.path(sha256).string())};
      }
      done += static_cast<std::size_t>(got);
    }
    offset += data.size();
    sent += data.size();
    request.set_data(std::move(data));
    if (!writer->Write(request)) break;
    request.Clear();
  } while (offset < *size);
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (status.ok()) return std::nullopt;
  // Only a call that ran into our own deadline is continued at once; any other failure is for the
  // core.
  *progress = sent > 0 && status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  return UploadProblem{status.error_code() == grpc::StatusCode::INVALID_ARGUMENT, describe(status)};
}

}  // namespace bitrung::agent
