"""Models of the study file, and the functions that find it, read it and apply ``--set a.b=c`` to it.

The models check types and refuse unknown keys. BOPs are bit operations: multiply-accumulates x W bits x A bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from usdn_nas._util.errors import UserError, nearest, shown
from usdn_nas._util.files import read_toml
from usdn_nas._util.parsing import NotTomlError, check_path, parse_toml
from usdn_nas._util.redact import masked_url
from usdn_nas._util.trust import check_data
from usdn_nas._util.validation import Name, Pair, Text, validate
from usdn_nas.space.architecture import Rule
from usdn_nas.space.search_space import SpaceSpec, load_space

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "RetrainConfig",
    "SearchConfig",
    "StudyConfig",
    "SupernetConfig",
    "TrainConfig",
    "apply_overrides",
    "check_code_of_data",
    "find_toml",
    "is_space",
    "list_toml",
    "load_study",
    "run_folder",
]


_IMAGES, _EPOCHS, _BATCH, _PROCESSES, _CURVE = 10**9, 100_000, 10**6, 1024, 10_000
"""Upper bounds of settings. They are far above any sensible value, and low enough to catch a typing error at once.

They bound, in this order: the number of images, of epochs, of images in a batch, of processes or threads, and of
points of a curve.
"""

_TRADE_OFF, _GBOPS = 1e6, 1e9
"""Upper bounds of a weight of relative BOPs, and of a budget in GBOPs."""

_LEVELS = 16
"""Largest number of parts of a dotted key on the command line. The settings have three at most."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that were added later. They are written only if they differ from their defaults, so that stages which
    an earlier version finished still count as finished."""

    @model_validator(mode="before")
    @classmethod
    def _rest_of_a_table(cls, given: Any) -> Any:
        """Fills the keys that a table leaves out from the default of that table in this model."""
        if not isinstance(given, dict):
            return given
        defaults = {
            name: field.default.model_dump(exclude_unset=True)
            for name, field in cls.model_fields.items()
            if isinstance(field.default, BaseModel) and isinstance(given.get(name), dict)
        }
        return given | {name: default | given[name] for name, default in defaults.items()}

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {k: v for k, v in written.items() if k not in self.later or getattr(self, k) != fields[k].default}


class DataConfig(_Strict):
    """Names the data set, says where it lies, and how it is split.

    ``search`` is the number of training images that are set aside for the search (stratified, seeded). ``test`` is the
    number that is set aside for the test if the data set has no test split of its own. ``train_limit`` keeps only that
    many training images (stratified). It is meant for trial runs, and may leave classes without an image.
    """

    name: Text = "digits"
    root: Text | None = None
    search: int | None = Field(default=None, ge=1, le=_IMAGES)
    test: int | None = Field(default=None, ge=1, le=_IMAGES)
    train_limit: int | None = Field(default=None, ge=1, le=_IMAGES)
    augment: bool = True
    workers: int = Field(default=0, ge=0, le=_PROCESSES)


class TrainConfig(_Strict):
    """One training by stochastic gradient descent (SGD) with momentum, after a linear warm-up.

    The momentum is Nesterov's unless ``nesterov`` is false. ``schedule``: ``cosine`` lowers the learning rate from
    ``lr`` to 0 over all steps; ``step`` multiplies it by ``decay`` at the start of each epoch in ``milestones``,
    counted from 0. ``step_lr`` is the learning rate of the quantizers' step sizes, as a share of ``lr``. ``clip_norm``
    is the largest norm that the gradient of a step may have. ``max_steps`` ends the training after that many steps,
    even if ``epochs`` would make more. With 0 ``epochs`` the network is not trained and stays unchanged.
    ``batch_size`` is the number of images in a step, over all processes together. ``accumulate`` is the number of
    micro-batches that the images of a step are divided into. They run one after the other, or in as many processes.
    BatchNorm computes its statistics on one micro-batch at a time.
    """

    later = frozenset({"accumulate", "schedule", "milestones", "decay", "nesterov"})

    epochs: int = Field(ge=0, le=_EPOCHS)
    batch_size: int = Field(default=64, ge=1, le=_BATCH)
    accumulate: int = Field(default=1, ge=1, le=_BATCH)
    lr: float = Field(default=0.1, gt=0, le=100)
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: Annotated[tuple[PositiveInt, ...], Pair] = ()
    decay: float = Field(default=0.1, gt=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0, le=100)
    warmup_epochs: float = Field(default=0, ge=0, le=_EPOCHS)
    step_lr: float = Field(default=0.1, ge=0, le=100)
    clip_norm: float | None = Field(default=None, gt=0, le=1e6)
    max_steps: int | None = Field(default=None, ge=1, le=10**9)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"expected 'batch_size' to be a multiple of 'accumulate', got {self.batch_size} and {self.accumulate}"
            )
        return self

    @model_validator(mode="after")
    def _milestones_of_a_step_schedule(self) -> Self:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("schedule 'step' needs 'milestones', and they need it")
        if list(self.milestones) != sorted(set(self.milestones)) or any(m >= self.epochs for m in self.milestones):
            raise ValueError(f"expected rising 'milestones' below the {self.epochs} epochs")
        if self.decay != 0.1 and self.schedule != "step":
            raise ValueError("'decay' is for schedule 'step'")
        return self


class SupernetConfig(_Strict):
    """Full-precision pre-training, then quantization-aware training by the sandwich rule.

    ``weights`` is a file of pretrained weights from which pre-training starts. The file is the same as for
    ``network.weights`` of a search space (for an MSDNet: a checkpoint of kalviny/MSDNet-PyTorch). It is not needed any
    more once pre-training is done.
    ``random_paths`` is the number of random configurations that each step trains beside the largest one. ``smallest``
    adds the smallest one. ``paths`` says how they are drawn: ``uniform`` draws the bits of every group independently;
    ``stratified`` draws one level for each path, from equal parts of the range in turn, and all groups of the path
    follow it. Cheap and expensive configurations are then trained as often as those in between.
    ``teacher`` says whose soft labels the configurations learn from, beside the true labels. ``pretrained`` is the
    network at full precision. ``largest`` is the largest configuration of the same step, which then learns from true
    labels alone. If a space has no choices, its only configuration learns from true labels alone.
    ``exit_weight`` is the weight of an internal classifier's loss; the final exit has weight 1. ``exit_loss = "sdn"``
    multiplies it by the ramp of SDN (Shallow-Deep Networks): min(m, 0.01 + epoch m / epochs), where epochs count from
    1 and the maxima m of the K internal classifiers are evenly spaced from 0.15 to 0.9.
    ``calibration_images`` is the number of training images that the quantizers' first step sizes are computed from.
    ``refresh_images`` is the approximate number of training images over which the BatchNorm statistics are computed
    anew at the end. With 0, and in a space with one configuration, the statistics of the last steps are kept.
    """

    later = frozenset({"exit_loss", "weights"})

    weights: Text | None = None
    pretrain: TrainConfig = TrainConfig(epochs=20)
    qat: TrainConfig = TrainConfig(epochs=20, lr=0.02)
    random_paths: int = Field(default=3, ge=0, le=1000)
    smallest: bool = False
    paths: Literal["uniform", "stratified"] = "stratified"
    teacher: Literal["largest", "pretrained"] = "pretrained"
    exit_weight: float = Field(default=1.0, ge=0, le=1000)
    exit_loss: Literal["constant", "sdn"] = "constant"
    calibration_images: int = Field(default=512, ge=1, le=_IMAGES)
    refresh_images: int = Field(default=8192, ge=0, le=_IMAGES)


class SearchConfig(_Strict):
    """Says what the search optimizes, and how it proposes and runs configurations.

    ``mode``: ``scalar`` maximizes accuracy - ``tr`` x average BOPs / reference BOPs, where BOPs are bit operations.
    ``pareto`` maximizes accuracy and minimizes average BOPs. ``budget`` maximizes accuracy with average BOPs of at most
    ``gbops`` x 1e9.
    ``exits``: ``exact`` scores every set of candidate exits for each configuration. ``all`` scores only the set of all
    candidates, which suits a network that has exits of its own. ``sampled`` makes the exits and one threshold
    parameters of the trial. ``thresholds`` is the number of shared thresholds that are scored for each configuration,
    unless ``exits`` is ``sampled``.
    ``rule`` says which exit answers a sample that no placed exit is confident of: the final one (``threshold``), or the
    most confident one (``most-confident``, as in SDN).
    ``batch`` is the number of configurations that are proposed, run and recorded together. ``backend`` says what
    arithmetic runs the supernet. ``memory_gb`` is the memory that the evaluation engine may use for activations and
    outputs. ``workers`` is the number of processes on this machine that share the study.
    ``storage`` says where the study is kept: the URL of a database, the path of a journal file, or ``env:NAME`` for an
    environment variable that holds one of them. Without it the study is a file in the run folder. A password in the
    URL is never written to a file; ``***`` stands in its place. ``storage_patience_s`` is the time in seconds for which
    a search tries to reach its database again after the connection is lost.
    """

    later = frozenset({"rule"})

    mode: Literal["scalar", "pareto", "budget"] = "pareto"
    tr: float = Field(default=0.1, ge=0, le=_TRADE_OFF)
    gbops: float | None = Field(default=None, gt=0, le=_GBOPS)
    exits: Literal["exact", "all", "sampled"] = "exact"
    rule: Rule = "threshold"
    sampler: Literal["auto", "surrogate", "tpe", "nsga2", "nsga3", "gp", "random", "brute"] = "auto"
    configurations: int = Field(default=128, ge=1, le=10**7)
    batch: int = Field(default=16, ge=1, le=10_000)
    thresholds: int = Field(default=64, ge=1, le=_CURVE)
    backend: Literal["auto", "float", "integer"] = "auto"
    memory_gb: float = Field(default=2.0, gt=0, le=100_000)
    workers: int = Field(default=1, ge=1, le=_PROCESSES)
    storage: Text | None = Field(default=None, repr=False)
    storage_patience_s: float = Field(default=60, ge=0, le=1e6)
    study_name: Name | None = None

    @field_serializer("storage")
    def _without_password(self, storage: str | None, info: FieldSerializationInfo) -> str | None:
        """Masks the password in everything that is written or shown. Only the process of a worker gets the secret."""
        return storage if storage is None or (info.context or {}).get("secrets") else masked_url(storage)

    @model_validator(mode="after")
    def _budget_given(self) -> SearchConfig:
        if self.mode == "budget" and self.gbops is None:
            raise ValueError("mode 'budget' needs 'gbops'")
        return self


class ExportConfig(_Strict):
    """Says which point of the front ``usdn-nas run`` exports.

    Give at most one of ``tr``, ``budget`` (in GBOPs, 1e9 bit operations) and ``trial``. Without any of them the best
    point by the study's own objective is exported.
    ``score`` says which accuracy points are compared by: the ``measured`` one, or one that is ``smoothed`` over all
    trials that share choices. The smoothed accuracy ranks configurations more like retraining does
    (docs/supernet.md). It needs exits that are not sampled.
    """

    later = frozenset({"score"})

    tr: float | None = Field(default=None, ge=0, le=_TRADE_OFF)
    budget: float | None = Field(default=None, gt=0, le=_GBOPS)
    trial: Name | None = None
    score: Literal["measured", "smoothed"] = "measured"

    @field_validator("trial", mode="before")
    @classmethod
    def _quoted(cls, value: object) -> object:
        if isinstance(value, int | float):  # 12.10 as a number would be 12.1
            raise ValueError('expected a trial\'s name in quotes ("12.3"), a number came')
        return value

    @model_validator(mode="after")
    def _one(self) -> ExportConfig:
        if sum(v is not None for v in (self.tr, self.budget, self.trial)) > 1:
            raise ValueError("give one of 'tr', 'budget' and 'trial'")
        if self.trial is not None and self.score != "measured":
            raise ValueError("'trial' names a point; 'score' is for choosing one")
        return self


class RetrainConfig(_Strict):
    """Retraining of the chosen network by level-wise knowledge distillation, Eq. (10).

    The loss is the sum over exits i of
    w_i [(1 - alpha) CE(z_i, y) + alpha T^2 KL(softmax(t_i / T) || softmax(z_i / T))],
    with the logits z_i of the network and t_i of the teacher, the labels y and the temperature T.
    ``alpha_weighs = "ce"`` swaps the two factors. ``teacher_exit = "final"`` takes every t_i from the teacher's final
    exit. ``exit_weight`` and ``exit_loss`` mean the same as for the supernet. ``compare_ce`` retrains a second time
    with cross-entropy alone, for comparison (Table II).
    """

    later = frozenset({"exit_loss"})

    init: Literal["teacher", "supernet", "scratch"] = "teacher"
    train: TrainConfig = TrainConfig(epochs=20, lr=0.05, weight_decay=5e-4)
    teacher: TrainConfig = TrainConfig(epochs=20)
    teacher_init: Literal["pretrained", "scratch"] = "pretrained"
    temperature: float = Field(default=2.0, ge=0.01, le=1000)
    alpha: float = Field(default=0.3, ge=0, le=1)
    alpha_weighs: Literal["kd", "ce"] = "kd"
    teacher_exit: Literal["same", "final"] = "same"
    exit_weight: float = Field(default=1.0, ge=0, le=1000)
    exit_loss: Literal["constant", "sdn"] = "constant"
    compare_ce: bool = True


class EvaluateConfig(_Strict):
    """Final evaluation on the test split.

    ``bins`` is the number of equal-width bins for the expected and the maximum calibration error (ECE, MCE).
    ``threshold`` is the threshold that all exits share in Table I. ``sweep`` is the number of shared thresholds that
    are tried, evenly spaced over [0.1, 1]. ``fits`` is the number of trade-offs for which every exit gets a threshold
    of its own; they are evenly spaced in the logarithm over [0.001, 1].
    """

    bins: int = Field(default=15, ge=2, le=_CURVE)
    threshold: float = Field(default=0.7, ge=0, le=1)
    sweep: int = Field(default=33, ge=2, le=_CURVE)
    fits: int = Field(default=13, ge=2, le=_CURVE)


class StudyConfig(_Strict):
    """A study as written in TOML. A study with ``base = "NAME"`` holds only the settings that differ from that study.

    ``space`` is the name or the path of a search space. It is looked up beside the study file, then in
    ./search_spaces, then among the spaces that come with the package. ``threads`` is the number of threads; without
    it, torch chooses. ``tensorboard`` writes the curves of every training as event files into the folder of that
    training. ``batch_size`` is the number of images that run at once when nothing is trained.
    """

    space: Text
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    device: Name = "auto"
    threads: int | None = Field(default=None, ge=1, le=_PROCESSES)
    tensorboard: bool = False
    batch_size: int = Field(default=500, ge=1, le=_BATCH)
    data: DataConfig = DataConfig()
    supernet: SupernetConfig = SupernetConfig()
    search: SearchConfig = SearchConfig()
    export: ExportConfig = ExportConfig()
    retrain: RetrainConfig = RetrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _comparable(self) -> StudyConfig:
        if self.export.score == "smoothed" and self.search.exits == "sampled":
            raise ValueError("export.score = 'smoothed' needs trials that differ in bits alone: search.exits = 'exact'")
        return self


def _shipped(folder: str) -> Path:
    try:
        return Path(str(resources.files(f"usdn_nas.{folder}")))
    except ModuleNotFoundError:  # not installed: in a source checkout the folders are at the top level
        return Path(__file__).parents[1] / folder


def list_toml(folder: Literal["studies", "search_spaces"]) -> dict[str, Path]:
    """Returns name -> file for the studies or spaces that come with the package and those in the working directory.

    If a name occurs in both places, the file in the working directory's ``folder`` is taken.
    """
    found: dict[str, Path] = {}
    for place in (_shipped(folder), Path.cwd() / folder):
        found |= {path.stem: path for path in sorted(place.glob("*.toml")) if path.stem.isprintable()}
    return found


def find_toml(name: str, folder: Literal["studies", "search_spaces"], beside: Path | None = None) -> Path:
    """Finds a study or space by name or path.

    If ``name`` is the path of an existing TOML file, that file is taken. A relative path starts at ``beside``, then at
    the working directory. A name is looked up in ``beside``, then in the working directory's ``folder``, then in the
    package. A study that lies in ``beside`` is not taken for a search space.

    Args:
        name: Name or path.
        folder: Whether a study or a search space is wanted.
        beside: Folder of the study file that gives the name; None if no file gives it.

    Raises:
        UserError: Nothing is found.
    """
    check_path(name)
    places = [Path.cwd() / name] if beside is None else [beside / name, beside / f"{name}.toml", Path.cwd() / name]
    for path in places:
        if path.suffix == ".toml" and path.is_file() and not (folder == "search_spaces" and _is_study(path)):
            return path
    known = list_toml(folder)
    stem = Path(name).stem if Path(name).parent in (Path(), Path(folder)) else name
    if stem in known:
        return known[stem]
    kind = "study" if folder == "studies" else "search space"
    raise UserError(f"no such {kind}: {shown(name)}", remedy=nearest(name, known))


def is_space(path: Path) -> bool:
    """Whether a TOML file holds a search space instead of a study. False if the file cannot be read."""
    return "network" in _keys(path) and not _is_study(path)


def _is_study(path: Path) -> bool:
    return not {"space", "base"}.isdisjoint(_keys(path))


def _keys(path: Path) -> set[str]:
    """The keys of a TOML file, or none if it cannot be read. Whoever reads the file later says why."""
    try:
        return set(read_toml(path))
    except UserError:
        return set()


def run_folder(study: Path, out: Path | None = None) -> Path:
    """Returns the folder of a study's run: ``out`` if given, else ``runs/<name of the study's file>``.

    If ``study`` is itself the folder of a run, that folder is returned.
    """
    if out is not None:
        check_path(out, "--out")
    return out or (study if study.is_dir() else Path("runs") / study.stem)


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not key.strip() or len(path) > _LEVELS:
        raise UserError(f"expected key=value, got {shown(text)}", where="--set")
    try:
        found = parse_toml(f"value = {value}", where=f"--set {key.strip()}")
    except NotTomlError:
        return path, value.strip()
    # A value of several lines may contain further keys. It is then taken as a string.
    return path, found["value"] if len(found) == 1 else value.strip()


def apply_overrides(payload: dict[str, Any], overrides: Sequence[str]) -> None:
    """Applies overrides of the form ``"a.b=c"`` to ``payload`` in place. c is read as TOML, or else as a string.

    Raises:
        UserError: An override has no ``=``, or a part of its path is a value instead of a table.
    """
    for text in overrides:
        path, value = _parse_override(text)
        node = payload
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{shown(part)} is a value, not a table", where=f"--set {text}")
        node[path[-1]] = value


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Returns the content of a study, with missing settings taken from its ``base``.

    ``above`` lists the studies that have this one as their base; a study among them twice would be its own base.
    """
    if path in above:
        raise UserError(f"a study is its own base: {' > '.join(one.stem for one in (*above, path))}", where=path)
    payload = read_toml(path)
    if "base" not in payload:
        return payload
    base = payload.pop("base")
    if not isinstance(base, str):
        raise UserError(f"expected a study's name or path, got {shown(base)}", where=f"{path}: base")
    return _laid_over(_with_base(find_toml(base, "studies", beside=path.parent), (*above, path)), payload)


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns ``under`` with the values of ``over`` put in. Tables are merged; any other value, also a list, replaces
    the value in ``under``.
    """
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _laid_over(under[key], value) if both else value
    return merged


def load_study(path: Path, overrides: Sequence[str] = (), *, trust_code: bool = False) -> tuple[StudyConfig, SpaceSpec]:
    """Reads a study and the search space that it names.

    A study may begin with ``base = "NAME"``. It then takes all settings that it does not give itself from that study.

    Args:
        path: The study's TOML file.
        overrides: Settings of the form ``"a.b=c"``. The value is read as TOML, or else as a string.
        trust_code: Accept a network or data set that is the user's code (``package.module:function``). A data set that
            an override names needs no such consent.

    Raises:
        ConsentError: A file names the user's code, and ``trust_code`` is False.
        UserError: A file is missing or wrong. The message names the file and the dotted path.
    """
    payload = _with_base(path)
    apply_overrides(payload, overrides)
    study = validate(StudyConfig, payload, where=path)
    check_code_of_data(study, overrides, _who_names_data(path), trust_code)
    beside = Path(path).parent
    return study, load_space(find_toml(study.space, "search_spaces", beside=beside), trust_code=trust_code)


def check_code_of_data(study: StudyConfig, overrides: Sequence[str], where: object, trust_code: bool) -> None:
    """Refuses data from a function that a file names, if nobody consented to run that function.

    Args:
        study: The settings, with ``overrides`` applied.
        overrides: Settings of the form ``"a.b=c"``. Naming a data set here is consent to that data set.
        where: The file, for the message.
        trust_code: Consent to any data set.

    Raises:
        ConsentError: The data set is the user's code, and there is no consent.
    """
    typed: dict[str, Any] = {}
    apply_overrides(typed, overrides)
    data = typed.get("data")
    consented = trust_code or (isinstance(data, dict) and data.get("name") == study.data.name)
    check_data(study.data.name, where=f"{where}: data.name", trust_code=consented)


def _who_names_data(path: Path) -> Path:
    """Returns the file that ``data.name`` comes from: the study or one of its bases, or the study if none names it."""
    file: Path | None = path
    while file is not None:
        payload = read_toml(file)
        data = payload.get("data")
        if isinstance(data, dict) and "name" in data:
            return file
        base = payload.get("base")
        file = None if base is None else find_toml(base, "studies", beside=file.parent)
    return path
