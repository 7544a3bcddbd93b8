"""phases.py [--json]: what a container's start through containerd's shim consists of, beside runc's.

How it is measured
  On the lab's instruction clock, without containerd: this calls the shims itself, as the benchmark of
  containerd's conformance suite for shims does, and takes their events. `shim start` is the command that
  leaves the shim's process behind; `connect` the connection to it; `create` and `task start` are the two
  calls; `output` is the time from there to the first byte that the program has written, and `total` all of
  it. The container has a busybox root by overlayfs, mounts of /proc and /dev, and no namespace but one for
  them. The machine has 256 MiB and one vCPU. Each is made WARM_UP times, then RUNS times, ringfence and runc
  in turn; the middle one of each phase counts, and so the phases need not add up to the total.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time

from bundle import MEMORY_MIB, VCPUS, busybox, fail, find, middle, require, rounded, say
from ttrpc import Client, EventServer, decode, encode

WARM_UP = 2
RUNS = 7
DEADLINE_SECONDS = 120
NAMESPACE = "bench-phases"
PROGRAMS = {"ringfence": "containerd-shim-ringfence-v2", "runc": "containerd-shim-runc-v2"}
PHASES = ("shim start", "connect", "create", "task start", "output", "total")
SIGKILL = 9


def config():
    return {
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", "echo started; exec sleep 1000000"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": "mount"}]},
        "annotations": {
            "dev.ringfence.memory_mib": str(MEMORY_MIB),
            "dev.ringfence.vcpus": str(VCPUS),
        },
    }


def overlay(directory):
    options = [
        "index=off",
        f"workdir={directory}/work",
        f"upperdir={directory}/upper",
        f"lowerdir={busybox()}",
    ]
    return [(1, "overlay"), (2, "overlay"), *((4, option) for option in options)]


class Task:
    """A bundle, its streams, and the shim that is started for it."""

    def __init__(self, runtime, name, directory):
        self.runtime, self.name, self.directory = runtime, name, directory
        self.address = os.path.join(directory, "c.sock")
        for part in ("rootfs", "upper", "work"):
            os.mkdir(os.path.join(directory, part))
        with open(os.path.join(directory, "config.json"), "w") as file:
            json.dump(config(), file)
        self.held = [self.fifo(part) for part in ("log", "stderr", "stdout")]
        self.stdout = self.held[-1]

    def fifo(self, part):
        path = os.path.join(self.directory, part)
        os.mkfifo(path)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def command(self, *words):
        program = find(PROGRAMS[self.runtime])
        return [program, "-namespace", NAMESPACE, "-id", self.name, "-address", self.address, *words]

    def environment(self):
        return {**os.environ, "TTRPC_ADDRESS": self.address, "GOMAXPROCS": "2"}

    def start_shim(self):
        """Where it listens, and the name of its service."""
        given = b""
        if self.runtime == "ringfence":
            given = encode([(1, self.name), (2, NAMESPACE), (6, self.address)])
        answer = subprocess.run(
            self.command("start"), input=given, cwd=self.directory, env=self.environment(),
            stdout=subprocess.PIPE, check=True, timeout=DEADLINE_SECONDS,
        ).stdout
        if self.runtime == "ringfence":
            fields = decode(answer)
            version, address = fields[1], fields[2].decode()
        elif answer.startswith(b"{"):
            fields = json.loads(answer)
            version, address = fields["version"], fields["address"]
        else:
            version, address = 2, answer.decode().strip()
        return address.removeprefix("unix://"), f"containerd.task.v{version}.Task"

    def create(self, client, service):
        client.call(service, "Create", [
            (1, self.name), (2, self.directory), (3, overlay(self.directory)),
            (6, os.path.join(self.directory, "stdout")),
            (7, os.path.join(self.directory, "stderr")),
            (10, [(1, "containerd.runc.v1.Options")]),
        ])

    def wait_for_output(self):
        ready, _, _ = select.select([self.stdout], [], [], DEADLINE_SECONDS)
        if not ready or not os.read(self.stdout, 4096).startswith(b"started"):
            fail(f"{self.name} has not said that it runs")

    def end(self, client, service):
        client.call(service, "Kill", [(1, self.name), (3, SIGKILL), (4, 1)])
        client.call(service, "Wait", [(1, self.name)])
        client.call(service, "Delete", [(1, self.name)])
        try:
            client.call(service, "Shutdown", [(1, self.name)])
        except (EOFError, OSError):
            # It may end before it answers.
            pass
        client.close()
        # runc's looks for the bundle under the container's id, where there is none, and has nothing to do.
        subprocess.run(
            self.command("-bundle", self.directory, "delete"), cwd=self.directory,
            env=self.environment(), capture_output=True, check=self.runtime == "ringfence",
            timeout=DEADLINE_SECONDS,
        )
        for descriptor in self.held:
            os.close(descriptor)


def once(runtime, name):
    """Milliseconds of each phase."""
    with tempfile.TemporaryDirectory(prefix="rf-phases-", dir="/var/tmp") as directory:
        task = Task(runtime, name, directory)
        with EventServer(task.address):
            moments = [time.monotonic_ns()]

            def mark(result=None):
                moments.append(time.monotonic_ns())
                return result

            address, service = mark(task.start_shim())
            client = mark(Client(address, NAMESPACE, DEADLINE_SECONDS))
            mark(task.create(client, service))
            mark(client.call(service, "Start", [(1, name)]))
            mark(task.wait_for_output())
            task.end(client, service)
    times = [(end - begin) / 1e6 for begin, end in zip(moments, moments[1:])]
    return [*times, (moments[-1] - moments[0]) / 1e6]


def table(found):
    print(f"a start by phase: busybox root, {VCPUS} vCPU, {MEMORY_MIB} MiB, warm, instruction clock")
    print(f"{'ms, middle of ' + str(RUNS) + ' runs':40}{'ringfence':>12}{'runc':>12}")
    for phase in PHASES:
        print(f"{phase:40}{found['ringfence'][phase]:12.1f}{found['runc'][phase]:12.1f}")


def main():
    require()
    runs = {runtime: [] for runtime in PROGRAMS}
    for number in range(WARM_UP + RUNS):
        say(f"round {number + 1} of {WARM_UP + RUNS}")
        for runtime, times in runs.items():
            times.append(once(runtime, f"phases-{runtime}-{number}"))
    found = {
        runtime: dict(zip(PHASES, map(middle, zip(*times[WARM_UP:]))))
        for runtime, times in runs.items()
    }
    if "--json" in sys.argv[1:]:
        result = {"unit": "ms", "clock": "instructions"}
        for runtime, phases in found.items():
            result[runtime] = {
                phase.replace(" ", "_"): rounded(value, 2) for phase, value in phases.items()
            }
        print(json.dumps(result))
    else:
        table(found)


main()
