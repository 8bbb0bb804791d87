"""The simulator finds each of the planted bugs, and nothing in the program as it is.

mutants_test.py SEEDS SIM PLANTED...: each PLANTED is the simulator built with one bug of
db/base/planted_bug.h. It has to fail within SEEDS seeds, by a broken promise (exit code 1) or a
failed check of the program (3); SIM has to pass them all.
"""
import re
import subprocess
import sys


def run(program, seeds):
    done = subprocess.run([program, "--seeds", str(seeds)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def main():
    seeds = int(sys.argv[1])
    sim, *planted = sys.argv[2:]
    missed = []
    for program in planted:
        code, text = run(program, seeds)
        name = program.rsplit("-", 1)[-1]
        lines = [line for line in text.splitlines() if "invariant" in line or "check" in line]
        seed = re.search(r"--seed (\d+)", text)
        print(f"bug {name}: exit {code}, seed {seed[1] if seed else '-'}: "
              f"{lines[0][:160] if lines else text[-200:]}", flush=True)
        if code not in (1, 3):
            missed.append(name)
    code, text = run(sim, seeds)
    print(text)
    print(f"{len(planted) - len(missed)} of {len(planted)} planted bugs were found")
    if missed or code != 0:
        sys.exit(f"not found: {missed}; without a bug: exit {code}")


main()
