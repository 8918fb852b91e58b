"""``usdn-nas search --workers 2`` from outside: interrupted, it ends with its workers and goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.pipeline.tiny import contents

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

SCRIPT = """
import sys
from usdn_nas.cli import main

if __name__ == "__main__":
    sys.argv[1:] = {arguments!r}
    main()
"""


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_interrupted_with_workers(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny_copy / "search")
    settings = ("search.sampler=gp", "search.configurations=12", "search.batch=1", "search.backend=float")
    arguments = ["search", str(tiny_copy), "--workers", "2", *(part for s in settings for part in ("--set", s))]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(arguments=arguments))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True)
    journal, deadline = tiny_copy / "search/study.journal", time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b'"front"') >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    assert errors.endswith("interrupted; the same command goes on from here\n") and "Traceback" not in errors
    assert len(workers) >= 2
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # one of them is Python's, and ends after us
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (tiny_copy / "search/trials.csv").exists()
    result = command(*[argument for argument in arguments if argument not in ("--workers", "2")])
    assert result.exit_code == 0 and "search: was interrupted, goes on" in result.stderr
    rows = contents(tiny_copy)["search/trials.csv"]
    assert [row["state"] for row in rows] == ["complete"] * 12
    assert len({tuple(row[name] for name in ("layer1.0", "layer2.0", "layer3.0")) for row in rows}) == 12
