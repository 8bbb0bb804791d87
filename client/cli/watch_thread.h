// Reads the watch stream of an experiment on a thread of its own and hands the messages to an event
// loop.
//
// When the stream breaks it is opened again with the cursor of the last message, for as long as the
// object lives: the loop decides when to give up. Make it after Signals, so that the thread does
// not take the signals.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/connection.h"
#include "db/base/files.h"

namespace bitrung::cli {

class WatchThread {
 public:
  // The stream broke and is being opened again; told once until the next message.
  struct Lost {
    absl::Status status;
  };
  // The server refuses: the experiment is unknown, the token is wrong. Nothing more will come.
  struct Refused {
    absl::Status status;
  };
  using Event = std::variant<v1::WatchExperimentResponse, Lost, Refused>;

  WatchThread(std::shared_ptr<Connection> connection, std::string experiment);
  ~WatchThread();
  WatchThread(const WatchThread&) = delete;
  WatchThread& operator=(const WatchThread&) = delete;

  // Readable when events wait.
  int fd() const { return wake_.get(); }
  // All that wait, oldest first.
  std::vector<Event> take();

 private:
  void read();
  void push(Event event);
  // False when it is time to end.
  bool pause(std::chrono::milliseconds time);

  const std::shared_ptr<Connection> connection_;
  const std::string experiment_;
  FileDescriptor wake_;
  StreamStop stop_;
  std::mutex mutex_;
  std::condition_variable ending_;
  bool end_ = false;
  std::deque<Event> events_;
  std::thread thread_;  // Last: it uses everything above.
};

}  // namespace bitrung::cli
