"""The search stage: opens the study, runs it with one or several workers, and writes its tables."""

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
    """Returns the study's fingerprint: the digests among the inputs of its stage."""
    return {key: value for key, value in inputs.items() if isinstance(value, str)}


def read(context: Context, *, patient: bool = False) -> Study:
    """Returns the study that the run folder's search made.

    With ``patient``, it waits for a database that is unreachable, for as long as a search does.

    Raises:
        UserError: There is no study, or the storage holds another study under its name.
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
    """Checks the storage and the back end before hours of training.

    Raises:
        UserError: The storage cannot be opened, or the back end cannot be used.
    """
    settings = context.study.search
    if settings.storage is not None:
        open_storage(settings.storage, _journal(context))
    if settings.backend != "auto":
        check_backend(settings.backend, context.device)


def check_start(context: Context) -> None:
    """Refuses to continue an existing study with another sampler.

    Raises:
        UserError: The study was started with another sampler.
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
        context: The context of the run.
        inputs: Inputs of the stage. The digests among them form the study's fingerprint, by which workers with other
            inputs are refused.
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
    """Runs trials in one of several worker processes.

    Args:
        name, study, spec, folder: Attributes of the `Context`.
        fingerprint: Fingerprint of the Optuna study.
        says: True if the worker may write to stderr that it waits for another worker. If the database is unreachable,
            only the supervising process says so.
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
    """Returns the number of threads of a worker: the study's ``threads``, or an equal share of the available CPUs.

    A single worker uses torch's number of threads.
    """
    workers = context.study.search.workers
    if context.study.threads is not None or workers == 1:
        return context.study.threads or torch.get_num_threads()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // workers)


def _work(context: Context, study: Study, progress: _Progress | None, say: Callable[[str], None]) -> None:
    """Runs trials in this process until the study has enough complete trials."""
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
    """Returns how this study runs its supernet.

    The settings are those with which the study was started, so that all workers agree, even after an interruption.

    Raises:
        UserError: The user asks for another back end, or this machine does not have the study's back end.
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
    """Reports how much work an enumeration is going to do."""
    space, prefixes = context.space, context.space.prefixes
    context.reporter.say(
        f"search: enumerates {goal(space, context.study.search):,} of {space.bit_configurations:,} bit configurations "
        f"in prefix order; all of them are {sum(prefixes):,} segment runs, "
        f"{len(prefixes) * space.bit_configurations:,} if none were shared"
    )


class _Progress:
    """Updates the progress bar: the number of complete trials and the best trial of this session.

    Args:
        reporter: Receives messages.
        task: The progress bar.
        space: The search space.
        tr: The best trial has the highest accuracy - ``tr`` x relative bit operations (BOPs).
        done: Number of complete trials at the beginning of the session.
        wanted: Number of complete trials at its end.
        batch: After this number of trials, it says how long the rest will take; None: never.
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
        """Marks the beginning of the session. Trials that are already complete do not count for it."""
        self.start = datetime.now()
        self.seen = {trial.number for trial in study.get_trials(deepcopy=False) if trial.values is not None}

    def look(self, study: Study) -> None:
        """Notes the trials that workers have completed since the last call."""
        for trial in study.get_trials(deepcopy=False):
            if trial.values is None or trial.number in self.seen or "front" not in trial.user_attrs:
                continue
            if not self.done and trial.datetime_start is not None:
                self.start = trial.datetime_start  # later than the start of the workers' processes
            self.seen.add(trial.number)
            self.note(trial.number, trial.user_attrs["accuracy"], trial.user_attrs["bops"])

    def note(self, number: int, accuracy: float, bops: float) -> None:
        """Notes a trial that has just been completed, and updates the progress bar."""
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
