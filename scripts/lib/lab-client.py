#!/usr/bin/env python3
"""The host's side of the lab: starts and stops its QEMU, and runs commands in it.

    lab-client.py run OPTIONS --instance DIR --run-directory DIR -- COMMAND…
        in the lab of --instance when it is what the options ask for, else in one for this command
    lab-client.py up OPTIONS --instance DIR        start one and leave it running
    lab-client.py down --instance DIR
    lab-client.py status --instance DIR

Called by scripts/lab, which makes the image and reads the command line. The protocol is described in
lab-guest/exec-server.py.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty

HERE = os.path.dirname(os.path.realpath(__file__))
LAB_FAILED = 125
STDIN_WINDOW = 256 * 1024
READY = b"ringfence-lab: ready"
FAILED = b"ringfence-lab: failed"
PR_SET_PDEATHSIG = 1
# On a busy machine the emulated one stands still now and then. Its kernel must neither give up on its
# timer at boot, nor distrust its clock, nor report stalls.
PATIENCE = "no_timer_check tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
# After a signal that should end the command, it has this long before it is killed.
GRACE_SECONDS = 10
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class LabError(Exception):
    """The lab itself failed, not the command in it."""


def say(message):
    print(f"lab: {message}", file=sys.stderr, flush=True)


# --- starting and stopping ---------------------------------------------------------------------


def option_value(text):
    """A value inside a QEMU option, where a comma ends it unless doubled."""
    return text.replace(",", ",,")


def shares(options):
    """What of this machine the lab sees: (tag, path, mode)."""
    found = [("checkout", options.checkout, "rw")]
    outside = [(options.cache, "ro"), (os.environ.get("CARGO_TARGET_DIR", ""), "rw")]
    for number, (path, mode) in enumerate(outside):
        path = os.path.realpath(path) if path else ""
        inside = os.path.commonpath([path, options.checkout]) == options.checkout if path else True
        if not inside and os.path.isdir(path):
            found.append((f"share{number}", path, mode))
    return found


def write_initramfs(options, directory, token):
    """The image's initramfs with the lab's scripts of this checkout and this start's settings."""
    guest = os.path.join(HERE, "lab-guest")
    config = os.path.join(directory, "config")
    lines = [f"{tag} {mode} {path}" for tag, path, mode in shares(options)]
    with open(config, "w") as file:
        file.write(f"checkout={shlex.quote(options.checkout)}\n")
        file.write(f"shares=({' '.join(shlex.quote(line) for line in lines)})\n")
    token_file = os.path.join(directory, "token")
    with open(token_file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(token)
    command = [sys.executable, os.path.join(HERE, "cpio.py")]
    command += ["--file", f"init={guest}/initramfs-init"]
    command += ["--file", f"lab/config={config}", "--file", f"lab/token={token_file}:600"]
    for name in ("init", "modules.sh", "sync-binaries", "exec-server.py"):
        command += ["--file", f"lab/{name}={guest}/{name}"]
    for parent, _, files in os.walk(os.path.join(guest, "etc")):
        for name in files:
            source = os.path.join(parent, name)
            command += ["--file", f"lab/{os.path.relpath(source, guest)}={source}"]
    path = os.path.join(directory, "initramfs")
    with open(path, "wb") as out:
        with open(os.path.join(options.image, "initramfs"), "rb") as base:
            shutil.copyfileobj(base, out)
        out.flush()
        subprocess.run(command, stdout=out, check=True)
    return path


def qemu_command(options, directory, initramfs):
    # One thread for all CPUs, unless they are to run at once: with one each, a CPU can translate code while another writes to it and
    # keep what it read. The kernel patches its own code whenever a static key flips (a first cpuset,
    # a first VM), and the lab then died of an int3 that was no longer there.
    threads = "multi" if options.parallel else "single"
    accelerator = ["-accel", f"tcg,thread={threads},tb-size=1024"]
    if options.clock == "instructions":
        accelerator += ["-icount", "shift=0,sleep=off"]
    # By its own loader, with the libraries that it was linked against.
    command = [f"{options.qemu}/lib/ld-linux-x86-64.so.2", "--library-path", f"{options.qemu}/lib"]
    command += [f"{options.qemu}/qemu-system-x86_64", "-L", f"{options.qemu}/share"]
    command += ["-name", "ringfence-lab", *accelerator]
    command += ["-cpu", "max,+svm", "-smp", str(options.cpus), "-m", str(options.memory)]
    command += ["-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-serial", f"file:{option_value(directory)}/console.log"]
    command += ["-qmp", f"unix:{option_value(directory)}/qmp.sock,server=on,wait=off"]
    command += ["-kernel", f"{options.image}/vmlinuz", "-initrd", initramfs]
    command += ["-append", f"console=ttyS0 quiet panic=-1 mitigations=off {PATIENCE}"]
    disk = f"file={option_value(options.image)}/disk,format=raw,if=virtio,snapshot=on,cache=unsafe"
    command += ["-drive", disk]
    # Cut off from every network; the one way in is the command server's port.
    command += ["-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:7000"]
    command += ["-device", "virtio-net-pci,netdev=net,romfile="]
    command += ["-device", "virtio-rng-pci"]
    for tag, path, mode in shares(options):
        only = ",readonly=on" if mode == "ro" else ""
        device = f"local,id={tag},path={option_value(path)},security_model=none{only}"
        command += ["-fsdev", f"{device},multidevs=remap"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return command


class Lab:
    """A directory with a QEMU: state.json says what it is, console.log what it printed."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, name):
        return os.path.join(self.directory, name)

    def state(self):
        """What runs here, or None."""
        try:
            with open(self.path("state.json")) as file:
                state = json.load(file)
            with open(f"/proc/{state['pid']}/cmdline", "rb") as file:
                running = self.directory.encode() in file.read()
        except (OSError, ValueError, KeyError):
            return None
        return state if running else None

    def qmp(self, command, **arguments):
        """One command to QEMU's monitor."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(30)
            monitor.connect(self.path("qmp.sock"))
            with monitor.makefile("rw") as stream:
                stream.readline()
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    answer = json.loads(stream.readline())
                    while "return" not in answer and "error" not in answer:
                        answer = json.loads(stream.readline())
                return answer.get("return")

    def start(self, options, keep):
        """Starts QEMU and waits until it takes commands."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        token = secrets.token_hex(32)
        initramfs = write_initramfs(options, self.directory, token)
        wait = 15 if options.clock == "wall" else 45
        say(
            f"starting a lab ({options.clock} clock, {options.cpus} CPUs, {options.memory} MiB),"
            f" about {wait} s; console: {self.path('console.log')}"
        )
        started = time.monotonic()
        with open(self.path("qemu.log"), "wb") as log:
            process = subprocess.Popen(
                qemu_command(options, self.directory, initramfs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The terminal's Ctrl-C is the command's, not the machine's.
                start_new_session=True,
                preexec_fn=None if keep else die_with_parent(os.getpid()),
            )
        try:
            self._wait_until_ready(process, started + options.deadline)
            port = self._forwarded_port()
        except BaseException:
            process.kill()
            process.wait()
            raise
        os.unlink(initramfs)
        state = {key: getattr(options, key) for key in ("clock", "cpus", "memory", "image", "checkout", "recipe")}
        state.update(pid=process.pid, port=port, token=token, boot_seconds=round(time.monotonic() - started, 1))
        with open(self.path("state.json.new"), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(state, file)
        os.rename(self.path("state.json.new"), self.path("state.json"))
        say(f"the lab is up after {state['boot_seconds']} s")
        return process

    def _wait_until_ready(self, process, deadline):
        while True:
            console = self._console()
            if READY in console:
                return
            if FAILED in console or process.poll() is not None:
                raise LabError("the lab did not start" + self.last_words())
            if time.monotonic() > deadline:
                raise LabError("the lab did not take commands within its deadline" + self.last_words())
            time.sleep(0.05)

    def _console(self):
        try:
            with open(self.path("console.log"), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def last_words(self):
        """The end of the console and of QEMU's own output, for an error message."""
        text = ""
        for name in ("console.log", "qemu.log"):
            try:
                with open(self.path(name), "rb") as file:
                    lines = file.read().decode(errors="replace").splitlines()[-20:]
            except OSError:
                continue
            if lines:
                text += f"; the end of {self.path(name)}:\n    " + "\n    ".join(lines)
        return text

    def _forwarded_port(self):
        """QEMU took a free port; its user network says which."""
        table = self.qmp("human-monitor-command", **{"command-line": "info usernet"})
        for line in table.splitlines():
            fields = line.split()
            if fields and fields[0].startswith("TCP[HOST_FORWARD]"):
                return int(fields[3])
        raise LabError(f"QEMU names no forwarded port: {table!r}")

    def stop(self):
        state = self.state()
        if state:
            try:
                self.qmp("quit")
            except OSError:
                pass
            deadline = time.monotonic() + 5
            while self.state() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self.state():
                os.kill(state["pid"], signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
        return state is not None


def die_with_parent(parent):
    """For a child before exec: end with us, however we end."""

    def prepare():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


# --- running a command -------------------------------------------------------------------------


def frame(kind, payload=b""):
    return kind + struct.pack(">I", len(payload)) + payload


PASSED_ON = ("RUST_", "RINGFENCE_", "CARGO_", "LC_", "TEST_", "PROPTEST_")
PASSED_ON_EXACTLY = {"TERM", "LANG", "NO_COLOR", "COLORTERM", "TZ"}
NOT_PASSED_ON = {"RINGFENCE_LAB", "RINGFENCE_ROOTS", "RINGFENCE_SOURCES"}


def command_environment(clock):
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(PASSED_ON) or name in PASSED_ON_EXACTLY) and name not in NOT_PASSED_ON
    }
    environment.update(
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/root",
        USER="root",
        LOGNAME="root",
        SHELL="/bin/bash",
        RINGFENCE_IN_LAB=clock,
        RINGFENCE_ROOTS="/opt/roots",
        RINGFENCE_SOURCES="/opt/src",
    )
    environment.setdefault("LANG", "C.UTF-8")
    return environment


class OutputWriter(threading.Thread):
    """Writes one of the command's streams to ours. A thread, since our descriptor may be shared with
    programs that expect it to block."""

    def __init__(self, descriptor, closed):
        super().__init__(daemon=True)
        self.descriptor = descriptor
        self.closed = closed
        self.parts = []
        self.size = 0
        self.ended = False
        self.error = None
        self.change = threading.Condition()
        self.start()

    def put(self, data):
        """Waits while much is unwritten: that stops the command, not us."""
        with self.change:
            while self.size > 1024 * 1024 and not self.error:
                self.change.wait()
            if not self.error:
                self.parts.append(data)
                self.size += len(data)
                self.change.notify_all()

    def finish(self):
        with self.change:
            self.ended = True
            self.change.notify_all()

    def run(self):
        while True:
            with self.change:
                while not self.parts and not self.ended:
                    self.change.wait()
                if not self.parts:
                    return
                data = self.parts.pop(0)
            error = self._write(data)
            with self.change:
                self.size -= len(data)
                if error:
                    self.error, self.parts, self.size = error, [], 0
                self.change.notify_all()
            if error:
                self.closed()
                return

    def _write(self, data):
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError as error:
                return error
        return None


class StdinReader(threading.Thread):
    """Sends our stdin, at most STDIN_WINDOW bytes ahead of the command."""

    def __init__(self, send):
        super().__init__(daemon=True)
        self.send = send
        self.room = STDIN_WINDOW
        self.change = threading.Condition()
        self.start()

    def acknowledge(self, count):
        with self.change:
            self.room += count
            self.change.notify_all()

    def run(self):
        while True:
            with self.change:
                while self.room <= 0:
                    self.change.wait()
                most = min(self.room, 64 * 1024)
            try:
                data = os.read(0, most)
            except BlockingIOError:
                select.select([0], [], [])
                continue
            except OSError:
                data = b""
            with self.change:
                self.room -= len(data)
            try:
                self.send(frame(b"i", data) if data else frame(b"c"))
            except OSError:
                return
            if not data:
                return


class Call:
    """One command in a lab, from its request to its exit status."""

    def __init__(self, lab, state):
        self.lab = lab
        self.sending = threading.Lock()
        self.signalled = None
        self.given_up = False
        try:
            self.connection = socket.create_connection(("127.0.0.1", state["port"]))
        except OSError as error:
            raise LabError(f"the lab's command server does not answer: {error}" + lab.last_words())
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        with self.sending:
            self.connection.sendall(data)

    def run(self, request, token):
        self.send(frame(b"t", token.encode()))
        self.send(frame(b"r", json.dumps(request).encode()))
        writers = {
            b"o": OutputWriter(1, lambda: self._quietly(frame(b"O"))),
            b"e": OutputWriter(2, lambda: self._quietly(frame(b"E"))),
        }
        reader = None
        status = None
        while status is None:
            kind, payload = self._receive()
            if kind == b"h":
                reader = StdinReader(self.send)
            elif kind in writers:
                writers[kind].put(payload)
            elif kind == b"a":
                reader.acknowledge(struct.unpack(">Q", payload)[0])
            elif kind == b"x":
                status = payload[0]
        self.connection.close()
        for writer in writers.values():
            writer.finish()
            writer.join()
            if writer.error and writer.error.errno != errno.EPIPE:
                say(f"cannot write the command's output: {writer.error.strerror}")
                status = status or 1
        return status

    def _quietly(self, data):
        try:
            self.send(data)
        except OSError:
            pass

    def _receive(self):
        header = self._exactly(5)
        return header[:1], self._exactly(struct.unpack(">I", header[1:])[0])

    def _exactly(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                part = self.connection.recv(min(length - len(data), 256 * 1024))
            except OSError:
                part = b""
            if not part:
                if self.signalled:
                    raise SystemExit(128 + self.signalled)
                raise LabError("the lab ended before the command did" + self.lab.last_words())
            data += part
        return bytes(data)

    def handle_signals(self, terminal):
        """Ours are the command's; one that it ignores for long, or a second one, kills it."""
        for number in FORWARDED:
            # What our caller has us ignore (nohup, a background job) stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._forward)
        signal.signal(signal.SIGALRM, self._give_up)
        if terminal:
            signal.signal(signal.SIGWINCH, lambda *_: self._in_background(frame(b"w", struct.pack(">HH", *window_size()))))

    def _forward(self, number, _):
        if self.signalled:
            self._give_up()
            return
        self.signalled = number
        signal.alarm(GRACE_SECONDS)
        self._in_background(frame(b"s", bytes([number])))

    def _in_background(self, data):
        # The handler may interrupt the holder of the lock.
        threading.Thread(target=self._quietly, args=(data,), daemon=True).start()

    def _give_up(self, *_):
        # The server kills what a closed connection leaves. Should our own reader be stuck as well,
        # the next alarm finds given_up set.
        if self.given_up:
            os._exit(128 + self.signalled)
        self.given_up = True
        signal.alarm(2)
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def window_size():
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return rows, columns


def run_command(lab, state, options):
    request = {
        "argv": options.command,
        "cwd": options.cwd,
        "env": command_environment(state["clock"]),
        "checkout": state["checkout"],
    }
    saved = None
    if options.terminal:
        request["terminal"] = window_size()
    call = Call(lab, state)
    call.handle_signals(options.terminal)
    if options.terminal and os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
    try:
        return call.run(request, state["token"])
    finally:
        if saved:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


# --- the command line --------------------------------------------------------------------------


def matches(state, options):
    """Whether a running lab is what is asked for."""
    if state["image"] != options.image:
        say(f"the running lab ({options.clock} clock) has an older image; scripts/lab down stops it")
        return False
    if state["recipe"] != options.recipe:
        if options.verb == "up":
            return False
        say(f"the running lab ({options.clock} clock) was started by older scripts; scripts/lab up renews it")
    cpus, memory = options.cpus, options.memory
    return cpus in (None, state["cpus"]) and (memory is None or memory <= state["memory"])


@contextlib.contextmanager
def turn(lab, state):
    """On the instruction clock one run at a time has the machine, so that none is in another's figures.
    Between runs it stands still: idle, it would jump from timer to timer as fast as it can."""
    if state["clock"] != "instructions":
        yield
        return
    with open(lab.directory + ".turn", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run on the instruction clock")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lab.qmp("cont")
        try:
            yield
        except SystemExit:
            # A run that was given up: the server needs a moment to kill what it started.
            time.sleep(1)
            raise
        finally:
            try:
                lab.qmp("stop")
            except OSError:
                # It ended during the run.
                pass


def settle_size(options):
    options.cpus = options.cpus or options.default_cpus
    options.memory = options.memory or options.default_memory


def run(options):
    instance = Lab(options.instance)
    if options.keep:
        up(options)
    if not options.new:
        state = instance.state()
        if state and matches(state, options):
            with turn(instance, state):
                return run_command(instance, state, options)
    # Ending by a signal runs the clean-up.
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    remove_leftovers(options.run_directory)
    settle_size(options)
    lab = Lab(tempfile.mkdtemp(prefix=f"once-{os.getpid()}-", dir=options.run_directory))
    process = None
    try:
        process = lab.start(options, keep=False)
        return run_command(lab, lab.state(), options)
    except LabError:
        keep_logs(lab, options.run_directory)
        raise
    finally:
        if process:
            process.kill()
            process.wait()
        shutil.rmtree(lab.directory, ignore_errors=True)


def keep_logs(lab, run_directory):
    for name in ("console.log", "qemu.log"):
        if os.path.exists(lab.path(name)):
            kept = os.path.join(run_directory, f"last-failed-{name}")
            shutil.copy(lab.path(name), kept)
            say(f"kept {kept}")


def remove_leftovers(run_directory):
    """Directories of runs that were killed; their QEMU ended with them."""
    for name in os.listdir(run_directory):
        prefix, _, owner = name.partition("-")
        owner = owner.partition("-")[0]
        if prefix == "once" and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(os.path.join(run_directory, name), ignore_errors=True)


def up(options):
    lab = Lab(options.instance)
    with open(options.instance + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = lab.state()
        if state and matches(state, options):
            say(f"a lab is running already ({options.clock} clock)")
            return 0
        if state:
            say(f"stopping the running lab ({options.clock} clock), to start what is asked for")
        lab.stop()
        settle_size(options)
        try:
            lab.start(options, keep=True)
        except LabError:
            keep_logs(lab, options.run_directory)
            raise
        if options.clock == "instructions":
            lab.qmp("stop")
    return 0


def down(options):
    if not Lab(options.instance).stop():
        return 1
    say(f"stopped the lab ({options.clock} clock)")
    return 0


def status(options):
    state = Lab(options.instance).state()
    if not state:
        print(f"lab, {options.clock} clock: not running")
        return 1
    print(
        f"lab, {options.clock} clock: running, {state['cpus']} CPUs, {state['memory']} MiB,"
        f" started in {state['boot_seconds']} s, process {state['pid']}, {options.instance}"
    )
    return 0


def open_standard_streams():
    """A closed one would give its number to our first socket."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/null", os.O_RDWR)


def main():
    open_standard_streams()
    parser = argparse.ArgumentParser(prog="lab-client.py")
    parser.add_argument("verb", choices=("run", "up", "down", "status"))
    parser.add_argument("--clock", choices=("wall", "instructions"), required=True)
    for name in ("cpus", "memory", "default-cpus", "default-memory", "deadline"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("image", "qemu", "recipe", "checkout", "cache", "cwd", "instance", "run-directory"):
        parser.add_argument(f"--{name}")
    for name in ("terminal", "new", "parallel", "keep"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        end = arguments.index("--")
        arguments, command = arguments[:end], arguments[end + 1 :]
    options = parser.parse_args(arguments)
    options.command = command
    verbs = {"run": run, "up": up, "down": down, "status": status}
    try:
        return verbs[options.verb](options)
    except LabError as error:
        say(f"error: {error}")
        return LAB_FAILED


if __name__ == "__main__":
    sys.exit(main())
