"""net.py [--json]: what a stream between a guest and the host costs, with ringfence, crun and QEMU, and
what a network adds to a start.

How it is measured
  On the lab's instruction clock: 1 ns for each instruction that host, VMM and guest execute together,
  idle time skipped (docs/lab.md). The same program (net.c) carries 128 MiB in one stream from where it
  runs to the host, and as many back, through a bridge of the host, and reads the clock there.
  ringfence and crun have the same network namespace, with one end of a veth; QEMU's microvm, with the
  same kernel, has a tap on the same bridge and virtio-net with its defaults, without vhost-net.

  What a network adds is the time of `run` of /bin/true with that namespace, less that with an empty one:
  the middle of RUNS runs of each in turn, after WARM_UP.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from bundle import config, crun, execute, fail, middle, require, ringfence, rounded, say

HERE = os.path.dirname(os.path.abspath(__file__))
BRIDGE, TAP, VETH, NAMESPACE = "rf-bench", "rf-bench-tap", "rf-bench-veth", "rf-bench"
SERVER, GUEST = "10.95.0.1", "10.95.0.2"
MEMORY_MIB = 256
LINES = {"send": "guest to host", "receive": "host to guest"}
WARM_UP, RUNS = 2, 5


def call(*arguments, **options):
    subprocess.run(arguments, check=True, **options)


def ip(text):
    call("ip", *text.split())


class Network:
    """A bridge with a namespace behind it and a tap on it, for the time of a `with` block."""

    def __enter__(self):
        ip(f"link add {BRIDGE} type bridge")
        ip(f"addr add {SERVER}/24 dev {BRIDGE}")
        ip(f"netns add {NAMESPACE}")
        ip(f"link add {VETH} type veth peer name eth0 netns {NAMESPACE}")
        ip(f"-n {NAMESPACE} addr add {GUEST}/24 dev eth0")
        ip(f"tuntap add {TAP} mode tap vnet_hdr")
        for name in (VETH, TAP):
            ip(f"link set {name} master {BRIDGE} up")
        ip(f"-n {NAMESPACE} link set eth0 up")
        ip(f"link set {BRIDGE} up")

    def __exit__(self, *_):
        for text in (f"netns del {NAMESPACE}", f"link del {TAP}", f"link del {BRIDGE}"):
            subprocess.run(["ip", *text.split()], check=False)


def output(command):
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=1200, check=False)
    if finished.returncode != 0:
        fail(f"{' '.join(command)} ended with {finished.returncode}:\n{finished.stdout[-2000:]}")
    return finished.stdout


def container(runtime, scratch, root, *options):
    bundle = os.path.join(scratch, runtime)
    os.makedirs(bundle)
    document = config(["/net", "ask", SERVER])
    document["root"] = {"path": root, "readonly": True}
    for namespace in document["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = f"/run/netns/{NAMESPACE}"
    with open(os.path.join(bundle, "config.json"), "w") as file:
        json.dump(document, file)
    return output([runtime, "run", "--bundle", bundle, *options, "bench-net"])


def qemu(program, scratch):
    initrd = os.path.join(scratch, "initrd")
    with open(initrd, "wb") as file:
        call(sys.executable, os.path.join(HERE, "../lib/cpio.py"), "--file",
             f"init={program}:0755", "--char", "dev/console=5:1:0600", stdout=file)
    kernel = os.path.join(os.path.dirname(shutil.which("ringfence")), "../lib/ringfence/vmlinux")
    return output([
        "qemu-system-x86_64", "-M", "microvm,acpi=off", "-accel", "kvm", "-cpu", "host", "-smp", "1",
        "-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
        "-append", "console=ttyS0 quiet panic=-1 reboot=t dummy.numdummies=0",
        "-netdev", f"tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off",
        "-device", "virtio-net-device,netdev=net",
    ])  # fmt: skip


def starts(scratch):
    """Milliseconds that a network adds to the start of /bin/true, by runtime."""
    bundles = {}
    for name in ("with", "without"):
        bundles[name] = os.path.join(scratch, f"start-{name}")
        os.makedirs(bundles[name])
        document = config(["/bin/true"])
        for namespace in document["linux"]["namespaces"]:
            if namespace["type"] == "network" and name == "with":
                namespace["path"] = f"/run/netns/{NAMESPACE}"
        with open(os.path.join(bundles[name], "config.json"), "w") as file:
            json.dump(document, file)
    times = {}
    for number in range(WARM_UP + RUNS):
        say(f"start {number + 1} of {WARM_UP + RUNS}")
        for command in (ringfence, crun):
            for name, bundle in bundles.items():
                began, ended = execute(command(bundle, f"bench-net-{number}"))
                if number >= WARM_UP:
                    times.setdefault((command.__name__, name), []).append((ended - began) / 1e6)
    whole = {key: middle(values) for key, values in times.items()}
    return {name: whole[name, "with"] - whole[name, "without"] for name in ("ringfence", "crun")}


def results(name, text):
    """MB in a second, by the name of the line."""
    if "complete" not in text.split():
        fail(f"{name} did not come to its end:\n{text[-2000:]}")
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "result" and words[1] in LINES:
            found[words[1]] = int(words[2]) * 1000 / int(words[3])
    if set(found) != set(LINES):
        fail(f"{name} has measured {sorted(found)}")
    return found


def measure():
    found = {}
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-", dir="/var/tmp") as scratch, Network():
        root = os.path.join(scratch, "root")
        for name in ("proc", "dev", "sys"):
            os.makedirs(os.path.join(root, name))
        program = os.path.join(root, "net")
        call("gcc", "-O2", "-Wall", "-static", "-o", program, os.path.join(HERE, "net.c"))
        machine = ("--memory", str(MEMORY_MIB), "--vcpus", "1")
        runs = {
            "crun": lambda: container("crun", scratch, root),
            "ringfence": lambda: container("ringfence", scratch, root, *machine),
            "qemu": lambda: qemu(program, scratch),
        }
        serve = [program, "serve", SERVER]
        with subprocess.Popen(serve, start_new_session=True) as server:
            try:
                for name, run in runs.items():
                    say(name)
                    found[name] = results(name, run())
            finally:
                os.killpg(server.pid, signal.SIGKILL)
        added = starts(scratch)
    return found, added


def main():
    require()
    found, added = measure()
    if "--json" in sys.argv[1:]:
        result = {"unit": "MB/s", "clock": "instructions"}
        result["added_to_start_ms"] = {name: rounded(value) for name, value in added.items()}
        for name, figures in found.items():
            result[name] = {line: rounded(value) for line, value in figures.items()}
        print(json.dumps(result))
        return
    print("One stream through a bridge: 1 vCPU, instruction clock; MB in a second")
    print(f"{'':16}{'ringfence':>12}{'QEMU':>12}{'crun':>12}   of QEMU   of crun")
    for line, label in LINES.items():
        ours, peer, bare = (found[name][line] for name in ("ringfence", "qemu", "crun"))
        cells = "".join(f"{value:12.0f}" for value in (ours, peer, bare))
        print(f"{label:16}{cells}{ours / peer:10.2f}{ours / bare:10.3f}")
    print("What a network adds to the start of /bin/true, ms")
    for name, value in added.items():
        print(f"{name:16}{value:12.1f}")


main()
