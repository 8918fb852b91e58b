"""Storms: kills, database servers that stop, mutated inputs, files that want to run code. What is promised must hold.

python benchmarks/storm.py --seed 1

Every part is recorded as it ends, in benchmarks/results/storm.json, and can be run alone (`--only kills`). `--show`
prints the recorded table, which is that of docs/reliability.md. Exit status 1: a promise did not hold.
The command's processes are forked from this one, each in a session of its own and with a time limit; all files are in
temporary folders.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storms import table
from storms.children import warm_up
from storms.crafted import crafted
from storms.kills import kills
from storms.mutations import mutations
from storms.repeat import repeat
from storms.storages import STORAGES, storages
from storms.trust import trust

from usdn_nas._util.files import read_json, write_json
from usdn_nas._util.provenance import provenance

SCHEMA = "usdn-nas/benchmark-storm/1"
RESULTS = Path(__file__).parent / "results" / "storm.json"
PARTS = ("kills", *STORAGES, "mutations", "crafted", "repeat", "trust")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", choices=PARTS, action="append", metavar="PART", help=f"{', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs of runs through all stages")
    parser.add_argument("--worker-kills", type=int, default=16, help="killed workers, in each storage")
    parser.add_argument("--stops", type=int, default=5, help="times that PostgreSQL is stopped and started")
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first mutation: one that failed is tried alone"
    )
    parser.add_argument("--searches", type=int, default=4, help="fresh searches that must give the same files")
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds that a command with a mutated input may take"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutated inputs tried at a time")
    parser.add_argument("--keep", type=Path, help="keep the folders of mutations that went wrong here")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the recorded table and do nothing else")
    return parser.parse_args(arguments)


def works(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What each part does."""
    long, numbers = 15 * options.limit, range(options.first, options.first + options.mutations)

    def one_storage(kind: str) -> dict[str, Any]:
        stops = options.stops if kind == "postgresql" else 0
        found: dict[str, Any] = storages(options.seed, options.worker_kills, stops, long, say, (kind,))[kind]
        return found

    return {
        "kills": lambda: kills(options.seed, options.kills, long, say),
        **{kind: lambda kind=kind: one_storage(kind) for kind in STORAGES},
        "mutations": lambda: mutations(options.seed, numbers, options.limit, options.jobs, say, options.keep),
        "crafted": lambda: crafted(options.limit, options.jobs, say),
        "repeat": lambda: repeat(options.searches, long, say),
        "trust": lambda: trust(options.limit, say),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts, records them, prints the table; returns the exit status."""
    options = parse(arguments)
    if not options.show:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and folders are cleaned up
        warm_up()
        start = time.monotonic()

        def say(text: str) -> None:
            print(f"[{time.monotonic() - start:.0f} s] {text}", file=sys.stderr, flush=True)

        doing = works(options, say)
        for name in options.only or PARTS:
            record = read_json(options.results, SCHEMA) if options.results.exists() else {"schema": SCHEMA, "parts": {}}
            began = time.monotonic()
            found = doing[name]()
            record["parts"][name] = {
                **found,
                "seed": options.seed,
                "limit_seconds": options.limit,
                "seconds": round(time.monotonic() - began),
                "provenance": provenance(seed=options.seed, device="cpu", threads=1),
            }
            write_json(options.results, record)
    record = read_json(options.results, SCHEMA)
    print(table.markdown(record["parts"]))
    shown = {name: part for name, part in record["parts"].items() if options.show or name in (options.only or PARTS)}
    return int(not all(part.get("passed", True) for part in shown.values()))


if __name__ == "__main__":
    sys.exit(main())
