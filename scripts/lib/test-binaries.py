"""Reads cargo's JSON messages; prints the paths of the end-to-end test binaries, one a line.

The `workspace` tests are about the sources and need no KVM: they run with the unit tests.
"""

import json
import sys

for line in sys.stdin:
    message = json.loads(line)
    target = message.get("target", {})
    if message.get("reason") == "compiler-artifact" and message.get("executable"):
        if target.get("kind") == ["test"] and target.get("name") != "workspace":
            print(message["executable"])
