#!/usr/bin/env python3
"""Writes a newc cpio archive to stdout that depends on its content only.

    cpio.py [--tree DIR] [--dir PATH] [--file PATH=SOURCE[:MODE]] [--char PATH=MAJOR:MINOR[:MODE]]…

Owners are 0:0, times are 0 and inode numbers count up, so that the same input gives the same
bytes; device nodes need no privilege. The format is the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
import sys


class Archive:
    """Entries in the order they are added; parents are added by themselves."""

    def __init__(self, out):
        self.out = out
        self.inode = 0
        self.known = set()

    def _pad(self, length):
        self.out.write(b"\0" * (-length % 4))

    def entry(self, path, mode, data=b"", device=(0, 0)):
        name = path.encode() + b"\0"
        self.inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self.inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.out.write(header + name)
        self._pad(len(header) + len(name))
        self.out.write(data)
        self._pad(len(data))

    def parents(self, path):
        parent = os.path.dirname(path)
        if parent:
            self.directory(parent)

    def directory(self, path, mode=0o755):
        if path in self.known:
            return
        self.known.add(path)
        self.parents(path)
        self.entry(path, stat.S_IFDIR | mode)

    def file(self, path, source, mode=None):
        self.parents(path)
        with open(source, "rb") as content:
            data = content.read()
        if mode is None:
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self.entry(path, stat.S_IFREG | mode, data)

    def char(self, path, major, minor, mode=0o600):
        self.parents(path)
        self.entry(path, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, root):
        for directory, directories, files in os.walk(root):
            directories.sort()
            prefix = os.path.relpath(directory, root)
            prefix = "" if prefix == "." else prefix + "/"
            for name in sorted(directories + files):
                source, path = os.path.join(directory, name), prefix + name
                if os.path.islink(source):
                    self.parents(path)
                    self.entry(path, stat.S_IFLNK | 0o777, os.readlink(source).encode())
                elif os.path.isdir(source):
                    self.directory(path)
                else:
                    self.file(path, source)

    def end(self):
        self.inode = -1
        self.entry("TRAILER!!!", 0)


def main(arguments):
    archive = Archive(sys.stdout.buffer)
    if len(arguments) % 2:
        raise SystemExit(__doc__)
    for option, value in zip(arguments[::2], arguments[1::2]):
        path, _, rest = value.partition("=")
        parts = rest.split(":")
        if option == "--tree":
            archive.tree(value)
        elif option == "--dir":
            archive.directory(value.strip("/"))
        elif option == "--file":
            archive.file(path.strip("/"), parts[0], *(int(mode, 8) for mode in parts[1:]))
        elif option == "--char":
            major, minor = int(parts[0]), int(parts[1])
            archive.char(path.strip("/"), major, minor, *(int(mode, 8) for mode in parts[2:]))
        else:
            raise SystemExit(f"cpio.py: unknown option {option}")
    archive.end()
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
