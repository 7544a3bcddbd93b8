#!/usr/bin/env python3
"""Does /dev/kvm run ring-0 code at hardware speed?

    kvm-check.py

Exit status 0 and one line on stdout when it does; otherwise 1 and the reason on stderr. Opening
/dev/kvm proves nothing: a software KVM opens too and interprets ring-0 code some hundred times
slower, if it gets through a kernel at all. So a guest of a few instructions counts down in 64-bit
mode at privilege level 0 and ends with a write to a port, and the same loop runs in this process:
a busy machine slows both down.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import struct
import sys
import time

# About a thousandth of the process's own speed is what an interpreter reaches; hardware reaches all of
# it, and a host that is itself emulated about half.
TURNS = 200_000
SLOWEST_SHARE = 1 / 50
# For an interpreter that is slower still, or never ends.
DEADLINE_SECONDS = 4.0
# A single run may meet a moment in which the machine does something else.
ATTEMPTS = 2

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CREATE_VCPU = 0xAE41
KVM_SET_CPUID2 = 0x4008AE90
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_IO = 2

MEMORY = 2 * 1024 * 1024
PML4, PDPT, PD, CODE = 0x1000, 0x2000, 0x3000, 0x4000

LOOP = b"\x48\xff\xc9" + b"\x75\xfb"  # dec rcx; jnz -5
GUEST_PROGRAM = LOOP + b"\xe6\x42" + b"\xf4"  # out 0x42, al; hlt
OWN_PROGRAM = b"\x48\x89\xf9" + LOOP + b"\xc3"  # mov rcx, rdi; the loop; ret


class NotGood(Exception):
    """Why this KVM is not good enough."""


def guest_memory():
    memory = mmap.mmap(-1, MEMORY)
    present_writable = 3
    large = 0x80
    memory[PML4 : PML4 + 8] = struct.pack("<Q", PDPT | present_writable)
    memory[PDPT : PDPT + 8] = struct.pack("<Q", PD | present_writable)
    memory[PD : PD + 8] = struct.pack("<Q", present_writable | large)
    memory[CODE : CODE + len(GUEST_PROGRAM)] = GUEST_PROGRAM
    return memory


def segment(base, limit, selector, kind, code):
    # struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable.
    return struct.pack("<QIH10B", base, limit, selector, kind, 1, 0, not code, 1, code, 1, 0, 0, 0)


def set_cpuid(kvm, vcpu):
    """All that this KVM supports: without it, a vCPU may have no long mode."""
    # struct kvm_cpuid2: nent, padding, then entries of 40 bytes.
    entries = 256
    cpuid = bytearray(8 + 40 * entries)
    struct.pack_into("<I", cpuid, 0, entries)
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    fcntl.ioctl(vcpu, KVM_SET_CPUID2, cpuid)


def set_long_mode(vcpu):
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    # struct kvm_sregs: cs ds es fs gs ss, each 24 bytes, tr ldt, gdt idt, cr0 cr2 cr3 cr4 cr8 efer.
    sregs[0:24] = segment(0, 0xFFFFFFFF, 8, 11, 1)
    for start in range(24, 144, 24):
        sregs[start : start + 24] = segment(0, 0xFFFFFFFF, 16, 3, 0)
    control = 8 * 24 + 2 * 16
    cr0 = 0x80000031  # PG, NE, ET, PE
    cr4 = 0x20  # PAE
    efer = 0x500  # LMA, LME
    sregs[control : control + 48] = struct.pack("<6Q", cr0, 0, PML4, cr4, 0, efer)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))


def set_registers(vcpu):
    # struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags.
    registers = [0] * 18
    registers[2], registers[16], registers[17] = TURNS, CODE, 2
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))


def open_kvm():
    try:
        return os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotGood("there is no /dev/kvm")
    except PermissionError:
        raise NotGood("no permission to open /dev/kvm")
    except OSError as error:
        raise NotGood(f"/dev/kvm does not open: {error.strerror}")


def own_rate():
    """Turns of the loop a second in this process."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code[: len(OWN_PROGRAM)] = OWN_PROGRAM
    loop = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    started = time.monotonic()
    loop(TURNS)
    return TURNS / (time.monotonic() - started)


def make_vcpu(kvm, memory):
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("<IIQQQ", 0, 0, 0, MEMORY, address)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    set_cpuid(kvm, vcpu)
    set_long_mode(vcpu)
    return vcpu


def guest_rate(vcpu, shared):
    """Turns of the loop a second in the guest."""
    set_registers(vcpu)
    started = time.monotonic()
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    seconds = time.monotonic() - started
    # struct kvm_run: exit_reason is at offset 8.
    (reason,) = struct.unpack_from("<I", shared, 8)
    if reason != KVM_EXIT_IO:
        raise NotGood(f"the guest loop ended with KVM exit {reason}, not with its port write")
    return TURNS / seconds


def check():
    """The guest's best share of this process's speed."""
    kvm = open_kvm()
    version = fcntl.ioctl(kvm, KVM_GET_API_VERSION)
    if version != 12:
        raise NotGood(f"/dev/kvm has API version {version}, not 12")
    memory = guest_memory()
    vcpu = make_vcpu(kvm, memory)
    shared = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE))
    for _ in range(ATTEMPTS):
        guest, own = guest_rate(vcpu, shared), own_rate()
        if guest >= own * SLOWEST_SHARE:
            return f"{guest / 1e6:.1f} million turns of a loop a second, {own / 1e6:.0f} outside of the guest"
    raise NotGood(
        f"its ring-0 code is interpreted: {guest / 1e6:.1f} million turns of a loop a second,"
        f" {own / 1e6:.0f} outside of the guest"
    )


def too_slow(*_):
    raise NotGood(f"its ring-0 code is interpreted: {TURNS} turns of a loop were not done in {DEADLINE_SECONDS} s")


def main():
    signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS)
    try:
        speed = check()
    except NotGood as reason:
        print(reason, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"/dev/kvm cannot make a VM: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"ring-0 code runs at hardware speed: {speed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
