"""Writes ``supernet/diagnostics.json``, which describes the supernet's quantizers during training and their faults."""

from __future__ import annotations

from pathlib import Path

from usdn_nas.documents import DiagnosticsDocument, write_document
from usdn_nas.pipeline.context import Context
from usdn_nas.quant.diagnostics import QuantizerWatch

__all__ = ["warn", "write_diagnostics"]

_NAMED = 3
"""Largest number of quantizers that a warning names."""


def write_diagnostics(context: Context, watch: QuantizerWatch, path: Path) -> None:
    """Writes the records so far. Call it after at least one epoch."""
    collapsed = [f"{record['layer']}: {record['tensor']} at {record['bits']} bits" for record in watch.collapsed()]
    found = {"quantizers": watch.quantizers, "collapsed": collapsed, "stale": watch.stale()}
    write_document(path, DiagnosticsDocument, {**found, "provenance": context.provenance()})


def warn(context: Context, watch: QuantizerWatch) -> None:
    """Reports faults of a supernet at the end of its training: collapsed step sizes and stale BatchNorm statistics."""
    collapsed, stale = watch.collapsed(), watch.stale()
    if collapsed:
        named = ", ".join(f"{r['layer']} ({r['tensor']}, {r['bits']} bits)" for r in collapsed[:_NAMED])
        context.reporter.say(
            f"supernet: {len(collapsed)} of {len(watch.quantizers)} step sizes fell below a hundredth of their start: "
            f"{named}{', ...' if len(collapsed) > _NAMED else ''} (supernet/diagnostics.json); a lower "
            "supernet.qat.step_lr may help"
        )
    if stale:
        context.reporter.say(
            f"supernet: {len(stale)} BatchNorm statistics were never updated: {', '.join(stale[:_NAMED])}"
            f"{', ...' if len(stale) > _NAMED else ''} (supernet/diagnostics.json); train longer, or with more "
            "supernet.random_paths"
        )
