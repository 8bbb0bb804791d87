"""Real processes under random faults; see README.md.

  faults_test.py                         20 faults of a new seed
  faults_test.py --faults 500 --seed 7   the 500 faults of seed 7; BITRUNG_KEEP=1 keeps the directory of a run that failed
"""
import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import unittest

import faults
from processes import ENVIRONMENT, BitrungTest, command

OPTIONS = argparse.Namespace(faults=20, seed=None)


class FaultsTest(BitrungTest):
    def start_quietly(self, program, *arguments, env, log, cores=None):
        """Starts a program that writes to a file, on these cores."""
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores or own)  # Inherited from the thread that starts it.
        try:
            with open(log, "ab") as file:
                process = subprocess.Popen(command(program, *arguments), stdout=file, stderr=file, cwd=self.directory, text=True,
                                           env=ENVIRONMENT | env, start_new_session=True)
        finally:
            os.sched_setaffinity(0, own)
        self._processes.append(process)
        return process

    def bitrung_process(self, *arguments, env):
        return self.start("bitrung", *arguments, env=env)

    def test_StudyUnderFaults_GivesWhatAnUndisturbedOneGives(self):
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.SystemRandom().randrange(1 << 32)
        repeat = f"faults_test.py --faults {OPTIONS.faults} --seed {seed}"
        print(f"repeat the script of faults: {repeat}", file=sys.stderr, flush=True)
        library = pathlib.Path(os.environ["BITRUNG_FAIL_POINTS"]).resolve()
        try:
            faults.run(self, seed, OPTIONS.faults, library)
        except BaseException:
            if os.environ.get("BITRUNG_KEEP"):
                kept = self.directory.with_name(self.directory.name + "-kept")
                self.directory.rename(kept)
                print(f"kept in {kept}", file=sys.stderr)
            print(f"failed; repeat the script of faults: {repeat}", file=sys.stderr, flush=True)
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    OPTIONS = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Its programs end with it.
    unittest.main(argv=[sys.argv[0], "-v"])
