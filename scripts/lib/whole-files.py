"""whole-files.py LOCK: passes on what run-test-binaries prints, a test file at a time.

Several of these write to one place: each holds LOCK while it does.
"""

import fcntl
import sys


def pass_on(block, lock):
    fcntl.flock(lock, fcntl.LOCK_EX)
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    fcntl.flock(lock, fcntl.LOCK_UN)


with open(sys.argv[1], "w") as lock:
    block = b""
    for line in sys.stdin.buffer:
        # run-test-binaries begins a file with an empty line and this.
        if line.startswith((b"=== ", b"lab: ")):
            pass_on(block, lock)
            block = b""
        block += line
        if line.startswith(b"lab: "):
            pass_on(block, lock)
            block = b""
    pass_on(block, lock)
