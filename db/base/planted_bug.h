// Thirteen mistakes that can be built in, one at a time, to see whether the simulator finds them.
//
// No program that is shipped defines BITRUNG_PLANT_BUG: each condition is then the constant false
// and nothing is left of it. tests/sim/CMakeLists.txt builds one simulator per number, and
// tests/sim/mutants_test.py asserts that each one fails. Standard preprocessor only, so that every
// layer may use it.
#pragma once

#ifndef BITRUNG_PLANT_BUG
#define BITRUNG_PLANT_BUG 0
#endif

#define BITRUNG_BUG_SPEAKS_BEFORE_COMMIT 1        // server/engine/engine.cc
#define BITRUNG_BUG_IGNORES_FAILED_COMMIT 2       // server/engine/engine.cc
#define BITRUNG_BUG_FORGETS_REQUEST_ID 3          // server/engine/engine.cc
#define BITRUNG_BUG_FORGETS_ATTEMPT_NUMBER 4      // server/core/worker_events.cc
#define BITRUNG_BUG_FORGETS_LEASE_MARGIN 5        // server/core/worker_events.cc
#define BITRUNG_BUG_CLOSED_SESSION_GIVES_UP 6     // server/core/worker_events.cc
#define BITRUNG_BUG_RESUME_STATE_GOES_BACK 7      // server/core/job_events.cc
#define BITRUNG_BUG_OUTCOME_BEFORE_POINTS 8       // worker/agent/core.cc
#define BITRUNG_BUG_OUTCOME_BEFORE_DURABLE 9      // worker/agent/core.cc
#define BITRUNG_BUG_OUTCOME_SAID_ONCE 10          // worker/agent/core.cc
#define BITRUNG_BUG_FENCE_IGNORED_IN_TRAINING 11  // worker/agent/core.cc
#define BITRUNG_BUG_WATERMARK_OFF_BY_ONE 12       // worker/agent/core.cc
#define BITRUNG_BUG_CORES_GIVEN_TWICE 13          // worker/agent/core.cc

// True in the one build that has this mistake.
#define BITRUNG_PLANTED(bug) (BITRUNG_PLANT_BUG == BITRUNG_BUG_##bug)
