// ArtifactService: moves immutable bytes in chunks of 1 MiB, resumable, checked by digest.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/pull_stream.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kUploadArtifact = "bitrung.v1.ArtifactService/UploadArtifact";
constexpr std::string_view kDownloadArtifact = "bitrung.v1.ArtifactService/DownloadArtifact";
constexpr std::string_view kGetArtifact = "bitrung.v1.ArtifactService/GetArtifact";

constexpr std::size_t kChunkBytesMax = std::size_t{1} << 20;

class UploadStream final : public grpc::ServerReadReactor<v1::UploadArtifactRequest> {
 public:
  UploadStream(const Context& context, v1::UploadArtifactResponse* response)
      : context_(context), response_(response) {
    StartRead(&request_);
  }

 private:
  void OnReadDone(bool ok) override {
    const absl::Status status = ok ? take(request_) : finish();
    if (!status.ok() || !ok || complete_) {
      upload_.reset();
      Finish(to_grpc(status));
    } else {
      StartRead(&request_);
    }
  }

  absl::Status take(const v1::UploadArtifactRequest& request) {
    if (request.data().size() > kChunkBytesMax) {
      return absl::ResourceExhaustedError(fmt::format("a chunk has {} bytes, the limit is {}",
                                                      request.data().size(), kChunkBytesMax));
    }
    if (!started_) {
      started_ = true;
      BITRUNG_ASSIGN_OR_RETURN(sha256_, parse_digest(request.sha256(), "sha256"));
      size_ = request.size_bytes();
      if (context_.artifacts.contains(sha256_)) {
        complete_ = true;
        response_->set_size_bytes(size_);
        return absl::OkStatus();
      }
      BITRUNG_ASSIGN_OR_RETURN(upload_, context_.artifacts.begin(sha256_, size_, request.offset()));
    }
    BITRUNG_RETURN_IF_ERROR(context_.disk.admit_upload(request.data().size()));
    return upload_->append(request.data());
  }

  absl::Status finish() {
    if (!upload_)
      return absl::InvalidArgumentError("the upload ended before it named its artifact");
    BITRUNG_RETURN_IF_ERROR(upload_->commit());
    context_.engine.artifact_stored(sha256_, size_);
    response_->set_size_bytes(size_);
    return absl::OkStatus();
  }

  void OnDone() override { delete this; }

  const Context& context_;
  v1::UploadArtifactResponse* const response_;
  v1::UploadArtifactRequest request_;
  bool started_ = false;
  bool complete_ = false;
  Digest sha256_;
  std::uint64_t size_ = 0;
  std::unique_ptr<db::ArtifactStore::Upload> upload_;
};

class RefusedUpload final : public grpc::ServerReadReactor<v1::UploadArtifactRequest> {
 public:
  explicit RefusedUpload(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// A worker may fetch what its attempts were given, and nothing else; waits for the engine's turn.
absl::Status check_given(engine::Engine& engine, const auth::Caller& caller, const Digest& sha256) {
  if (!caller.is_worker()) return absl::OkStatus();
  std::promise<absl::StatusOr<bool>> answer;
  engine.is_given(std::string(caller.worker_id()), sha256,
                  [&answer](absl::StatusOr<bool> is_given) { answer.set_value(is_given); });
  BITRUNG_ASSIGN_OR_RETURN(const bool is_given, answer.get_future().get());
  if (is_given) return absl::OkStatus();
  return absl::PermissionDeniedError(
      fmt::format("worker \"{}\" holds no attempt that was given this artifact", caller.name()));
}

class DownloadStream final : public PullStream<v1::DownloadArtifactResponse> {
 public:
  DownloadStream(const Context& context, const auth::Caller& caller, Digest sha256,
                 std::uint64_t offset)
      : PullStream(context.pool, caller), context_(context), sha256_(sha256), offset_(offset) {}

 private:
  Next produce(v1::DownloadArtifactResponse& message, grpc::Status& end) override {
    if (first_) {
      if (const absl::Status status = open(); !status.ok()) {
        end = to_grpc(status);
        return Next::kEnd;
      }
    } else if (offset_ >= size_) {
      return Next::kEnd;
    }
    std::string& data = *message.mutable_data();
    data.resize(std::min<std::uint64_t>(kChunkBytesMax, size_ - offset_));
    const ssize_t got = ::pread(file_.get(), data.data(), data.size(), static_cast<off_t>(offset_));
    if (got < 0 || static_cast<std::size_t>(got) != data.size()) {
      end = {grpc::StatusCode::DATA_LOSS,
             fmt::format("the artifact's file ends or fails at byte {}", offset_)};
      return Next::kEnd;
    }
    if (first_) message.set_size_bytes(size_);
    first_ = false;
    offset_ += data.size();
    return Next::kMessage;
  }

  absl::Status open() {
    BITRUNG_RETURN_IF_ERROR(check_given(context_.engine, caller(), sha256_));
    BITRUNG_ASSIGN_OR_RETURN(size_, context_.artifacts.size(sha256_));
    if (offset_ > size_) {
      return absl::OutOfRangeError(
          fmt::format("offset {} is beyond the artifact's {} bytes", offset_, size_));
    }
    BITRUNG_ASSIGN_OR_RETURN(file_, context_.artifacts.open_for_read(sha256_));
    return absl::OkStatus();
  }

  const Context& context_;
  const Digest sha256_;
  FileDescriptor file_;
  std::uint64_t size_ = 0;
  std::uint64_t offset_;
  bool first_ = true;
};

class ArtifactServiceImpl final : public v1::ArtifactService::CallbackService {
 public:
  explicit ArtifactServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerReadReactor<v1::UploadArtifactRequest>* UploadArtifact(
      grpc::CallbackServerContext* call, v1::UploadArtifactResponse* response) override {
    const auto caller = context_.authority.admit(*call, kUploadArtifact);
    if (!caller.ok()) return new RefusedUpload(to_grpc(caller.status()));
    return new UploadStream(context_, response);
  }

  grpc::ServerWriteReactor<v1::DownloadArtifactResponse>* DownloadArtifact(
      grpc::CallbackServerContext* call, const v1::DownloadArtifactRequest* request) override {
    const auto caller = context_.authority.admit(*call, kDownloadArtifact);
    if (!caller.ok()) {
      return new RefusedStream<v1::DownloadArtifactResponse>(to_grpc(caller.status()));
    }
    const auto sha256 = parse_digest(request->sha256(), "sha256");
    if (!sha256.ok())
      return new RefusedStream<v1::DownloadArtifactResponse>(to_grpc(sha256.status()));
    auto* stream = new DownloadStream(context_, *caller, *sha256, request->offset());
    stream->wake();
    return stream;
  }

  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* call,
                                        const v1::GetArtifactRequest* request,
                                        v1::GetArtifactResponse* response) override {
    return answer_now(context_, {call, kGetArtifact}, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(const Digest digest, parse_digest(request->sha256(), "sha256"));
      if (const auto size = context_.artifacts.size(digest); size.ok()) {
        response->set_complete(true);
        response->set_size_bytes(*size);
      } else {
        response->set_uploaded_bytes(context_.artifacts.partial_size(digest));
      }
      return absl::OkStatus();
    });
  }

 private:
  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_artifact_service(const Context& context) {
  return std::make_unique<ArtifactServiceImpl>(context);
}

}  // namespace bitrung::rpc
