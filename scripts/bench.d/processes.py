"""Which processes belong to a sandbox, and what memory they hold."""

import os

from bundle import MEMORY_MIB, fail


def read(path):
    with open(path) as file:
        return file.read()


def pss_kib(pid):
    return rollup_kib(pid, "Pss")


def private_kib(pid):
    return rollup_kib(pid, "Private_Clean") + rollup_kib(pid, "Private_Dirty")


def rollup_kib(pid, name):
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    fail(f"/proc/{pid}/smaps_rollup has no {name}")


def family(ancestor):
    """The process and everything below it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                after = read(f"/proc/{name}/stat").rpartition(") ")[2].split()
            except OSError:
                continue
            parents.setdefault(int(after[1]), []).append(int(name))
    found, waiting = [], [ancestor]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(parents.get(pid, ()))
    return found


def is_vmm(pid):
    return read(f"/proc/{pid}/comm").startswith("ringfence-vmm")


class Mapping:
    def __init__(self, header):
        span, _, _, _, _, *name = header.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        self.bytes = end - start
        self.file = os.path.basename(name[0].strip()) if name else ""
        self.pss_kib = self.anonymous_kib = self.private_kib = 0
        self.flags = ()

    def is_guest_memory(self):
        return "dd" in self.flags or self.file in ("vmlinux", "initrd.cpio")


def mappings(pid):
    found = []
    for line in read(f"/proc/{pid}/smaps").splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            found.append(Mapping(line))
        elif first == "Pss:":
            found[-1].pss_kib = int(rest.split()[0])
        elif first in ("Private_Clean:", "Private_Dirty:"):
            found[-1].private_kib += int(rest.split()[0])
        elif first == "Anonymous:":
            found[-1].anonymous_kib = int(rest.split()[0])
        elif first == "VmFlags:":
            found[-1].flags = tuple(rest.split())
    return found


def guest_memory(pid):
    found = [mapping for mapping in mappings(pid) if mapping.is_guest_memory()]
    mib = sum(mapping.bytes for mapping in found) / (1 << 20)
    if not MEMORY_MIB <= mib < MEMORY_MIB + 1:
        fail(f"the VMM, process {pid}, has {mib} MiB of guest memory and not {MEMORY_MIB}")
    return found


def any_vmm():
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and is_vmm(name):
                return True
        except OSError:
            continue
    return False
