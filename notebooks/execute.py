"""Runs the notebooks beside ``runs/digits`` and keeps their outputs: python notebooks/execute.py [NAME...]."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(path: Path) -> None:
    """Executes one notebook in place; times and editors' marks are not kept."""
    start = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.monotonic() - start:.0f} s")


def main() -> None:
    """Those that are named, else all."""
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, which Optuna imports, without ipywidgets
    names = sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb"))
    for name in names:
        execute(FOLDER / name)


if __name__ == "__main__":
    main()
