"""The bundle that is measured, how a program is timed, and the words that the
benchmarks say to the runtimes."""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time

MEMORY_MIB = 256
VCPUS = 1


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(f"error: {text}")
    sys.exit(1)


def require():
    """The machine has to be the lab, or one like it."""
    for program in ("ringfence", "crun"):
        if shutil.which(program) is None:
            fail(f"{program} is not on the PATH")
    if not os.path.exists(os.path.join(busybox(), "bin/true")):
        fail(f"there is no busybox root at {busybox()}")


def execute(arguments):
    """Runs the program; when it began and ended, in nanoseconds."""
    program = find(arguments[0])
    null = os.open(os.devnull, os.O_RDWR)
    streams = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
    began = time.monotonic_ns()
    pid = os.posix_spawn(program, arguments, os.environ, file_actions=streams)
    _, status = os.waitpid(pid, 0)
    ended = time.monotonic_ns()
    os.close(null)
    if status != 0:
        fail(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return began, ended


def find(program):
    for directory in os.environ["PATH"].split(":"):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    fail(f"{program} is not on the PATH")


def busybox():
    return os.path.join(os.environ.get("RINGFENCE_ROOTS", "/opt/roots"), "busybox")


def config(args):
    """What `runc spec` writes, for a root that is shared and not written to."""
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    quiet = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {name: capabilities for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": busybox(), "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": [
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*quiet, "mode=1777", "size=65536k"],
            },
            {
                "destination": "/dev/mqueue",
                "type": "mqueue",
                "source": "mqueue",
                "options": quiet,
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": [*quiet, "ro"],
            },
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*quiet, "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    }


class Bundle:
    """A bundle directory for the time of a `with` block."""

    def __init__(self, args):
        self.args = args

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="ringfence-bench-", dir="/var/tmp")
        with open(os.path.join(self.directory.name, "config.json"), "w") as file:
            json.dump(config(self.args), file)
        return self.directory.name

    def __exit__(self, *_):
        self.directory.cleanup()


def ringfence(bundle, name, *options):
    machine = ("--memory", str(MEMORY_MIB), "--vcpus", str(VCPUS))
    return ["ringfence", "run", "--bundle", bundle, *machine, *options, name]


def crun(bundle, name, *options):
    return ["crun", "run", "--bundle", bundle, *options, name]


def middle(values):
    return statistics.median(values)


def rounded(value, digits=1):
    return round(value, digits)
