"""The context that the stages of a run share: settings, search space, data, device and networks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.files import digest
from usdn_nas._util.progress import Reporter
from usdn_nas._util.provenance import provenance
from usdn_nas._util.seeds import derive
from usdn_nas._util.trust import check_network
from usdn_nas._util.units import cost
from usdn_nas._util.validation import validate
from usdn_nas.config import (
    StudyConfig,
    TrainConfig,
    apply_overrides,
    check_code_of_data,
    find_toml,
    load_study,
    run_folder,
)
from usdn_nas.documents import ChainDocument, StudyDocument, read_document, write_document
from usdn_nas.engine.outputs import Batches
from usdn_nas.networks.build import build_network, chain_record
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.weights import load_weights
from usdn_nas.pipeline.heap import keep_freed_memory
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.cost import least_bops
from usdn_nas.space.search_space import SearchSpace, SpaceSpec, load_space
from usdn_nas.training.curves import check_tensorboard
from usdn_nas.training.distributed import processes
from usdn_nas.training.shares import Plan, micro_batches

if TYPE_CHECKING:
    from usdn_nas.data import DataSplits

__all__ = ["Context", "open_run", "resolve_device"]

M = TypeVar("M", bound=nn.Module)


def resolve_device(name: str) -> torch.device:
    """Returns the device that ``name`` stands for.

    ``"auto"`` is CUDA if it is available, otherwise the CPU. Under ``torchrun``, ``"cuda"`` is the device of this rank.

    Raises:
        UserError: torch knows no such device, or the machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # not every device that torch knows can hold data
    except (RuntimeError, AssertionError, NotImplementedError):
        what = f"no device {shown(name)} here that holds data"
        raise UserError(what, where="device", remedy="take 'auto', 'cpu' or 'cuda'") from None
    return device


@dataclass
class Context:
    """A study with its search space, its run folder and the reporter of its progress."""

    name: str
    study: StudyConfig
    spec: SpaceSpec
    folder: Path
    reporter: Reporter

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends another process the settings only.

        Loaded data stays in this process, and the other process shows no progress.
        """
        study = self.study.model_dump_json(context={"secrets": True})  # the other process opens the same storage
        return _sent, (self.name, study, self.spec.model_dump_json(), self.folder)

    @cached_property
    def device(self) -> torch.device:
        """The device. The first access also sets the number of threads, the heap, and the current CUDA device."""
        keep_freed_memory()
        if self.study.threads is not None:
            torch.set_num_threads(self.study.threads)
        device = resolve_device(self.study.device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    def fresh_network(self) -> MultiExitNetwork:
        """Returns the full-precision network with all candidate exits and initial weights, on the device."""
        return self.to_device(self._build(self.spec))

    def starting_network(self) -> MultiExitNetwork:
        """Returns the network from which pre-training starts.

        It is that of `fresh_network`, with the weights of ``supernet.weights`` if the study names a file there.

        Raises:
            UserError: The file cannot be read, or belongs to another network.
        """
        return self.to_device(self._build(self._with_weights()))

    def _build(self, spec: SpaceSpec) -> MultiExitNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.study.seed, "initial weights"))
            return build_network(spec)

    def _with_weights(self) -> SpaceSpec:
        weights = self.study.supernet.weights
        if weights is None:
            return self.spec
        return self.spec.model_copy(update={"network": self.spec.network.model_copy(update={"weights": weights})})

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, resolved with the layers of its network."""
        return SearchSpace(self.spec, chain_record(build_network(self.spec), self.spec.network))

    def check(self) -> None:
        """Checks device, batches, TensorBoard, budget and data before anything is written.

        Raises:
            UserError: One of them cannot be used; the error names the first.
        """
        self.device  # noqa: B018
        self._check_training()
        self._check_budget()
        self._check_steps()

    def _trainings(self) -> dict[str, TrainConfig]:
        supernet, retrain = self.study.supernet, self.study.retrain
        return {
            "supernet.pretrain": supernet.pretrain,
            "supernet.qat": supernet.qat,
            "retrain.teacher": retrain.teacher,
            "retrain.train": retrain.train,
        }

    def _check_training(self) -> None:
        for where, settings in self._trainings().items():
            micro_batches(settings, where)
        if self.study.tensorboard:
            check_tensorboard()

    def _check_steps(self) -> None:
        """Refuses trainings that have too few images for a step.

        Raises:
            UserError: The data cannot be used; or there are fewer training images than micro-batches; or a micro-batch
                has one image, but a BatchNorm of the network needs more.
        """
        for where, settings in self._trainings().items():
            if not settings.epochs:
                continue
            plan = Plan.of(self.data.train, settings, where)
            if plan.size == 1 and not self._learns_from_one_image():
                raise UserError(
                    "training would run one image at a time, and this network's BatchNorm needs at least two values a "
                    "channel",
                    where=where,
                    remedy="raise batch_size, lower accumulate, or train on more images",
                )

    def _learns_from_one_image(self) -> bool:
        """Returns True if the network can be trained on a single image.

        It runs one image in training mode, because BatchNorm raises an error for feature maps with a single value.
        """
        network = self._build(self.spec).train()
        try:
            with torch.no_grad():
                network(torch.zeros(1, *self.spec.network.input_shape))
        except ValueError:
            return False
        return True

    def _check_budget(self) -> None:
        """Refuses a budget that no policy in the search space can meet, before anything is trained.

        Raises:
            UserError: ``search.gbops`` or ``export.budget`` is below the cost of the cheapest policy.
        """
        least = least_bops(self.space)
        search, export = self.study.search, self.study.export
        budgets = {"search.gbops": search.gbops if search.mode == "budget" else None, "export.budget": export.budget}
        for where, gbops in budgets.items():
            if gbops is not None and gbops * 1e9 < least:
                raise UserError(
                    f"no configuration has at most {cost(gbops * 1e9, 6)} on average",
                    where=where,
                    remedy=f"the least that this search space allows is {cost(least, 6)} ({least / 1e9:.6g} GBOPs)",
                )

    @cached_property
    def data(self) -> DataSplits:
        """The splits of the data set.

        Raises:
            UserError: The data set is missing, or does not fit the network.
        """
        from usdn_nas.data import load_data

        network = self.spec.network
        splits = load_data(self.study.data, seed=self.study.seed, input_shape=network.input_shape, trust_code=True)
        if splits.num_classes != network.num_classes:
            raise UserError(
                f"data set '{self.study.data.name}' has {splits.num_classes} classes, "
                f"the network {network.num_classes}",
                where="network.num_classes",
            )
        return splits

    @cached_property
    def search_batches(self) -> Batches:
        """Batches of the search split."""
        return Batches(self.data.search, self.study.batch_size, self.device)

    @cached_property
    def test_batches(self) -> Batches:
        """Batches of the test split, which only the final evaluation reads."""
        return Batches(self.data.test, self.study.batch_size, self.device)

    def pretrained(self) -> MultiExitNetwork:
        """Returns the network with its pre-trained, full-precision weights."""
        network = self.fresh_network()
        load_weights(network, self.folder / "pretrain" / "weights.safetensors")
        return network

    def supernet(self) -> Supernet:
        """Returns the trained supernet."""
        supernet = self.to_device(Supernet(self.fresh_network(), self.space))
        load_weights(supernet, self.folder / "supernet" / "weights.safetensors")
        return supernet

    def to_device(self, network: M) -> M:
        """Moves ``network`` to the device, in the memory layout that is fastest for convolutions, and returns it."""
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def provenance(self) -> dict[str, Any]:
        """Returns versions, commit, seed, device, threads and processes."""
        device = str(self.device)
        return provenance(seed=self.study.seed, device=device, threads=torch.get_num_threads(), processes=processes())

    def data_summary(self) -> dict[str, Any]:
        """Returns the facts about the data that a finished network needs: name, classes, normalization of pixels."""
        data = self.data
        return {
            "name": self.study.data.name,
            "mean": list(data.mean),
            "std": list(data.std),
            "class_names": list(data.class_names),
        }

    def describe(self) -> None:
        """Writes ``study.json`` and ``chain.json``, which `open_run` and the report read."""
        study = {
            "name": self.name,
            "config": self.study.model_dump(mode="json"),
            "space": self.spec.model_dump(mode="json"),
            "provenance": self.provenance(),
        }
        chain = {"chain": self.space.chain.to_dict()}
        for name, model, content in (("study.json", StudyDocument, study), ("chain.json", ChainDocument, chain)):
            if not _says(self.folder / name, model, content):
                write_document(self.folder / name, model, content)


@lru_cache(maxsize=1)  # a process that gets the same settings again keeps the data that it has loaded
def _sent(name: str, study: str, spec: str, folder: Path) -> Context:
    return Context(
        name, StudyConfig.model_validate_json(study), SpaceSpec.model_validate_json(spec), folder, Reporter()
    )


def _says(path: Path, model: type[StudyDocument | ChainDocument], content: dict[str, Any]) -> bool:
    """Returns True if a file already holds this content. Provenance is not compared. Such a file is not rewritten."""
    try:
        _, there = read_document(path, model)
    except UserError:
        return False
    new = digest({"schema": model.schema_name, **content, "provenance": None})
    return digest({**there, "provenance": None}) == new


def open_run(
    study: Path,
    overrides: tuple[str, ...] = (),
    out: Path | None = None,
    reporter: Reporter | None = None,
    *,
    trust_code: bool = False,
) -> Context:
    """Returns the context of a study file, or of a run folder, which holds the study that it was made from.

    Args:
        study: A TOML file or a run folder.
        overrides: Settings ``"a.b=c"`` that replace those of the study.
        out: The run folder. Default: ``study`` if it is a run folder, otherwise ``runs/<name of the study>``.
        reporter: Shows progress; None: no progress is shown.
        trust_code: Accept a network or data set given as user code (``package.module:function``). The context runs that
            code when it builds them.

    Raises:
        ConsentError: A file names user code, and ``trust_code`` is False.
        UserError: The file or folder is missing or invalid.
    """
    reporter = reporter or Reporter()
    if study.is_dir():
        saved, _ = read_document(study / "study.json", StudyDocument)
        space = saved.config.get("space")
        apply_overrides(saved.config, overrides)
        config = validate(StudyConfig, saved.config, where=study / "study.json")
        spec = validate(SpaceSpec, saved.space, where=study / "study.json")
        check_code_of_data(config, overrides, f"{study / 'study.json'}: config", trust_code)
        if config.space != space:
            spec = load_space(find_toml(config.space, "search_spaces"), trust_code=trust_code)
        else:
            where = f"{study / 'study.json'}: space.network.name"
            check_network(spec.network.name, where=where, trust_code=trust_code)
        return Context(saved.name, config, spec, run_folder(study, out), reporter)
    config, spec = load_study(study, overrides, trust_code=trust_code)
    return Context(study.stem, config, spec, run_folder(study, out), reporter)
