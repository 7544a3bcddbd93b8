"""shim.py [--json]: what containerd's shim costs, beside runc's.

How it is measured
  On the lab's instruction clock, with the containerd of the lab, which this starts. A start is the whole
  of `ctr run --detach` of `sleep` in a busybox root, from before the program is started to its end, when
  the container runs; its end is not in it. Machines have 256 MiB and one vCPU. Each is made WARM_UP times,
  then RUNS times, ringfence and runc in turn; the middle one counts.
  What a start may cost beyond runc's is the virtual machine's own cold start, and LIMIT_MS. The cold start
  is taken from `ringfence run --trace`: from the moment when the VMM is asked for to the agent's readiness.
  A second container joins the namespaces of a first one that runs, by the annotations and namespaces by
  which containerd's CRI plugin makes pods, with both runtimes.
  The memory is that of a pod with one container beside the first one, idle: of its shim, and of its VMM
  outside of the guest's memory, as in memory.py; `private` is what no other process maps.
"""

import json
import os
import shutil
import subprocess
import sys
import time

from bundle import (
    MEMORY_MIB, VCPUS, Bundle, busybox, execute, fail, middle, require, ringfence, rounded, say,
)
from processes import family, guest_memory, is_vmm, private_kib, pss_kib

WARM_UP = 2
RUNS = 5
LIMIT_MS = 15.0
LIMIT_RATIO = 1.5
LIMIT_MIB = 15.0
RUNTIMES = {"ringfence": "io.containerd.ringfence.v2", "runc": "io.containerd.runc.v2"}
COLD_START = ("vmm up", "kernel boot", "agent ready")
SHARED = (("ipc", "ipc"), ("uts", "uts"), ("network", "net"))
START_DEADLINE_SECONDS = 300


class Containerd:
    """containerd for the time of a `with` block, with a root that containers may write to."""

    def __init__(self, directory):
        self.log = os.path.join(directory, "containerd.log")
        self.root = os.path.join(directory, "root")

    def __enter__(self):
        shutil.copytree(busybox(), self.root, symlinks=True)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["containerd"], stdout=log, stderr=log)
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while subprocess.run(["ctr", "version"], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                fail(f"containerd does not answer; see {self.log}")
            time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def run(self, runtime, name, *options):
        """Milliseconds until it runs."""
        size = (
            "--annotation", f"dev.ringfence.memory_mib={MEMORY_MIB}",
            "--annotation", f"dev.ringfence.vcpus={VCPUS}",
        )
        began, ended = execute([
            "ctr", "run", "--detach", "--runtime", RUNTIMES[runtime], *size, *options,
            "--rootfs", self.root, name, "/bin/sleep", "1000000",
        ])
        return (ended - began) / 1e6

    def remove(self, name):
        execute(["ctr", "task", "delete", "--force", name])
        execute(["ctr", "container", "delete", name])


def annotation(name, value):
    return ("--annotation", f"io.kubernetes.cri.{name}={value}")


def pid_of(name):
    listed = subprocess.run(["ctr", "task", "list"], check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        words = line.split()
        if words[0] == name:
            return int(words[1])
    fail(f"there is no task {name}")


class Pod:
    """A first container that runs for the time of a `with` block."""

    def __init__(self, containerd, runtime):
        self.containerd, self.runtime, self.name = containerd, runtime, f"bench-pod-{runtime}"

    def __enter__(self):
        self.containerd.run(self.runtime, self.name, *annotation("container-type", "sandbox"))
        self.pid = pid_of(self.name)
        return self

    def __exit__(self, *_):
        self.containerd.remove(self.name)

    def run(self, name):
        joined = [
            word
            for kind, file in SHARED
            for word in ("--with-ns", f"{kind}:/proc/{self.pid}/ns/{file}")
        ]
        member = (*annotation("container-type", "container"), *annotation("sandbox-id", self.name))
        return self.containerd.run(self.runtime, name, *member, *joined)


def cold_start():
    """Milliseconds of a virtual machine's own start."""
    found = []
    with Bundle(["/bin/true"]) as bundle:
        trace = os.path.join(bundle, "trace.json")
        for number in range(WARM_UP + RUNS):
            execute(ringfence(bundle, f"bench-{number}", "--trace", trace))
            with open(trace) as file:
                events = json.load(file)["traceEvents"]
            phases = {event["name"]: event["dur"] / 1e3 for event in events if event["ph"] == "X"}
            found.append(sum(phases[name] for name in COLD_START))
    return middle(found[WARM_UP:])


def in_turn(what):
    """The middle of what each runtime takes."""
    found = {runtime: [] for runtime in RUNTIMES}
    for number in range(WARM_UP + RUNS):
        say(f"round {number + 1} of {WARM_UP + RUNS}")
        for runtime, times in found.items():
            times.append(what(runtime, f"bench-{runtime}-{number}"))
    return {runtime: middle(times[WARM_UP:]) for runtime, times in found.items()}


def alone(containerd):
    def once(runtime, name):
        took = containerd.run(runtime, name)
        containerd.remove(name)
        return took

    return in_turn(once)


def second(containerd):
    with Pod(containerd, "ringfence") as ours, Pod(containerd, "runc") as theirs:
        pods = {"ringfence": ours, "runc": theirs}

        def once(runtime, name):
            took = pods[runtime].run(name)
            containerd.remove(name)
            return took

        return in_turn(once)


def memory(containerd):
    """MiB of a shim and of a VMM outside of its guest: PSS, and private."""
    with Pod(containerd, "ringfence") as pod:
        pod.run("bench-idle")
        # What a start needed is given back by then.
        time.sleep(10)
        found = {}
        for pid in family(pod.pid):
            guest = guest_memory(pid) if is_vmm(pid) else []
            name = "vmm" if is_vmm(pid) else "shim"
            pss = pss_kib(pid) - sum(part.pss_kib for part in guest)
            private = private_kib(pid) - sum(part.private_kib for part in guest)
            before = found.get(name, (0, 0))
            found[name] = (before[0] + pss / 1024, before[1] + private / 1024)
        containerd.remove("bench-idle")
    if set(found) != {"shim", "vmm"}:
        fail(f"a pod has {' and '.join(found) or 'nothing'}, and not a shim and a VMM")
    return found


def table(cold, starts, seconds, held):
    print(f"containerd's shim: busybox root, {VCPUS} vCPU, {MEMORY_MIB} MiB, warm, instruction clock")
    print(f"{'ms, middle of ' + str(RUNS) + ' runs':40}{'ringfence':>12}{'runc':>12}")
    print(f"{'ctr run --detach':40}{starts['ringfence']:12.1f}{starts['runc']:12.1f}")
    print(f"{'  a second one in a pod':40}{seconds['ringfence']:12.1f}{seconds['runc']:12.1f}")
    beyond = starts["ringfence"] - starts["runc"] - cold
    print(f"{'a machine of its own cold start':40}{cold:12.1f}")
    print(f"{'what a start takes beyond that and runc':40}{beyond:12.1f}  (asked: {LIMIT_MS:.0f})")
    ratio = seconds["ringfence"] / seconds["runc"]
    print(f"{'a second one, ringfence : runc':40}{ratio:12.2f}  (asked: {LIMIT_RATIO})")
    print(f"{'MiB of an idle pod, without the guest':40}{'PSS':>12}{'private':>12}")
    for name, (pss, private) in held.items():
        print(f"{'  ' + name:40}{pss:12.1f}{private:12.1f}")
    pss, private = (sum(part) for part in zip(*held.values()))
    print(f"{'  together':40}{pss:12.1f}{private:12.1f}  (asked: {LIMIT_MIB:.0f})")


def main():
    require()
    say("cold starts of a machine")
    cold = cold_start()
    with Bundle([]) as directory, Containerd(directory) as containerd:
        say("starts")
        starts = alone(containerd)
        say("second containers of pods")
        seconds = second(containerd)
        say("memory of an idle pod")
        held = memory(containerd)
    if "--json" in sys.argv[1:]:
        result = {"unit": "ms", "clock": "instructions", "cold_start": rounded(cold)}
        result["ctr_run"] = {name: rounded(value) for name, value in starts.items()}
        result["second_in_a_pod"] = {name: rounded(value) for name, value in seconds.items()}
        result["own_mib"] = {
            name: {"pss": rounded(pss), "private": rounded(private)}
            for name, (pss, private) in held.items()
        }
        print(json.dumps(result))
    else:
        table(cold, starts, seconds, held)


main()
