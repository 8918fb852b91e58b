"""The provenance of a result: package versions, the commit of the code, seed, device, threads and processes."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

_PACKAGES = ("usdn-nas", "torch", "torchvision", "optuna", "numpy", "scipy", "pandas")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """Returns the commit of the checkout that this package is imported from. None if it is not in a checkout.

    A ``+`` follows the commit if tracked files have changes.
    """
    folder = Path(__file__).resolve().parents[1]

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.parent:
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def provenance(*, seed: int | None, device: str, threads: int | None, processes: int = 1) -> dict[str, Any]:
    """Returns the provenance in JSON's own types. Packages that are not installed are left out.

    Args:
        seed: The study's seed.
        device: The device that was used.
        threads: Number of threads of each process.
        processes: Number of processes that trained together.
    """
    return {
        "seed": seed,
        "device": device,
        "threads": threads,
        "processes": processes,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }
