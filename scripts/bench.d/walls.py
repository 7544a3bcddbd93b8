"""walls.py [--json]: what the walls around a virtual machine cost at its start.

  As for `start`: `ringfence run` of /bin/true on the lab's instruction clock, with --trace. A start is from
  the start of the program to the moment when the container's program runs; the end is what follows, to
  the end of the program. It is run in turn with all walls and with a VMM that puts up none of them
  (`ringfence-vmm --no-jail`); both VMMs are started by a program of a few instructions, which adds that
  option or does not, so that the difference is the walls and nothing else: namespaces, empty root, user
  and capabilities, Landlock, the making of all system call filters and each filter's own time on every
  call. The PID namespace is the launcher's work and in both. RUNS pairs count, after WARM_UP.
"""

import json
import os
import shutil
import subprocess
import sys

from bundle import MEMORY_MIB, VCPUS, Bundle, execute, fail, middle, require, rounded, say

WARM_UP = 3
RUNS = 9
LIMIT_MS = 5.0
# The phase of the trace at whose end the container's program runs.
RUNS_NOW = "container started"
# posix_spawn(3) of the launcher gives it the channel; all it does is to pass on its arguments.
PROGRAM = """
#include <unistd.h>
extern char **environ;
int main(void)
{
    char *arguments[] = { PROGRAM, OPTION, 0 };
    execve(PROGRAM, arguments, environ);
    return 1;
}
"""


def vmm(directory, name, option):
    """A program that starts the VMM with an option, and a configuration with it."""
    real = os.path.join(os.path.dirname(os.path.realpath(shutil.which("ringfence"))), "ringfence-vmm")
    place = os.path.join(directory, name)
    os.mkdir(place)
    source, program = os.path.join(place, "vmm.c"), os.path.join(place, "ringfence-vmm")
    with open(source, "w") as file:
        file.write(PROGRAM)
    defines = (f'-DPROGRAM="{real}"', f"-DOPTION={option}")
    subprocess.run(["gcc", "-O1", "-static", *defines, "-o", program, source], check=True)
    lib = os.path.join(os.path.dirname(real), "../lib/ringfence")
    config = os.path.join(place, "config.toml")
    with open(config, "w") as file:
        file.write(f'vmm = "{program}"\nkernel = "{lib}/vmlinux"\ninitrd = "{lib}/initrd.cpio"\n')
    return config


def whole_life(config, bundle, name):
    """Runs it; the milliseconds of its start, and of what followed."""
    trace = os.path.join(bundle, "trace.json")
    machine = ("--memory", str(MEMORY_MIB), "--vcpus", str(VCPUS), "--trace", trace)
    arguments = ["ringfence", "--config", config, "run", "--bundle", bundle, *machine, name]
    began, ended = execute(arguments)
    with open(trace) as file:
        events = json.load(file)["traceEvents"]
    # Microseconds with a fraction, of the same clock.
    runs = [event["ts"] + event["dur"] for event in events if event["name"] == RUNS_NOW]
    if not runs:
        fail(f"the trace has no phase {RUNS_NOW!r}")
    return runs[0] / 1e3 - began / 1e6, ended / 1e6 - runs[0] / 1e3


def measure():
    times = {"with": [], "without": []}
    with Bundle(["/bin/true"]) as bundle:
        configs = {"with": vmm(bundle, "walls", "0"), "without": vmm(bundle, "none", '"--no-jail"')}
        for number in range(WARM_UP + RUNS):
            say(f"pair {number + 1} of {WARM_UP + RUNS}")
            for name, config in configs.items():
                took = whole_life(config, bundle, f"bench-{name}-{number}")
                if number >= WARM_UP:
                    times[name].append(took)
    return {name: list(zip(*values)) for name, values in times.items()}


def main():
    require()
    if shutil.which("gcc") is None:
        fail("gcc is not on the PATH")
    times = measure()
    starts, ends = ({name: values[part] for name, values in times.items()} for part in (0, 1))
    start, end = ({name: middle(values) for name, values in part.items()} for part in (starts, ends))
    cost, behind = start["with"] - start["without"], end["with"] - end["without"]
    if "--json" in sys.argv[1:]:
        result = {
            "unit": "ms",
            "clock": "instructions",
            "start_with_walls": rounded(start["with"], 2),
            "start_without_walls": rounded(start["without"], 2),
            "walls": rounded(cost, 2),
            "limit": LIMIT_MS,
            "walls_at_the_end": rounded(behind, 2),
        }
        print(json.dumps(result))
        return
    print(
        f"The walls' part of a start: busybox root, {VCPUS} vCPU, {MEMORY_MIB} MiB, warm, instruction "
        f"clock\nms, middle of {RUNS} runs (least to most)"
    )
    for name, values in starts.items():
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"{'start ' + name + ' walls':28}{start[name]:9.1f}  {spread}")
    print(f"{'the walls':28}{cost:9.1f}  of {LIMIT_MS} that are allowed")
    print(f"{'and at the end of a run':28}{behind:9.1f}  the kernel takes the namespaces down")


main()
