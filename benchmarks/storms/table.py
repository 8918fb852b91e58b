"""The recorded figures as a table, in Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["markdown"]


def _counts(part: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{part[name]:,} {name}" for name in names)


def _kills(part: dict[str, Any]) -> tuple[str, str, str]:
    where = ", ".join(f"{name} {count}" for name, count in sorted(part["where"].items()))
    tried = f"{part['n']:,} kills in {part['rounds']} rounds ({where}); {part['ends']} finished runs compared"
    names = ("finished stages trained again", "trials lost", "trials doubled", "ends that differ", "failed",
             "temporary files left")  # fmt: skip
    return "SIGKILL in all stages, settings swapped to and fro", tried, _counts(part, *names)


def _users(part: dict[str, Any]) -> tuple[str, str, str]:
    tried = f"{part[_FILES]:,} files, {part['rounds']} rounds of the kills above"
    return (
        "A user's files with odd hidden names, in and around the run folder",
        tried,
        _counts(part, f"{_FILES} gone or changed"),
    )


_FILES = "user's files"


def _storage(name: str, part: dict[str, Any]) -> tuple[str, str, str]:
    if "skipped" in part:
        return f"Four workers, {name}", "not tried", part["skipped"]
    stops = f", server stopped and started {part['stops']} times" if part["stops"] else ""
    studies = "1 study" if part["rounds"] == 1 else f"{part['rounds']} studies"
    tried = f"{part['n']} workers killed{stops}; {part['trials']} trials in {studies}"
    names = ("tracebacks", "failed without need", "trials lost", "trials doubled", "trials failed", "trials wrong",
             "tables that differ")  # fmt: skip
    return f"Four workers, {name}", tried, _counts(part, *names)


def _mutations(part: dict[str, Any]) -> tuple[str, str, str]:
    right = f"{part['refused']} refused in one line, {part['equal']} with the usual result"
    tried = f"{part['n']:,} in {len(part['kinds'])} kinds of files: {right}, {part['another']} valid and different"
    found = (
        f"{part['traceback']} tracebacks, {part['unforeseen']} internal errors, {part['untidy']} refused in other than "
        f"one line, {part['wrong']} accepted with a wrong result, {part['hang']} over the time limit "
        f"({part['limit_seconds']:g} s)"
    )
    return "Mutated inputs", tried, found


def _crafted(part: dict[str, Any]) -> tuple[str, str, str]:
    return "Inputs made by hand: bombs, loops, sizes beyond reason", f"{part['n']}", f"{part['failed']} failed"


def _repeat(part: dict[str, Any]) -> tuple[str, str, str]:
    storm = "Fresh searches of one study, half of them on busy processors"
    return storm, f"{part['n']}", f"sets of files: {part['sets of files']}"


def _trust(part: dict[str, Any]) -> tuple[str, str, str]:
    found = f"{part['failed']} ran it without consent, or ended otherwise than in one line"
    return "Files that want to run code", f"{part['n']}", found


def markdown(parts: dict[str, Any]) -> str:
    """A row for each storm that is on record: what was tried, and what must all be 0."""
    rows: list[tuple[str, str, str]] = []
    if "kills" in parts:
        rows += [_kills(parts["kills"]), _users(parts["kills"])]
    rows += [_storage(name, parts[name]) for name in ("journal", "sqlite", "postgresql") if name in parts]
    for name, row in (("mutations", _mutations), ("crafted", _crafted), ("repeat", _repeat), ("trust", _trust)):
        if name in parts:
            rows.append(row(parts[name]))
    lines = [f"| {storm} | {tried} | {found} |" for storm, tried, found in rows]
    return "\n".join(("| storm | tried | found |", "|---|---|---|", *lines))
