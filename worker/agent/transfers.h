// Moves artifacts between the server and this worker's cache, whole or not at all.
//
// Calls block and belong on a pool of threads; all are thread-safe. A transfer goes on where an
// earlier one stopped, in chunks, and what arrives is visible only after its digest was checked. No
// transfer is tried again here: the core decides that.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "absl/status/status.h"
#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "db/artifacts.h"
#include "db/base/digest.h"
#include "worker/agent/core.h"

namespace bitrung::agent {

class Transfers {
 public:
  Transfers(const std::shared_ptr<grpc::Channel>& channel, db::ArtifactStore& cache);

  struct Problem {
    FetchProblem kind{};
    std::string message;
  };
  // Makes the artifact present in the cache and checks the bytes of one that already is.
  std::optional<Problem> fetch(const Digest& sha256);

  struct UploadProblem {
    bool permanent = false;
    std::string message;
  };
  // Makes the artifact of the cache present on the server.
  std::optional<UploadProblem> upload(const Digest& sha256);

  // Ends running transfers soon and refuses later ones.
  void cancel();

 private:
  class Call;
  class Exclusive;

  std::optional<Problem> download_once(const Digest& sha256, bool* progress);
  std::optional<UploadProblem> upload_once(const Digest& sha256, bool* progress);

  std::unique_ptr<v1::ArtifactService::Stub> stub_;
  db::ArtifactStore& cache_;

  std::mutex mutex_;
  std::condition_variable released_;
  bool cancelled_ = false;
  std::set<grpc::ClientContext*> calls_;
  std::set<Digest> fetching_;
};

}  // namespace bitrung::agent
