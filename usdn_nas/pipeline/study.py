"""The search stage: opens the study, runs it with one worker or several, writes its tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from usdn_nas._util.errors import UserError
from usdn_nas._util.progress import Reporter, Task
from usdn_nas._util.redact import masked_url
from usdn_nas.documents import EngineDocument, write_document
from usdn_nas.engine.engine import Engine, EngineSettings, choose_settings
from usdn_nas.engine.settings import check_backend
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.ledger import Ledger
from usdn_nas.pipeline.processes import orphaned, supervise
from usdn_nas.space.cost import reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.points import completed
from usdn_nas.study.samplers import goal
from usdn_nas.study.search import run_search
from usdn_nas.study.sensitivity import write_sensitivity
from usdn_nas.study.session import Study, engine_of, open_study, read_study, stored_sampler
from usdn_nas.study.storage import open_storage
from usdn_nas.study.tables import write_tables

__all__ = ["check_search", "check_start", "read", "run_worker", "search"]


def _journal(context: Context) -> Path:
    return context.folder / "search" / "study.journal"


def _digests(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The study's fingerprint, of its stage's inputs."""
    return {key: value for key, value in inputs.items() if isinstance(value, str)}


def read(context: Context, *, patient: bool = False) -> Study:
    """The study that the run folder's search made. ``patient``: waits for a database as a search does.

    Raises:
        UserError: There is none, or another one has its place in the storage.
    """
    record = Ledger(context.folder, context.reporter).records.get("search")
    fingerprint = None if record is None else _digests(record["inputs"])
    settings = context.study.search
    return read_study(
        settings,
        storage_path=_journal(context),
        name=context.name,
        fingerprint=fingerprint,
        patience_s=settings.storage_patience_s if patient else 0,
        say=context.reporter.say,
    )


def check_search(context: Context) -> None:
    """Finds a storage that cannot be opened, or a back end that cannot be used, before hours of training.

    Raises:
        UserError: It cannot.
    """
    settings = context.study.search
    if settings.storage is not None:
        open_storage(settings.storage, _journal(context))
    if settings.backend != "auto":
        check_backend(settings.backend, context.device)


def check_start(context: Context) -> None:
    """Refuses to go on with the study that is there by another sampler.

    Raises:
        UserError: It was started with one.
    """
    settings = context.study.search
    stored = stored_sampler(settings, storage_path=_journal(context), name=context.name)
    if stored not in (None, settings.sampler):
        raise UserError(
            f"the study here was started with the sampler '{stored}', which '{settings.sampler}' cannot go on with",
            where=masked_url(settings.storage) if settings.storage else _journal(context),
            remedy="give another folder (--out), or another name (--set search.study_name=...)",
        )


def search(context: Context, inputs: dict[str, Any]) -> None:
    """Runs the study up to its number of configurations and writes its tables.

    Args:
        inputs: Of the stage; its digests are the study's fingerprint, so that a worker that differs is refused.
    """
    settings, space = context.study.search, context.space
    fingerprint = _digests(inputs)
    threads = _threads(context)
    study = _open(context, fingerprint, threads)
    wanted = goal(space, settings)
    done = completed(study)
    if done < wanted:
        chosen = _engine_settings(context, study)
        context.reporter.detail(f"search: runs the supernet with the {chosen}")
        enumerates = study.user_attrs["sampler"]["name"] == "brute"
        if enumerates:
            _announce(context)
        with context.reporter.task("search", wanted, done) as task:
            batch = settings.batch if enumerates else None
            progress = _Progress(context.reporter, task, space, settings.tr, done, wanted, batch)
            if settings.workers == 1:
                _work(context, study, progress, context.reporter.say)
            else:
                one = replace(context, study=context.study.model_copy(update={"threads": threads}), reporter=Reporter())
                progress.begin(study)
                supervise(
                    run_worker,
                    (one.name, one.study, one.spec, one.folder, fingerprint, context.reporter.console is not None),
                    workers=settings.workers,
                    threads=threads,
                    watch=lambda: progress.look(study),
                )
                progress.look(study)
    write_tables(study, space, context.folder / "search")
    engine, made_with = engine_of(study), context.provenance()
    if settings.exits != "sampled":
        path = context.folder / "search" / "sensitivity.json"
        write_sensitivity(study, space, path, made_with | {"engine": engine})
    content = {**engine, "provenance": made_with}
    write_document(context.folder / "search" / "engine.json", EngineDocument, content)


def run_worker(name: str, study: Any, spec: Any, folder: Path, fingerprint: dict[str, str], says: bool) -> None:
    """One of several workers, in a process of its own.

    Args:
        name, study, spec, folder: A `Context`'s.
        fingerprint: The study's.
        says: Whether it may write on stderr that it waits for another worker. That the database is away is said once,
            by the process that watches over the workers.
    """

    def say(text: str) -> None:
        if says:
            sys.stderr.write(text + "\n")

    context = Context(name, study, spec, folder, Reporter())
    _work(context, _open(context, fingerprint, _threads(context)), None, say)


def _open(context: Context, fingerprint: Mapping[str, str], threads: int) -> Study:
    settings = context.study.search
    return open_study(
        context.space,
        settings,
        seed=context.study.seed,
        storage_path=_journal(context),
        fingerprint=fingerprint,
        name=context.name,
        engine=asdict(choose_settings(context.supernet(), settings.backend, threads)),
        say=context.reporter.say,
    )


def _threads(context: Context) -> int:
    """Of a worker: the study's own number, else an equal share of the processors that this process may use."""
    workers = context.study.search.workers
    if context.study.threads is not None or workers == 1:
        return context.study.threads or torch.get_num_threads()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // workers)


def _work(context: Context, study: Study, progress: _Progress | None, say: Callable[[str], None]) -> None:
    """Runs trials in this process until the study has enough."""
    context.device  # noqa: B018  sets the number of threads
    settings = context.study.search
    engine = Engine(
        context.supernet(),
        context.search_batches,
        _engine_settings(context, study),
        memory_bytes=int(settings.memory_gb * 1e9),
    )
    if progress is not None:
        progress.begin(study)
    run_search(
        study,
        context.space,
        settings,
        engine.run,
        on_trial=None if progress is None else lambda t: progress.note(t.number, t.accuracy, t.bops),
        should_stop=orphaned,
        say=say,
    )


def _engine_settings(context: Context, study: Study) -> EngineSettings:
    """How this study's supernet is run: by every worker, and after an interruption, as it was when it was started.

    Raises:
        UserError: Another back end is asked for, or this machine lacks the study's.
    """
    stored, wanted = EngineSettings(**engine_of(study)), context.study.search.backend
    if wanted not in ("auto", stored.backend):
        raise UserError(
            f"the study was started with the {stored.backend} back end, here it is '{wanted}'",
            where="search.backend",
            remedy=f"take 'auto' or '{stored.backend}', or give this study another name (search.study_name)",
        )
    check_backend(stored.backend, context.device, stored=True)
    return stored


def _announce(context: Context) -> None:
    """Says what an enumeration is going to do."""
    space, prefixes = context.space, context.space.prefixes
    context.reporter.say(
        f"search: enumerates {goal(space, context.study.search):,} of {space.bit_configurations:,} bit configurations "
        f"in prefix order; all of them are {sum(prefixes):,} segment runs, "
        f"{len(prefixes) * space.bit_configurations:,} if none were shared"
    )


class _Progress:
    """What the bar shows: how many trials are complete, and the best that this session has seen.

    Args:
        tr: Weighs relative BOPs against accuracy, for what is best.
        done: Complete when the session began; ``wanted`` at its end.
        batch: After so many trials it says how long the rest will take; None: never.
    """

    def __init__(
        self, reporter: Reporter, task: Task, space: SearchSpace, tr: float, done: int, wanted: int, batch: int | None
    ) -> None:
        self.reporter, self.task, self.tr, self.reference = reporter, task, tr, reference_bops(space)
        self.done, self.left, self.batch = 0, wanted - done, batch
        self.seen: set[int] = set()
        self.start = datetime.now()
        self.found: tuple[float, str] | None = None

    def begin(self, study: Study) -> None:
        """The trials begin now; those that are complete already are not this session's."""
        self.start = datetime.now()
        self.seen = {trial.number for trial in study.get_trials(deepcopy=False) if trial.values is not None}

    def look(self, study: Study) -> None:
        """Notes the trials that others completed since."""
        for trial in study.get_trials(deepcopy=False):
            if trial.values is None or trial.number in self.seen or "front" not in trial.user_attrs:
                continue
            if not self.done and trial.datetime_start is not None:
                self.start = trial.datetime_start  # not when the workers' processes were started
            self.seen.add(trial.number)
            self.note(trial.number, trial.user_attrs["accuracy"], trial.user_attrs["bops"])

    def note(self, number: int, accuracy: float, bops: float) -> None:
        """Notes a trial that has just been completed."""
        value, share = accuracy - self.tr * bops / self.reference, bops / self.reference
        if self.found is None or value > self.found[0]:
            self.found = (value, f"best {accuracy:.3f} at {share:.2f} of the reference (trial {number})")
        self.reporter.detail(f"trial {number}: {accuracy:.4f} at {share:.3f} of the reference")
        self.task.advance(self.found[1])
        self.done += 1
        self.left -= 1
        if self.done == self.batch and self.left > 0:
            taken = (datetime.now() - self.start).total_seconds()
            self.reporter.say(
                f"search: {self.done:,} configurations took {_duration(taken)}, "
                f"the other {self.left:,} will take about {_duration(taken / self.done * self.left)}"
            )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
