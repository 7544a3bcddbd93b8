"""fs.py VIRTIOFSD [--json]: what work on shared files costs, with ringfence, crun, and QEMU and virtiofsd.

How it is measured
  On the lab's instruction clock: 1 ns for each instruction that host, VMM, server and guest execute
  together, idle time skipped (docs/lab.md). The same program (fs.c) does the same work with all three,
  on a root of its own that is an overlay over the same Debian, and reads the clock where it runs: a
  guest's clock is the lab's. Both guests have the same kernel, one virtual CPU and one request queue;
  virtiofsd has its defaults, of which the cache policy `auto` is ringfence's default, too.
  crun has the host's own files, without a server: what it needs is the work itself.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from bundle import config, fail, require, rounded, say

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY_MIB = 1024

# Name, what it is called in the table, what one operation is.
LINES = {
    "random_read_4k": "random read of 4 KiB",
    "read_1m": "sequential read, per MiB",
    "write_1m": "sequential write, per MiB",
    "create": "create a file of 10,000",
    "stat": "stat a file of 10,000",
    "readdir": "list, per file of 10,000",
    "delete": "delete a file of 10,000",
    "git_status": "git status of 3,000 files",
    "build": "configure and make zlib",
}
TREE_DIRECTORIES, TREE_FILES = 150, 20


def call(*arguments, **options):
    subprocess.run(arguments, check=True, **options)


def roots():
    return os.environ.get("RINGFENCE_ROOTS", "/opt/roots")


class Root:
    """A root file system with everything that the work needs, for the time of a `with` block."""

    def __init__(self, scratch, name):
        self.directory = os.path.join(scratch, name)
        self.template = os.path.join(scratch, "template")

    def __enter__(self):
        parts = {part: os.path.join(self.directory, part) for part in ("upper", "work", "root")}
        for part in parts.values():
            os.makedirs(part)
        layers = f"lowerdir={self.template}:{roots()}/gcc"
        layers += f",upperdir={parts['upper']},workdir={parts['work']}"
        call("mount", "-t", "overlay", "overlay", "-o", layers, parts["root"])
        # The files that are worked on are not those of the template: nothing is copied up.
        call("cp", "-a", os.path.join(self.template, "copied"), os.path.join(parts["root"], "work"))
        return parts["root"]

    def __exit__(self, *_):
        call("umount", os.path.join(self.directory, "root"))


def make_template(scratch):
    """What each root has beside its Debian: the program, git, a repository, a package's source."""
    template = os.path.join(scratch, "template")
    binaries = os.path.join(template, "usr/bin")
    os.makedirs(binaries)
    program = os.path.join(binaries, "fs")
    call("gcc", "-O2", "-Wall", "-static", "-o", program, os.path.join(HERE, "fs.c"))
    git = shutil.which("git")
    shutil.copy(git, binaries)
    listed = subprocess.run(["ldd", git], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        words = line.split()
        # The Debian's own libc and loader stay.
        if "=>" in words and "libc.so" not in words[0]:
            library = os.path.join(template, "usr/lib/x86_64-linux-gnu")
            os.makedirs(library, exist_ok=True)
            shutil.copy(words[2], library)
    copied = os.path.join(template, "copied")
    tree = os.path.join(copied, "tree")
    for i in range(TREE_DIRECTORIES):
        os.makedirs(os.path.join(tree, f"directory-{i}"))
        for j in range(TREE_FILES):
            with open(os.path.join(tree, f"directory-{i}", f"file-{j}"), "w") as file:
                file.write(f"{i} {j}\n" * 10)
    quiet = {"cwd": tree, "stdout": subprocess.DEVNULL}
    call("git", "init", "-q", "-b", "main", **quiet)
    call("git", "add", ".", **quiet)
    who = ("-c", "user.name=bench", "-c", "user.email=bench@example.org")
    call("git", *who, "commit", "-q", "-m", "all", **quiet)
    sources = os.environ.get("RINGFENCE_SOURCES", "/opt/src")
    call("cp", "-a", os.path.join(sources, "zlib"), os.path.join(copied, "zlib"))
    return program


def warm(directory):
    """Reads all of it: whoever works first would else wait for the disk, and the others not."""
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    while file.read(1 << 20):
                        pass


def write_bundle(scratch, name, root, side):
    bundle = os.path.join(scratch, name, "bundle")
    os.makedirs(bundle)
    document = config(["/usr/bin/fs", "/work", side])
    document["root"] = {"path": root, "readonly": False}
    with open(os.path.join(bundle, "config.json"), "w") as file:
        json.dump(document, file)
    return bundle


def ringfence(scratch, root):
    bundle = write_bundle(scratch, "ringfence", root, "guest")
    machine = ("--memory", str(MEMORY_MIB), "--vcpus", "1")
    return output(["ringfence", "run", "--bundle", bundle, *machine, "bench-fs"])


def crun(scratch, root):
    bundle = write_bundle(scratch, "crun", root, "host")
    return output(["crun", "run", "--bundle", bundle, "bench-fs"])


def output(command):
    """What it writes, each line told as it comes: the work takes minutes."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            say(line.rstrip())
            lines.append(line)
    if running.returncode != 0:
        fail(f"{' '.join(command)} ended with {running.returncode}")
    return "".join(lines)


def virtiofsd(server, program, scratch, root):
    """QEMU's microvm with the same kernel; the program is its /init and enters the share itself."""
    socket, initrd = (os.path.join(scratch, name) for name in ("socket", "initrd"))
    maker = os.path.join(HERE, "../lib/cpio.py")
    with open(initrd, "wb") as file:
        call(sys.executable, maker, "--file", f"init={program}:0755", "--char",
             "dev/console=5:1:0600", stdout=file)
    kernel = os.path.join(os.path.dirname(shutil.which("ringfence")), "../lib/ringfence/vmlinux")
    machine = [
        "qemu-system-x86_64", "-M", "microvm,acpi=off,memory-backend=memory", "-accel", "kvm",
        "-cpu", "host", "-smp", "1", "-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-serial", "stdio",
        "-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on",
        "-kernel", kernel, "-initrd", initrd,
        "-append", "console=ttyS0 quiet panic=-1 reboot=t",
        "-chardev", f"socket,id=server,path={socket}",
        "-device", "vhost-user-fs-device,chardev=server,tag=share,num-request-queues=1",
    ]  # fmt: skip
    with open(os.path.join(scratch, "virtiofsd.log"), "wb") as log:
        arguments = [server, "--socket-path", socket, "--shared-dir", root, "--cache", "auto"]
        with subprocess.Popen(arguments, stdout=log, stderr=log) as serving:
            for _ in range(1000):
                if os.path.exists(socket) or serving.poll() is not None:
                    break
                time.sleep(0.01)
            text = output(machine)
            serving.terminate()
    return text


def results(name, text):
    """Nanoseconds for one operation, by the name of the line."""
    if "complete" not in text.split():
        fail(f"{name} did not come to its end:\n{text[-2000:]}")
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "result":
            found[words[1]] = int(words[3]) / int(words[2])
    if set(found) != set(LINES):
        fail(f"{name} has measured {sorted(found)}")
    return found


def measure(server):
    found = {}
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-", dir="/var/tmp") as scratch:
        say("preparing")
        program = make_template(scratch)
        warm(os.path.join(roots(), "gcc"))
        runs = {
            "crun": lambda root: crun(scratch, root),
            "ringfence": lambda root: ringfence(scratch, root),
            "virtiofsd": lambda root: virtiofsd(server, program, scratch, root),
        }
        for name, run in runs.items():
            say(f"{name} (some minutes)")
            with Root(scratch, name) as root:
                found[name] = results(name, run(root))
    return found


def main():
    require()
    server, options = sys.argv[1], sys.argv[2:]
    found = measure(server)
    if "--json" in options:
        result = {"unit": "ns", "clock": "instructions"}
        for name, figures in found.items():
            result[name] = {line: rounded(value) for line, value in figures.items()}
        print(json.dumps(result))
        return
    print("Work on shared files: 1 vCPU, cache policy auto, instruction clock; µs for each")
    names = ("ringfence", "virtiofsd", "crun")
    print(f"{'':28}" + "".join(f"{name:>12}" for name in names) + "   of virtiofsd   of crun")
    for line, label in LINES.items():
        ours, peer, bare = (found[name][line] for name in names)
        cells = "".join(f"{value / 1000:12.1f}" for value in (ours, peer, bare))
        print(f"{label:28}{cells}{ours / peer:15.2f}{ours / bare:10.1f}")


main()
