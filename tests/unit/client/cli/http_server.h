// A tiny HTTP server on the loopback interface that serves one file and can misbehave on request.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "db/base/files.h"

namespace bitrung::cli {

class HttpServer {
 public:
  struct Behaviour {
    std::string content;
    bool ranges = true;         // Understands "Range: bytes=N-".
    int cuts = 0;               // So many answers are cut off ...
    std::size_t cut_after = 0;  // ... after so many bytes of the body.
    int status = 200;           // Anything else is answered without a body.
  };

  explicit HttpServer(Behaviour behaviour);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url() const;
  // First byte asked for by each request so far.
  std::vector<std::size_t> starts() const;
  void set(Behaviour behaviour);

 private:
  void serve();
  void answer(int connection);

  FileDescriptor listener_;
  int port_ = 0;
  std::atomic<bool> stop_ = false;
  mutable std::mutex mutex_;
  Behaviour behaviour_;
  std::vector<std::size_t> starts_;
  std::thread thread_;
};

}  // namespace bitrung::cli
