"""trace-table.py FILE: a table of the timeline that `ringfence run --trace FILE` wrote.

The file is in Chrome's trace format: complete events ("ph": "X") with a name, a start (ts) and a
duration (dur) in microseconds.
"""

import json
import sys


def main(path):
    with open(path) as file:
        trace = json.load(file)
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    phases = sorted(
        (event for event in events if event.get("ph") == "X"),
        key=lambda event: (event["ts"], -event.get("dur", 0)),
    )
    if not phases:
        raise SystemExit(f"{path} holds no phase")
    start = phases[0]["ts"]
    end = max(event["ts"] + event.get("dur", 0) for event in phases)
    width = max(len(event["name"]) for event in phases)
    print(f"  {'phase':<{width}}  {'begins at':>10}  {'takes':>10}   (milliseconds)")
    for event in phases:
        begins, takes = (event["ts"] - start) / 1000, event.get("dur", 0) / 1000
        print(f"  {event['name']:<{width}}  {begins:10.1f}  {takes:10.1f}")
    print(f"  {'all':<{width}}  {'':10}  {(end - start) / 1000:10.1f}")


main(sys.argv[1])
