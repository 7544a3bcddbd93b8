"""sqlite.py DATABASE: processes that write to one database in WAL mode, and one that reads meanwhile."""

import os
import sqlite3
import sys
import time

WRITERS, TRANSACTIONS, ROWS = 3, 10, 4


def connect(name):
    connection = sqlite3.connect(name, timeout=120, isolation_level=None)
    connection.execute("PRAGMA synchronous = NORMAL")
    # So that the log is carried over into the database now and then.
    connection.execute("PRAGMA wal_autocheckpoint = 10")
    return connection


def write(name, writer):
    connection = connect(name)
    for number in range(TRANSACTIONS):
        connection.execute("BEGIN IMMEDIATE")
        (before,) = connection.execute("SELECT value FROM counter").fetchone()
        for row in range(ROWS):
            entry = (writer, number, row, "x" * (100 * row))
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", entry)
        connection.execute("UPDATE counter SET value = ?", (before + ROWS,))
        connection.execute("COMMIT")


def read(name):
    connection, seen = connect(name), 0
    while seen < WRITERS * TRANSACTIONS * ROWS:
        query = "SELECT (SELECT value FROM counter), (SELECT count(*) FROM entries)"
        counter, entries = connection.execute(query).fetchone()
        if counter != entries or counter < seen:
            sys.exit(f"{entries} entries, counted as {counter}, after {seen}")
        seen = counter
        # It need not take the only processor from those that write.
        time.sleep(0.05)


def start(work, *arguments):
    child = os.fork()
    if child == 0:
        work(*arguments)
        os._exit(0)
    return child


def main():
    name = sys.argv[1]
    connection = connect(name)
    print("== mode")
    print(connection.execute("PRAGMA journal_mode = WAL").fetchone())
    connection.execute("CREATE TABLE entries (writer, number, line, content)")
    connection.execute("CREATE TABLE counter (value)")
    connection.execute("INSERT INTO counter VALUES (0)")
    connection.close()
    children = [start(write, name, writer) for writer in range(WRITERS)]
    children.append(start(read, name))
    print("== ends")
    print([os.waitpid(child, 0)[1] for child in children])
    connection = connect(name)
    print("== content")
    for query in (
        "PRAGMA integrity_check",
        "SELECT writer, count(*), sum(number), sum(length(content)) FROM entries GROUP BY writer",
        "SELECT value FROM counter",
    ):
        print(connection.execute(query).fetchall())
    connection.execute("DROP TABLE entries")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    # What is left depends on who came when.
    os.unlink(name)


main()
