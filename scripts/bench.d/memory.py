"""memory.py [--json]: how much host memory idle sandboxes hold, and crun's containers beside them.

How it is measured
  N sandboxes of 256 MiB and 1 vCPU that run `sleep` in a busybox root are started one after the
  other and left alone until the memory of the first does not change any more. Then, while all of
  them run, the PSS of every process that belongs to one (the supervisor, which is `ringfence run`
  itself, and everything below it, so the VMM) is read from /proc/PID/smaps_rollup. PSS counts a
  page that several processes map in equal parts, so that the sum over all processes is what they
  hold together. A guest page that was touched is mapped by its VMM and therefore in it. `mib_each`
  is the sum over all sandboxes divided by their number.
  Not in PSS, and so shown in a line of its own: what the host's kernel holds for a sandbox (page
  tables of the guest and of the VMM, kernel stacks, KVM's own), taken as what MemAvailable fell by
  beyond the PSS. It is less sure than the rest, since it holds whatever else the host did.
  `vmm_own_mib` is the PSS of a VMM, alone on the host, outside of guest memory. Guest memory are the
  mappings in /proc/PID/smaps that the VMM leaves out of core dumps (flag dd: it does so for nothing
  else), and the kernel and initial RAM file system that it maps over them; together they have to be
  as large as the guest's memory.
  crun's containers run detached, so that what they hold is the container's own process; there is no
  supervisor in their figure.
"""

import json
import subprocess
import sys
import time

from bundle import MEMORY_MIB, Bundle, crun, fail, require, ringfence, rounded, say
from processes import any_vmm, family, guest_memory, is_vmm, pss_kib, read

COUNTS = (1, 5, 20)
CRUN_COUNT = 20
START_DEADLINE_SECONDS = 120


def available_kib():
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    fail("/proc/meminfo has no MemAvailable")


class Sandboxes:
    """A number of idle sandboxes for the time of a `with` block."""

    def __init__(self, bundle, count):
        self.bundle, self.count, self.running = bundle, count, []

    def __enter__(self):
        for number in range(self.count):
            process = subprocess.Popen(
                ringfence(self.bundle, f"bench-{number}"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            self.running.append(process)
            deadline = time.monotonic() + START_DEADLINE_SECONDS
            if process.stdout.readline() != b"up\n" or time.monotonic() > deadline:
                fail(f"sandbox {number} of {self.count} did not come up")
        self.settle()
        return self

    def settle(self):
        """Waits until the first and the last one hold what they held two seconds before."""
        before = None
        for _ in range(30):
            now = [self.pss(process) for process in (self.running[0], self.running[-1])]
            if before and all(abs(a - b) <= 64 for a, b in zip(before, now)):
                return
            before = now
            time.sleep(2)
        fail("the memory of idle sandboxes does not come to rest within a minute")

    @staticmethod
    def pss(process):
        return sum(pss_kib(pid) for pid in family(process.pid))

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
        # A VMM ends with its supervisor, and the next count starts on a clean host.
        deadline = time.monotonic() + 30
        while any_vmm() and time.monotonic() < deadline:
            time.sleep(0.1)
        for number in range(self.count):
            subprocess.run(["ringfence", "delete", "--force", f"bench-{number}"], check=True)


def measure_ringfence(bundle, count):
    say(f"{count} sandboxes")
    before = available_kib()
    with Sandboxes(bundle, count) as sandboxes:
        supervisors = vmms = 0
        own, guest, shared = [], [], []
        for process in sandboxes.running:
            for pid in family(process.pid):
                if not is_vmm(pid):
                    supervisors += pss_kib(pid)
                    continue
                memory = guest_memory(pid)
                of_guest = sum(mapping.pss_kib for mapping in memory)
                of_files = sum(max(0, part.pss_kib - part.anonymous_kib) for part in memory)
                vmms += 1
                own.append(pss_kib(pid) - of_guest)
                guest.append(of_guest - of_files)
                shared.append(of_files)
        if vmms != count:
            fail(f"{count} sandboxes have {vmms} VMMs")
        total = supervisors + sum(own) + sum(guest) + sum(shared)
        fallen = before - available_kib()
    mib = 1024 * count
    return {
        "each": total / mib,
        "supervisor": supervisors / mib,
        "vmm_own": sum(own) / mib,
        "guest": sum(guest) / mib,
        "kernel_image": sum(shared) / mib,
        "host_kernel": max(0, fallen - total) / mib,
    }


def measure_crun(bundle, count):
    say(f"{count} containers of crun")
    names = [f"bench-crun-{number}" for number in range(count)]
    try:
        total = 0
        pids = []
        for name in names:
            subprocess.run(
                crun(bundle, name, "--detach"),
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            state = subprocess.run(["crun", "state", name], check=True, capture_output=True)
            pids.append(json.loads(state.stdout)["pid"])
        time.sleep(1)
        for pid in pids:
            total += sum(pss_kib(member) for member in family(pid))
        return total / 1024 / count
    finally:
        for name in names:
            subprocess.run(["crun", "delete", "--force", name], stderr=subprocess.DEVNULL)


def table(found, crun_each):
    rows = [("", *(str(count) for count in COUNTS))]
    for title, key in (
        ("each sandbox, MiB", "each"),
        ("  guest pages touched", "guest"),
        ("  kernel and agent image, shared", "kernel_image"),
        ("  the VMM's own", "vmm_own"),
        ("  supervisor", "supervisor"),
        ("host kernel besides, about", "host_kernel"),
    ):
        rows.append((title, *(f"{found[count][key]:.1f}" for count in COUNTS)))
    rows.append((f"each container of crun ({CRUN_COUNT})", "", "", f"{crun_each:.2f}"))
    print(f"Idle sandboxes of {MEMORY_MIB} MiB at once, host memory in MiB (PSS)")
    for row in rows:
        print(f"{row[0]:34}" + "".join(f"{cell:>9}" for cell in row[1:]))


def main():
    require()
    found = {}
    with Bundle(["/bin/sh", "-c", "echo up; exec sleep 100000"]) as bundle:
        for count in COUNTS:
            found[count] = measure_ringfence(bundle, count)
    with Bundle(["/bin/sleep", "100000"]) as bundle:
        crun_each = measure_crun(bundle, CRUN_COUNT)
    if "--json" in sys.argv[1:]:
        sandboxes = {str(count): {"mib_each": rounded(found[count]["each"])} for count in COUNTS}
        result = {
            "unit": "MiB",
            "sandboxes": sandboxes,
            "vmm_own_mib": rounded(found[1]["vmm_own"]),
            "crun_mib_each": rounded(crun_each, 2),
        }
        print(json.dumps(result))
    else:
        table(found, crun_each)


main()
