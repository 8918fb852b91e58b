"""Freed memory, seen from outside: page faults of a process that asks for the same memory again and again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from usdn_nas.pipeline.heap import keep_freed_memory
kept = keep_freed_memory()
torch.set_num_threads(1)
def step():
    kept = [torch.ones(2**20) for _ in range(32)]  # 4 MiB each
for _ in range(2):  # of pieces of one size glibc, left to itself, learns later to keep them
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> tuple[str, int]:
    out = subprocess.run([sys.executable, "-c", CODE], env=os.environ | environment, capture_output=True, check=True)
    kept, faults = out.stdout.decode().split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_pages_are_asked_for_once() -> None:
    kept, faults = run()
    assert kept == "True"
    assert faults < 16 * 1024  # of 32,768 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_the_environment_goes_first() -> None:
    kept, faults = run(MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="1000")
    assert kept == "False"
    assert faults > 16 * 1024
