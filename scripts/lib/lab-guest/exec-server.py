"""Runs commands in the lab for `scripts/lab run`: one connection, one command.

    exec-server.py TOKEN_FILE

Frames, both ways: one byte of type, four bytes of length (big endian), payload.

    client to server                        server to client
    t  the token, first of all              h  the command was started
    r  the request, JSON, second            o  stdout bytes
    i  stdin bytes                          e  stderr bytes
    c  end of stdin                         a  this many stdin bytes were taken (8 bytes)
    s  a signal number (1 byte)             x  exit status (1 byte), last of all
    w  rows and columns (2 + 2 bytes)
    O  stdout has no reader any more
    E  stderr has no reader any more

A client sends at most STDIN_WINDOW bytes of stdin that were not acknowledged, so that a command that
reads nothing never keeps signals from being seen. When the connection ends before the command did,
everything that the command started is killed.
"""

import ctypes
import errno
import fcntl
import hmac
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

PORT = 7000
STDIN_WINDOW = 256 * 1024
# A token or a request above these is not ours.
MAX_TOKEN = 256
MAX_REQUEST = 16 * 1024 * 1024
MAX_FRAME = 1024 * 1024
# Output is not read while this much waits for the network.
MAX_QUEUED = 1024 * 1024
# How long a pipe that outlived its command is watched for more: `cmd > >(tee log)` is complete,
# a daemon that kept the pipe does not hold the caller.
DRAIN_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36
ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL}


def frame(kind, payload=b""):
    return kind + struct.pack(">I", len(payload)) + payload


def receive_exactly(connection, length):
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return bytes(data)


def receive_frame(connection, kind, limit):
    header = receive_exactly(connection, 5)
    (length,) = struct.unpack(">I", header[1:])
    if header[:1] != kind or length > limit:
        raise ConnectionError("not a lab client")
    return receive_exactly(connection, length)


def start_command(request, files, terminal):
    """Forks the command with files as 0, 1, 2; answers its pid. Failing to start is status 126 or
    127 with the reason on its stderr, as in a shell."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.closerange(3, 4096)
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        argv = request["argv"]
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            os.write(2, f"lab: cannot enter {request['cwd']}: {error.strerror}\n".encode())
            os._exit(126)
        try:
            os.execvpe(argv[0], argv, request["env"])
        except OSError as error:
            os.write(2, f"lab: {argv[0]}: {error.strerror}\n".encode())
            os._exit(127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126)
    finally:
        os._exit(126)


def descendants(root):
    """Every process below root, from one look at /proc."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    # The name in parentheses may hold anything.
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_descendants():
    """Kills and reaps everything below this process; it is the sub-reaper of all of it."""
    for _ in range(1000):
        victims = descendants(os.getpid())
        if not victims:
            return
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


class Session:
    """One command and the connection that asked for it."""

    def __init__(self, connection, request):
        self.connection = connection
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.stdin_data = bytearray()
        self.stdin_ended = False
        self.taken = 0
        self.status = None
        self.ended_at = None
        self.killed = False
        self.terminal = None
        self.outputs = {}
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        self.wake = wake_read
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        if request.get("terminal"):
            self._start_on_terminal(request)
        else:
            self._start_on_pipes(request)
        self.outgoing += frame(b"h")

    def _start_on_pipes(self, request):
        stdin_read, self.stdin = os.pipe()
        stdout, stdout_write = os.pipe()
        stderr, stderr_write = os.pipe()
        self.pid = start_command(request, (stdin_read, stdout_write, stderr_write), False)
        for descriptor in (stdin_read, stdout_write, stderr_write):
            os.close(descriptor)
        self.outputs = {stdout: b"o", stderr: b"e"}
        for descriptor in (self.stdin, stdout, stderr):
            os.set_blocking(descriptor, False)

    def _start_on_terminal(self, request):
        master, slave = os.openpty()
        self.terminal = master
        self.resize(*request["terminal"])
        self.pid = start_command(request, (slave, slave, slave), True)
        os.close(slave)
        os.set_blocking(master, False)
        self.stdin = os.dup(master)
        self.outputs = {master: b"o"}

    def resize(self, rows, columns):
        if self.terminal is not None:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, size)

    def run(self):
        """Until the command has ended and all its output is on its way."""
        while True:
            self._reap()
            if self.status is not None and not self.outputs:
                break
            self._wait()
        if self.killed:
            kill_descendants()
        self.outgoing += frame(b"x", bytes([self.status]))
        self.connection.setblocking(True)
        self.connection.sendall(self.outgoing)
        self.connection.shutdown(socket.SHUT_WR)
        # The client closes first: a reset would throw away what it has not read yet.
        while self.connection.recv(65536):
            pass

    def _reap(self):
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.status = code if code >= 0 else 128 - code
                    self.ended_at = time.monotonic()
        except ChildProcessError:
            pass

    def _wait(self):
        poller = select.poll()
        events = select.POLLIN
        if self.outgoing:
            events |= select.POLLOUT
        poller.register(self.connection, events)
        poller.register(self.wake, select.POLLIN)
        if len(self.outgoing) < MAX_QUEUED:
            for descriptor in self.outputs:
                poller.register(descriptor, select.POLLIN)
        if self.stdin is not None and self.stdin_data:
            poller.register(self.stdin, select.POLLOUT)
        timeout = None
        if self.status is not None:
            timeout = max(0, (self.ended_at + DRAIN_SECONDS - time.monotonic()) * 1000)
        ready = dict(poller.poll(timeout))
        if self.wake in ready:
            os.read(self.wake, 4096)
        if ready.get(self.connection.fileno(), 0) & ~select.POLLOUT:
            self._receive()
        for descriptor in list(self.outputs):
            if descriptor in ready:
                self._read_output(descriptor)
        if self.stdin in ready:
            self._write_stdin()
        if self.outgoing:
            self._send()
        if self.status is not None and time.monotonic() >= self.ended_at + DRAIN_SECONDS:
            # What still waits for room in the queue is not late.
            if len(self.outgoing) < MAX_QUEUED:
                for descriptor in list(self.outputs):
                    self._read_output(descriptor, last=True)

    def _read_output(self, descriptor, last=False):
        try:
            data = os.read(descriptor, 128 * 1024)
        except BlockingIOError:
            if last:
                self._close_output(descriptor)
            return
        except OSError:
            # A terminal whose other side is closed.
            data = b""
        if data:
            self.outgoing += frame(self.outputs[descriptor], data)
            if self.status is not None:
                self.ended_at = time.monotonic()
        else:
            self._close_output(descriptor)

    def _close_output(self, descriptor):
        del self.outputs[descriptor]
        if descriptor == self.terminal:
            self.terminal = None
        os.close(descriptor)

    def _send(self):
        try:
            sent = self.connection.send(self.outgoing)
            del self.outgoing[:sent]
        except BlockingIOError:
            pass

    def _write_stdin(self):
        try:
            written = os.write(self.stdin, self.stdin_data)
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads any more: swallow the rest, as a shell's pipe would.
            written = len(self.stdin_data)
            os.close(self.stdin)
            self.stdin = None
        del self.stdin_data[:written]
        self._acknowledge(written)
        self._close_stdin_when_done()

    def _acknowledge(self, count):
        self.outgoing += frame(b"a", struct.pack(">Q", count))

    def _close_stdin_when_done(self):
        if self.stdin_ended and not self.stdin_data and self.stdin is not None:
            if self.terminal is None:
                os.close(self.stdin)
                self.stdin = None

    def _receive(self):
        try:
            data = self.connection.recv(256 * 1024)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("closed")
        self.incoming += data
        while len(self.incoming) >= 5:
            (length,) = struct.unpack(">I", self.incoming[1:5])
            if length > MAX_FRAME:
                raise ConnectionError("frame too long")
            if len(self.incoming) < 5 + length:
                return
            kind, payload = bytes(self.incoming[:1]), bytes(self.incoming[5 : 5 + length])
            del self.incoming[: 5 + length]
            self._handle(kind, payload)

    def _handle(self, kind, payload):
        if kind == b"i":
            if self.stdin is None:
                self._acknowledge(len(payload))
            else:
                self.stdin_data += payload
        elif kind == b"c":
            self.stdin_ended = True
            self._close_stdin_when_done()
        elif kind == b"s":
            self.killed = self.killed or payload[0] in ENDING_SIGNALS
            if self.status is None:
                self._signal(payload[0])
        elif kind == b"w":
            self.resize(*struct.unpack(">HH", payload))
        elif kind in (b"O", b"E"):
            for descriptor, name in list(self.outputs.items()):
                if name == kind.lower():
                    self._close_output(descriptor)
        else:
            raise ConnectionError(f"unknown frame {kind!r}")

    def _signal(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # It has not made its own session yet.
            os.kill(self.pid, number)


def contents(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def synchronize_binaries(checkout):
    """The staged binaries may have changed since the last command. Looked at here, since a shell for
    each command would take longer than most commands."""
    staged = contents(f"{checkout}/target/ringfence/lib/ringfence/stamp")
    if staged and staged != contents("/usr/local/lib/ringfence/stamp"):
        subprocess.run(["/run/lab/sync-binaries", checkout], check=True)


def serve(connection, token):
    """One connection, in a process of its own."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not hmac.compare_digest(receive_frame(connection, b"t", MAX_TOKEN), token):
        return
    request = json.loads(receive_frame(connection, b"r", MAX_REQUEST))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    synchronize_binaries(request["checkout"])
    connection.setblocking(False)
    try:
        Session(connection, request).run()
    except ConnectionError:
        kill_descendants()


def main():
    with open(sys.argv[1], "rb") as file:
        token = file.read().strip()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", PORT))
    listener.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ringfence-lab: ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            serve(connection, token)
        except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            print(f"ringfence-lab: connection dropped: {error}", flush=True)
        os._exit(0)


main()
