"""start.py [--json]: how long `ringfence run` of /bin/true takes, and crun on the same bundle.

How it is measured
  On the lab's instruction clock: 1 ns for each instruction that host, VMM and guest execute
  together, idle time skipped (docs/lab.md). A figure is the time from before the program is started
  (posix_spawn) to its end (waitpid), with its streams on /dev/null: the whole of what a caller
  waits for. Both runtimes are run WARM_UP times, which fills the page cache, then measured RUNS
  times in turn; the middle one counts, the least and the most stand beside it.
  The phases come from runs of their own with --trace, TRACED of them. Each lasts from the end of
  the one before; the trace is on the same clock as this program, so that the first begins with the
  start of the process, the last ends with its end, and together they are the whole run. Writing the
  trace itself is in the last, which is therefore a little shorter in a run without one.
"""

import json
import os
import sys

from bundle import (
    MEMORY_MIB, VCPUS, Bundle, crun, execute, fail, middle, require, ringfence, rounded, say,
)

WARM_UP = 3
RUNS = 7
TRACED = 5


# The row of the trace that holds the phases: together they are the whole of ringfence's own time.
PHASE_ROW = 1


def phases(bundle, name):
    """Milliseconds of each phase of one traced run, by its name."""
    trace = os.path.join(bundle, "trace.json")
    began, ended = execute(ringfence(bundle, name, "--trace", trace))
    with open(trace) as file:
        events = json.load(file)["traceEvents"]
    found, before = {}, began
    for event in events:
        if event["ph"] == "X" and event["tid"] == PHASE_ROW:
            # Microseconds with a fraction, of a clock that counts nanoseconds.
            end = round((event["ts"] + event["dur"]) * 1000)
            found[event["name"]] = (end - before) / 1e6
            before = end
    if not found or min(found.values()) < 0:
        fail(f"the phases of the trace are out of order: {found}")
    found["trace written, process gone"] = (ended - before) / 1e6
    return found


def measure():
    with Bundle(["/bin/true"]) as bundle:
        runtimes = {"ringfence": ringfence, "crun": crun}
        times = {name: [] for name in runtimes}
        for number in range(WARM_UP + RUNS):
            say(f"run {number + 1} of {WARM_UP + RUNS}")
            for name, command in runtimes.items():
                began, ended = execute(command(bundle, f"bench-{number}"))
                if number >= WARM_UP:
                    times[name].append((ended - began) / 1e6)
        say(f"{TRACED} runs with a trace")
        traced = [phases(bundle, f"bench-traced-{number}") for number in range(TRACED)]
    return times, {name: middle(run[name] for run in traced) for name in traced[0]}


def table(times, parts):
    print(
        f"Start of /bin/true: busybox root, {VCPUS} vCPU, {MEMORY_MIB} MiB, warm, instruction "
        f"clock\nms, middle of {RUNS} runs (least to most)"
    )
    whole = {name: middle(values) for name, values in times.items()}
    for name, values in times.items():
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"{name + ' run':42}{whole[name]:9.1f}  {spread}")
    print(f"{'ringfence : crun':42}{whole['ringfence'] / whole['crun']:9.1f}")
    print(f"phases of ringfence run, middle of {TRACED} runs with a trace")
    for name, value in parts.items():
        print(f"  {name:40}{value:9.1f}")


def main():
    require()
    times, parts = measure()
    if "--json" in sys.argv[1:]:
        result = {
            "unit": "ms",
            "clock": "instructions",
            "ringfence_run_true": rounded(middle(times["ringfence"])),
            "crun_run_true": rounded(middle(times["crun"])),
            "phases": {name: rounded(value) for name, value in parts.items()},
        }
        print(json.dumps(result))
    else:
        table(times, parts)


main()
