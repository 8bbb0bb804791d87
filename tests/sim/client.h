// People and their command lines: they submit graphs until an answer comes, repeat a request id
// with the same or with another content, cancel, retry and drain.
//
// A submit is sent again with the same request id when no answer came in time, also while the first
// one is still under way; it may arrive twice and late.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/engine/engine.h"

namespace bitrung::sim {

class Simulation;

class Client {
 public:
  explicit Client(Simulation& sim) : sim_(sim) {}

  // A new experiment; sent until it is answered.
  void submit();
  // Repeats an earlier request, perhaps with another content.
  void repeat();
  void meddle();
  void stop_draining();
  bool all_answered() const;

 private:
  struct Request {
    std::string id;
    engine::NewExperiment experiment;
    bool answered = false;
  };

  engine::NewExperiment draw_experiment();
  void send(std::size_t index);
  std::vector<JobId> some_jobs();

  Simulation& sim_;
  std::vector<Request> requests_;
};

}  // namespace bitrung::sim
