"""commands.py [--json]: how long each command of an engine takes, with ringfence and with crun.

  As for `start`: one vCPU, 256 MiB, a busybox root, on the lab's instruction clock. Each figure is the
  middle of RUNS. `create`, `start` and `delete` are measured one after the other on one container,
  whose program is /bin/true; "whole life" is from the start of the first to the end of the last, with
  the wait for the program's end in it. `exec` runs /bin/true in a container that sleeps. `list` has
  LISTED containers before it, which have ended and are not deleted yet.
"""

import ctypes
import json
import os
import sys
import time

from bundle import MEMORY_MIB, VCPUS, Bundle, execute, fail, middle, require, rounded, say

WARM_UP = 2
RUNS = 5
LISTED = 200
RUNTIMES = ("ringfence", "crun")
PR_SET_CHILD_SUBREAPER = 36


def timed(arguments):
    """Runs the program to its end; the milliseconds that took."""
    began, ended = execute(arguments)
    return (ended - began) / 1e6


def create(runtime, bundle, name):
    machine = ("--memory", str(MEMORY_MIB), "--vcpus", str(VCPUS)) if runtime == "ringfence" else ()
    pid_file = os.path.join(bundle, "pid")
    return [runtime, "create", "--bundle", bundle, *machine, "--pid-file", pid_file, name]


def wait_for_end(bundle):
    """Waits for the process that stands for the container; this program reaps for its commands."""
    with open(os.path.join(bundle, "pid")) as file:
        os.waitpid(int(file.read()), 0)


def life(runtime, bundle, name):
    began = time.monotonic_ns()
    found = {"create": timed(create(runtime, bundle, name))}
    found["start"] = timed([runtime, "start", name])
    wait_for_end(bundle)
    found["delete"] = timed([runtime, "delete", name])
    found["whole life"] = (time.monotonic_ns() - began) / 1e6
    return found


def run(runtime, bundle, name):
    machine = ("--memory", str(MEMORY_MIB), "--vcpus", str(VCPUS)) if runtime == "ringfence" else ()
    return {"run": timed([runtime, "run", "--bundle", bundle, *machine, name])}


def several(what, *arguments):
    """The middle of each of the figures that `what` gives for a number of calls."""
    samples = [what(*arguments, f"bench-{number}") for number in range(WARM_UP + RUNS)][WARM_UP:]
    return {name: middle(sample[name] for sample in samples) for name in samples[0]}


def of(runtime):
    found = {}
    with Bundle(["/bin/true"]) as bundle:
        say(f"{runtime}: run, create, start, delete")
        found |= several(run, runtime, bundle)
        found |= several(life, runtime, bundle)
        with Bundle(["/bin/sleep", "1000000"]) as sleeper:
            say(f"{runtime}: exec, state")
            timed(create(runtime, sleeper, "bench-sleeper"))
            timed([runtime, "start", "bench-sleeper"])
            exec_true = [runtime, "exec", "bench-sleeper", "/bin/true"]
            found |= several(lambda _: {"exec": timed(exec_true)})
            found |= several(lambda _: {"state": timed([runtime, "state", "bench-sleeper"])})
            timed([runtime, "delete", "--force", "bench-sleeper"])
            os.waitpid(-1, 0)
        say(f"{runtime}: list of {LISTED} (some minutes)")
        names = [f"bench-ended-{number}" for number in range(LISTED)]
        for name in names:
            timed(create(runtime, bundle, name))
            timed([runtime, "start", name])
            wait_for_end(bundle)
        found |= several(lambda _: {f"list of {LISTED}": timed([runtime, "list"])})
        for name in names:
            timed([runtime, "delete", name])
    return found


def main():
    require()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        fail("this process cannot become a reaper")
    found = {runtime: of(runtime) for runtime in RUNTIMES}
    if "--json" in sys.argv[1:]:
        result = {"unit": "ms", "clock": "instructions"}
        for runtime, figures in found.items():
            result[runtime] = {name: rounded(value, 2) for name, value in figures.items()}
        print(json.dumps(result))
        return
    print(f"Commands: busybox root, {VCPUS} vCPU, {MEMORY_MIB} MiB, warm, instruction clock")
    print(f"ms, middle of {RUNS} runs\n{'':20}{'ringfence':>12}{'crun':>12}{'ratio':>9}")
    for name in found["crun"]:
        ours, theirs = (found[runtime][name] for runtime in RUNTIMES)
        print(f"{name:20}{ours:12.1f}{theirs:12.1f}{ours / theirs:9.1f}")


main()
