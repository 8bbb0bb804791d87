// What goes wrong in one simulation, and how often. Each seed draws its own mixture: about half of
// the faults are off, the others have intensities from rare to absurd.
#pragma once

#include "tests/sim/loop.h"
#include "tests/sim/random.h"

namespace bitrung::sim {

struct Faults {
  // Network. A session is an ordered stream: a lost packet is sent again and holds up what follows,
  // and after some losses the stream breaks, with a part of what was under way. A call (submit,
  // cancel, upload …) is lost as a whole, on the way there or back.
  std::int64_t loss_permille = 0;    // Up to 300.
  std::int64_t replay_permille = 0;  // Up to 500. The second copy comes later, behind others.
  std::int64_t break_permille = 0;   // Of messages that take their stream with them.
  std::int64_t latency_ms_max = 5;
  std::int64_t partition_every_s = 0;  // Either direction or both, up to three leases long.

  // Server.
  std::int64_t server_kill_every_s = 0;
  std::int64_t kill_in_turn_permille = 0;  // Before the commit, after it, or between two messages.
  std::int64_t commit_failure_permille = 0;
  std::int64_t server_pause_every_s = 0;
  std::int64_t slow_disk_permille = 0;  // Turns that wait 100 ms to 5 s for the disk.
  std::int64_t wall_jump_every_s = 0;   // Up to ten years, either way.

  // Workers.
  std::int64_t worker_kill_every_s = 0;
  std::int64_t power_loss_permille = 0;  // Of the kills: what was not synced is gone.
  std::int64_t disk_loss_permille = 0;   // Of the kills: it comes back as another worker.
  std::int64_t worker_pause_every_s = 0;
  std::int64_t worker_leave_every_s = 0;  // Shut down as a service manager does it.
  std::int64_t datasets_every_s = 0;
  std::int64_t spool_failure_permille = 0;  // Of offers and outcomes that cannot be written.
  std::int64_t trainer_permille = 0;        // Trainings that crash, hang, diverge …

  // People who cancel, retry and drain.
  std::int64_t person_every_s = 0;

  std::int64_t clock_rate_ppm_max = 0;  // Up to 5 %.

  static Faults draw(Random& random) {
    Faults faults;
    const auto maybe = [&random](std::int64_t least, std::int64_t most) {
      const bool on = random.one_in(2);
      const std::int64_t value = random.between(least, most);
      return on ? value : 0;
    };
    faults.loss_permille = maybe(1, 300);
    faults.replay_permille = maybe(1, 500);
    faults.break_permille = maybe(1, 20);
    faults.latency_ms_max = 1 + maybe(1, 2'000);
    faults.partition_every_s = maybe(10, 120);
    faults.server_kill_every_s = maybe(5, 120);
    faults.kill_in_turn_permille = maybe(1, 20);
    faults.commit_failure_permille = random.one_in(2) ? maybe(1, 5) : 0;
    faults.server_pause_every_s = maybe(20, 120);
    faults.slow_disk_permille = maybe(1, 200);
    faults.wall_jump_every_s = maybe(5, 60);
    faults.worker_kill_every_s = maybe(5, 120);
    faults.power_loss_permille = maybe(100, 1'000);
    faults.disk_loss_permille = random.one_in(2) ? maybe(50, 300) : 0;
    faults.worker_pause_every_s = maybe(10, 120);
    faults.worker_leave_every_s = maybe(20, 120);
    faults.datasets_every_s = random.one_in(2) ? maybe(20, 120) : 0;
    faults.spool_failure_permille = random.one_in(2) ? maybe(1, 50) : 0;
    faults.trainer_permille = maybe(10, 400);
    faults.person_every_s = maybe(5, 60);
    faults.clock_rate_ppm_max = maybe(1, 50'000);
    return faults;
  }
};

}  // namespace bitrung::sim
