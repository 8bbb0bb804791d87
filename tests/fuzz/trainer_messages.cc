// Any lines as the events of a trainer: read or refused, and an agent that trains one attempt with
// it goes on whatever they say.
#include <cmath>
#include <string>

#include "db/base/check.h"
#include "tests/fuzz/target.h"
#include "worker/agent/core.h"
#include "worker/agent/trainer_protocol.h"

namespace {

using namespace bitrung::agent;  // NOLINT: the names of one subject.
using bitrung::AttemptNumber;
using bitrung::Digest;
using bitrung::JobId;
using bitrung::SessionId;

const AttemptKey kAttempt{JobId{1}, AttemptNumber{1}};

// An agent whose only slot trains the attempt.
class World {
 public:
  World() : core_(CoreOptions{}) {
    const Digest data = Digest::from_hex(std::string(64, 'e')).value();
    send(Begin{});
    send(DatasetsFound{{{"synthetic", data, ""}}});
    send(TrainerReady{0});
    send(WelcomeReceived{session_, 1, std::chrono::seconds(60), std::chrono::seconds(2), {}});
    Offer offer;
    offer.key = kAttempt;
    offer.spec_json = R"({"dataset":"synthetic"})";
    offer.dataset = "synthetic";
    send(OfferReceived{session_, offer});
    send(OfferPersisted{kAttempt});
  }

  void send(const Event& event) {
    now_ += std::chrono::milliseconds(10);
    for (const Action& action : core_.handle(event, now_)) {
      if (const auto* open = std::get_if<OpenSession>(&action)) session_ = open->session;
      BITRUNG_CHECK(!describe(action).empty());
    }
  }

 private:
  Core core_;
  Time now_{};
  SessionId session_{};
};

void check(const TrainingEvent& event) {
  const auto* points = std::get_if<PointsMeasured>(&event);
  if (points == nullptr) return;
  for (const Point& point : points->points) {
    BITRUNG_CHECK(std::isfinite(point.value));
    BITRUNG_CHECK(!point.series.empty() && point.series.size() <= kSeriesNameBytesMax);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  World world;
  std::string_view rest = bitrung::fuzz::as_text(data, size);
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    auto event = parse_trainer_event(line);
    if (!event.ok()) {
      BITRUNG_CHECK(absl::IsInvalidArgument(event.status()));
      for (std::string& piece : split_line(line)) {
        BITRUNG_CHECK(piece.size() <= kLineBytesMax);
        world.send(TrainerLine{0, {0, std::move(piece)}});
      }
      continue;
    }
    if (std::holds_alternative<ReadyEvent>(*event)) continue;
    auto& keyed = std::get<KeyedEvent>(*event);
    check(keyed.event);
    world.send(TrainerSaid{0, std::move(keyed.key), std::move(keyed.event)});
  }
  world.send(Tick{});
  world.send(TrainerExited{0, "exited", false});
  return 0;
}
