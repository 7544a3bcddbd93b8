"""Reads cargo's JSON messages; prints the paths of the end-to-end test binaries, one a line.

The `workspace` tests are about the sources and need no KVM: they run with the unit tests.
"""

import json
import sys

# Those that take minutes come first, so that two machines that share the list end at about one time.
LONG = (
    "differential",
    "shim",
    "cri",
    "files_tools",
    "network_engines",
    "files_programs",
    "pitfalls",
    "build_source",
    "network",
    "daemons",
    "podman",
    "files",
    "exec",
    "hostile_agent",
    "lifecycle",
    "builds",
)

found = []
for line in sys.stdin:
    message = json.loads(line)
    target = message.get("target", {})
    if message.get("reason") == "compiler-artifact" and message.get("executable"):
        if target.get("kind") == ["test"] and target.get("name") != "workspace":
            place = LONG.index(target["name"]) if target["name"] in LONG else len(LONG)
            found.append((place, target["name"], message["executable"]))
for _, _, executable in sorted(found):
    print(executable)
