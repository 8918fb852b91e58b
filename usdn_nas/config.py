"""The study file: typed, unknown keys refused, ``--set a.b=c`` applied, names looked up."""

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
"""Upper bounds of settings: far above what anybody needs, and low enough that a slip of the pen is found at once.

Numbers of images; of epochs; of images at once; of processes or threads; of points of a curve.
"""

_TRADE_OFF, _GBOPS = 1e6, 1e9
"""Upper bounds of weights of relative BOPs, and of budgets."""

_LEVELS = 16
"""Most parts of a dotted key on the command line; settings have three."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that came later: at their defaults they are not written, so that what was finished before stays so."""

    @model_validator(mode="before")
    @classmethod
    def _rest_of_a_table(cls, given: Any) -> Any:
        """What a table leaves out is as in the default that stands in its place."""
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
    """Which data, where, and how it is split.

    ``search`` is the number of training images set aside for the search (stratified, seeded); ``test`` the number
    set aside for the test where the data set has no test split of its own. ``train_limit`` keeps that many
    training images (stratified); it is meant for trial runs, and may leave classes without an image.
    """

    name: Text = "digits"
    root: Text | None = None
    search: int | None = Field(default=None, ge=1, le=_IMAGES)
    test: int | None = Field(default=None, ge=1, le=_IMAGES)
    train_limit: int | None = Field(default=None, ge=1, le=_IMAGES)
    augment: bool = True
    workers: int = Field(default=0, ge=0, le=_PROCESSES)


class TrainConfig(_Strict):
    """One training: SGD with momentum (Nesterov's unless told otherwise), after a linear warm-up.

    ``schedule``: ``cosine`` anneals from ``lr`` to 0 over all steps; ``step`` multiplies ``lr`` by ``decay`` at the
    start of each of the epochs ``milestones``, counted from 0. ``step_lr``: learning rate of quantizer step sizes, as a
    share of ``lr``. ``clip_norm``: largest norm of a step's gradient. ``max_steps``: fewer steps than ``epochs`` make.
    With 0 ``epochs`` the network goes on as it is.
    ``batch_size``: images a step, of all processes together. ``accumulate``: micro-batches that a step's images are run
    in, one after the other or by as many processes; BatchNorm sees a micro-batch at a time.
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

    ``weights``: a file of pretrained weights that pre-training starts from, as ``network.weights`` of a search space
    takes them (of an MSDNet: a checkpoint of kalviny/MSDNet-PyTorch); it is not needed once that is done.
    ``random_paths``: configurations drawn each step beside the largest; ``smallest`` adds the smallest to them.
    ``paths``: ``uniform`` draws every group's bits by themselves; ``stratified`` draws a level for each path, from the
    equal parts of the range in turn, that all its groups follow, so that cheap and dear configurations come up as often
    as those in between. ``teacher``: from whose soft labels, beside the true ones, all configurations learn: the
    ``pretrained`` network at full precision, or the ``largest`` configuration of the same step, which then learns from
    true labels alone. The one configuration of a space without choices learns from true labels alone.
    ``exit_weight``: weight of an internal classifier's loss; the final exit has 1. ``exit_loss = "sdn"`` multiplies it
    by SDN's ramp: that of the i-th of K internal classifiers rises with the epochs, min(m, .01 + epoch m / epochs),
    from 1 on, to m evenly spaced from .15 to .9.
    ``calibration_images``: training images from which step sizes start. ``refresh_images``: about how many training
    images BatchNorm statistics are taken over anew at the end; those of the last steps stay with 0, and in a space
    with one configuration.
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
    """What the study maximises and how it samples.

    ``scalar``: accuracy - ``tr`` x average BOPs / reference BOPs. ``pareto``: accuracy up, average BOPs down.
    ``budget``: accuracy, with average BOPs at most ``gbops`` x 1e9.
    ``exits``: of each configuration, all placements of exits are scored (``exact``), or the one with every candidate
    (``all``), as of a network whose exits are its own; or exits and threshold are parameters of the trial
    (``sampled``). ``thresholds``: number of shared thresholds scored for each configuration unless ``sampled``.
    ``rule``: who answers a sample that is confident at no placed exit, the final exit (``threshold``) or the most
    confident of all (``most-confident``, SDN's). ``batch``: configurations proposed, run and told together.
    ``backend``: how the supernet is run. ``memory_gb``: most that the evaluation engine holds of states and outputs.
    ``workers``: processes of this machine that share the study. ``storage``: where the study is kept: a database's URL,
    the path of a journal file, or ``env:NAME`` for an environment variable that holds one of them; a file in the run
    folder unless given. A password in the URL is never written: what is made from these settings shows ``***``.
    ``storage_patience_s``: seconds for which a search goes on trying where its database cannot be reached.
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
        """Everything that is written or shown gets the masked form; only a worker's process is sent the secret."""
        return storage if storage is None or (info.context or {}).get("secrets") else masked_url(storage)

    @model_validator(mode="after")
    def _budget_given(self) -> SearchConfig:
        if self.mode == "budget" and self.gbops is None:
            raise ValueError("mode 'budget' needs 'gbops'")
        return self


class ExportConfig(_Strict):
    """Which point ``usdn-nas run`` exports.

    ``tr``, ``budget`` (GBOPs) or ``trial``: at most one of them; none: the best by the study's own objective.
    ``score``: by which accuracy points are compared: as ``measured``, or ``smoothed`` over all trials that share
    choices, which orders configurations more as retraining does (docs/supernet.md). It needs exits that are not
    sampled.
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
    """Retraining of the winner by level-wise knowledge distillation, Eq. (10).

    Sum over exits i of w_i [(1 - alpha) CE(z_i, y) + alpha T^2 KL(softmax(t_i / T) || softmax(z_i / T))].
    ``alpha_weighs = "ce"`` swaps the two factors. ``teacher_exit = "final"`` takes t_i from the teacher's final exit.
    ``exit_weight`` and ``exit_loss``: as those of the supernet. ``compare_ce`` also retrains with cross-entropy alone
    (Table II).
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
    """Final evaluation.

    ``bins``: equal-width bins of ECE and MCE. ``threshold``: that of Table I where all exits share one. ``sweep``:
    shared thresholds tried, evenly over [.1, 1]. ``fits``: trade-offs that thresholds of each exit are fitted to,
    evenly in the logarithm over [.001, 1].
    """

    bins: int = Field(default=15, ge=2, le=_CURVE)
    threshold: float = Field(default=0.7, ge=0, le=1)
    sweep: int = Field(default=33, ge=2, le=_CURVE)
    fits: int = Field(default=13, ge=2, le=_CURVE)


class StudyConfig(_Strict):
    """A study as written in TOML. With ``base = "NAME"`` it says only what differs from that study.

    ``space`` is a name or a path; looked up beside the study, in ./search_spaces, among the shipped. ``threads``:
    torch's own number unless given. ``tensorboard``: curves of every training, as event files in its folder.
    ``batch_size``: images run at once where nothing is trained.
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
    """Name -> file of the shipped studies or spaces and of those in the working directory's folder, which wins."""
    found: dict[str, Path] = {}
    for place in (_shipped(folder), Path.cwd() / folder):
        found |= {path.stem: path for path in sorted(place.glob("*.toml")) if path.stem.isprintable()}
    return found


def find_toml(name: str, folder: Literal["studies", "search_spaces"], beside: Path | None = None) -> Path:
    """Finds a study or space by name or path.

    A path that exists is taken as it is (relative to ``beside`` first). A name is looked up beside the study file,
    in the working directory's folder, then in the package; a study beside the study file is no search space.

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
    """The folder of a study's run: ``out``, else ``runs/<name of the study's file>``; a run's folder is its own."""
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
    # A value of several lines may hold other keys: it is a text, too.
    return path, found["value"] if len(found) == 1 else value.strip()


def apply_overrides(payload: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets ``"a.b=c"`` each in ``payload``, in place; c is read as TOML, else it is a string.

    Raises:
        UserError: No ``=``, or a part of the path is a value.
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
    """A study's content, what it does not say taken from its ``base``. ``above``: studies whose base it is."""
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
    """``over`` on top of ``under``, table by table; any other value, lists too, replaces what is there."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _laid_over(under[key], value) if both else value
    return merged


def load_study(path: Path, overrides: Sequence[str] = (), *, trust_code: bool = False) -> tuple[StudyConfig, SpaceSpec]:
    """Reads a study and the search space it names.

    A study may begin with ``base = "NAME"``: it then changes what it says of that study, and is alike in all else.

    Args:
        path: The study's TOML file.
        overrides: ``"a.b=c"`` each; the value is read as TOML, else as a string.
        trust_code: Accept a network or data set that is code of its own (``package.module:function``). A name that
            an override gives needs no such consent.

    Raises:
        ConsentError: A file names code of its own, and ``trust_code`` is False.
        UserError: A file is missing or wrong; the message names the file and the dotted path.
    """
    payload = _with_base(path)
    apply_overrides(payload, overrides)
    study = validate(StudyConfig, payload, where=path)
    check_code_of_data(study, overrides, _who_names_data(path), trust_code)
    beside = Path(path).parent
    return study, load_space(find_toml(study.space, "search_spaces", beside=beside), trust_code=trust_code)


def check_code_of_data(study: StudyConfig, overrides: Sequence[str], where: object, trust_code: bool) -> None:
    """Refuses data from a function that a file names and nobody consented to.

    Args:
        study: The settings, with ``overrides`` applied. A name that they give is consent to that name.
        where: The file.

    Raises:
        ConsentError: The data set is code of its own.
    """
    typed: dict[str, Any] = {}
    apply_overrides(typed, overrides)
    data = typed.get("data")
    consented = trust_code or (isinstance(data, dict) and data.get("name") == study.data.name)
    check_data(study.data.name, where=f"{where}: data.name", trust_code=consented)


def _who_names_data(path: Path) -> Path:
    """The file among a study and its bases whose ``data.name`` counts; the study's own if none has one."""
    file: Path | None = path
    while file is not None:
        payload = read_toml(file)
        data = payload.get("data")
        if isinstance(data, dict) and "name" in data:
            return file
        base = payload.get("base")
        file = None if base is None else find_toml(base, "studies", beside=file.parent)
    return path
