"""neighbour.py [--json]: how long `ringfence exec` in one sandbox takes while another one attacks.

  By the wall clock, on two CPUs that run at once, so only the ratio means anything, and that only on a
  machine with two processors that do nothing else. One sandbox sleeps; `exec` of
  /bin/true in it is timed CALLS times in a row, in ROUNDS rounds that take turns: one in peace, one
  while a second sandbox attacks. The middle of each kind counts, and its ratio is the figure. The second
  sandbox has one virtual CPU and a limit of one CPU, which holds for its whole VMM by the host's cgroup.
  It is, one after the other for as long as the round lasts, the guest kernel of
  `tests/tests/hostile_guest`: registers, the queues of every device, FUSE requests, vsock packets; each a
  machine of its own, so that starts and ends of machines are in it, too.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from bundle import Bundle, fail, middle, require, rounded, say

ROUNDS = 4
CALLS = 12
WARM_UP = 3
ATTACKS = (1, 2, 3, 4)
MOST = 1.5
SOURCE = "tests/tests/hostile_guest/payload.c"
GCC = (
    "gcc -O1 -ffreestanding -fno-pic -no-pie -static -nostdlib -mno-red-zone -mgeneral-regs-only "
    "-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing "
    "-mcmodel=large -Wl,-Ttext-segment=0x1000000 -Wl,--build-id=none -Wl,-z,noexecstack"
)
# The machine ended by itself, as the payload asks for at its end.
VM_DIED = 250


def quiet(arguments):
    return subprocess.run(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode


class Attacker:
    """Attacks while it is in a `with` block."""

    def __init__(self, directory):
        self.bundles = [self.bundle(directory, number) for number in ATTACKS]
        self.count = 0

    @staticmethod
    def bundle(directory, number):
        place = os.path.join(directory, f"attack-{number}")
        os.makedirs(os.path.join(place, "root"))
        kernel = os.path.join(place, "kernel")
        here = os.path.dirname(os.path.abspath(__file__))
        source = os.path.join(here, "../..", SOURCE)
        defines = [f"-DATTACK={number}", f"-DSEED={0x5EED0000 + number}"]
        subprocess.run([*GCC.split(), *defines, "-o", kernel, source], check=True)
        with Bundle(["/bin/true"]) as model, open(os.path.join(model, "config.json")) as file:
            config = json.load(file)
        config["vm"] = {"kernel": {"path": kernel}}
        config["linux"]["resources"]["cpu"] = {"quota": 100000, "period": 100000}
        with open(os.path.join(place, "config.json"), "w") as file:
            json.dump(config, file)
        return place

    def attack(self):
        while not self.over:
            bundle = self.bundles[self.count % len(self.bundles)]
            size = ("--memory", "64", "--vcpus", "1")
            code = quiet(["ringfence", "run", "--bundle", bundle, *size, f"attacker-{self.count}"])
            self.count += 1
            if code != VM_DIED:
                self.failed = code

    def __enter__(self):
        self.over, self.failed = False, None
        self.thread = threading.Thread(target=self.attack)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        if self.failed is not None:
            fail(f"an attacker ended with {self.failed}, not with {VM_DIED}")


def calls(name, count):
    """Milliseconds of that many calls."""
    found = []
    for _ in range(count):
        began = time.monotonic_ns()
        code = quiet(["ringfence", "exec", name, "/bin/true"])
        found.append((time.monotonic_ns() - began) / 1e6)
        if code != 0:
            fail(f"exec in the neighbour ended with {code}")
    return found


def measure():
    times = {"in peace": [], "under attack": []}
    name = "bench-neighbour"
    with Bundle(["/bin/sleep", "1000000"]) as sleeper, tempfile.TemporaryDirectory(
        prefix="ringfence-bench-", dir="/var/tmp"
    ) as directory:
        attacker = Attacker(directory)
        size = ("--memory", "256", "--vcpus", "1")
        if quiet(["ringfence", "run", "--detach", "--bundle", sleeper, *size, name]) != 0:
            fail("the neighbour cannot be started")
        try:
            calls(name, WARM_UP)
            for number in range(ROUNDS):
                say(f"round {number + 1} of {ROUNDS}")
                times["in peace"] += calls(name, CALLS)
                with attacker:
                    calls(name, 1)
                    times["under attack"] += calls(name, CALLS)
        finally:
            quiet(["ringfence", "delete", "--force", name])
    return times, attacker.count


def main():
    require()
    if shutil.which("gcc") is None:
        fail("gcc is not on the PATH")
    if len(os.sched_getaffinity(0)) < 2:
        fail("two CPUs are needed: scripts/lab run --cpus 2")
    times, attacks = measure()
    whole = {name: middle(values) for name, values in times.items()}
    ratio = whole["under attack"] / whole["in peace"]
    if "--json" in sys.argv[1:]:
        result = {
            "unit": "ms",
            "clock": "wall",
            "in_peace": rounded(whole["in peace"]),
            "under_attack": rounded(whole["under attack"]),
            "ratio": rounded(ratio, 2),
            "limit": MOST,
            "attacks": attacks,
        }
        print(json.dumps(result))
        return
    print(f"exec of /bin/true beside a sandbox that attacks: 2 CPUs, wall clock, {attacks} attacks")
    print(f"ms, middle of {ROUNDS * CALLS} calls (least to most)")
    for name, values in times.items():
        spread = f"({min(values):.1f} to {max(values):.1f})"
        print(f"{name:20}{whole[name]:9.1f}  {spread}")
    print(f"{'ratio':20}{ratio:9.2f}  of {MOST} that is allowed")


main()
