"""The configuration of a run: frozen, checked at the door, unknown keys refused.

Sections hold the settings classes of the rooms they configure; only `experiment`, `api` and `cli` know this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_origin, get_type_hints

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.noise import NoiseSettings
from ensemw2s.data.splits import SplitSettings
from ensemw2s.errors import ConfigError, nearest, shown
from ensemw2s.evaluation.metrics import METRICS
from ensemw2s.experiment.layers import settle
from ensemw2s.experiment.reading import check_plain
from ensemw2s.experiment.strict import check_types
from ensemw2s.methods.baselines import WeakSearch
from ensemw2s.methods.boosted import check_form, usual_rule, usual_shrinkage
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.systems import SYSTEMS
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.training.losses import LossSettings, check_robustness
from ensemw2s.training.settings import TrainSettings

#: Settings that came after the first runs were stored; see ``Config.to_dict``.
LATER = ("noise", "models.more_weak", "models.order", "data.ood_families", "student_rows", "split.respect_groups",
         "weak_search", "expert.robustness", "student.robustness")  # fmt: skip
DEFAULT_SYSTEMS = ("weak", "ensemble", "uniform", "student", "student_from_weak", "strong_on_easy", "ceiling")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the rows come from.

    Attributes:
        source: "world" (built in), the name of a hub data set, or a file (JSONL, CSV, Parquet).
        columns: the file's names for our columns, ``{question: prompt}``.
        limit: at most this many rows of the source are read; None reads all.
        pool, test_id, test_ood, validation: files of their own; ``source`` is then the labelled training file.
        families, easy_levels, hard_levels: bands of the built-in world.
        ood_families: families of the built-in world's pool and ``test_ood``, to see whether what was learned on some
            families carries over to others; empty: those of ``families``.
        difficulty: rate the rows anew: by the name of a count, or by a file of ratings (``id`` and ``difficulty``).
    """

    source: str = "world"
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    limit: int | None = None
    pool: str | None = None
    test_id: str | None = None
    test_ood: str | None = None
    validation: str | None = None
    families: tuple[str, ...] = ()
    ood_families: tuple[str, ...] = ()
    easy_levels: tuple[int, ...] = (1, 2, 3)
    hard_levels: tuple[int, ...] = (4, 5, 6)
    difficulty: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit must be at least 1 row (or null for all), got {self.limit}")


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
    """Which models, and how they are fine-tuned.

    Attributes:
        weak, strong: a built-in name, a Hugging Face folder, or a hub id of any causal language model.
        more_weak: further pretrained weak models of the same vocabulary. Experts start from ``weak`` and these in turn,
            boosted ones and their rivals alike; the single weak expert starts from the best of them on validation rows.
            ``weak`` set alone, over a preset or a file, empties it: these were company of the model before.
        order: in which experts start from them: as "given", or by "validation" the one first whose plain expert is best
            on validation rows, for boosted experts and their rivals alike.
        weak_tuning, strong_tuning: "full" or "lora".
        trust_remote_code: run code that comes with a model. Only ever true when written so.
    """

    weak: str = "w2s-weak"
    strong: str = "w2s-strong"
    more_weak: tuple[str, ...] = ()
    order: Literal["given", "validation"] = "given"
    weak_tuning: Literal["full", "lora"] = "full"
    strong_tuning: Literal["full", "lora"] = "full"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.more_weak and self.weak_tuning == "lora":
            raise ConfigError(
                f"models.more_weak names {len(self.more_weak)} further models and models.weak_tuning is 'lora': "
                "adapters of one ensemble share one base; use weak_tuning=full, or models.more_weak=[]"
            )

    @property
    def bases(self) -> tuple[str, ...]:
        """The pretrained models that weak experts start from, in turn."""
        return (self.weak, *self.more_weak)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured.

    Attributes:
        metrics: ``option_accuracy`` is measured on the rows that have choices, and left out where none has; ``nll`` in
            nats an answer token; ``brier`` and ``ece`` compare an answer's own probability with its being right.
        batch_size: rows scored or decoded at once; changes speed and memory only.
        resamples: of the bootstrap.
        staged: also decode with the first 1..T experts.
        examples: training rows shown token by token in the report, and of each test half as many answers.
        margin: of the equivalence test between a student and the ceiling, as a share (0.02 is two points).
    """

    metrics: tuple[str, ...] = METRICS
    batch_size: int = 256
    resamples: int = 2000
    staged: bool = True
    examples: int = 8
    margin: float = 0.02

    def __post_init__(self) -> None:
        for name in ("batch_size", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluation.{name} must be at least 1, got {getattr(self, name)}")
        if self.examples < 0:
            raise ConfigError(f"evaluation.examples must be at least 0, got {self.examples}")
        if not 0 < self.margin < 1:
            raise ConfigError(f"evaluation.margin must lie in (0, 1), got {self.margin}")
        if not self.metrics:
            raise ConfigError(f"evaluation.metrics is empty: name at least one of {', '.join(METRICS)}")
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(f"unknown evaluation.metrics '{name}': {nearest(name, METRICS)}")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        preset: the preset this configuration started from.
        seed: run seed; every random choice derives from it.
        device: "auto", "cpu", "cuda", "cuda:0", "mps".
        dtype: "float32", "bfloat16", "float16" or "auto".
        task: "generation" (answers are texts), or "binary": (question, candidate answer) is right or wrong; rows with
            choices become yes/no rows with balanced classes, and those of the built-in world get a wrong answer each.
        head: of a binary task: the two verbalised "tokens" of the language model, or a "classifier" head.
        noise: wrong labels put on purpose into the labelled rows, those of training and of validation; test rows and
            the pool's answers stay right.
        rule: how the ensemble combines its experts. Left out of a file it follows from ``boost.form``: "additive" for
            that form, else "mean"; so does ``boost.shrinkage`` (see ``methods.boosted``).
        expert: budget of every expert, boosted or uniform.
        weak_epochs: epochs tried for the single weak expert; the best on validation is kept (its own budget).
        weak_search: with several pretrained weak models, which of them are trained for which of ``weak_epochs``: "all"
            for all, or "halving": after each number, the fewest first, the better half of the models goes on.
        student: budget of every strong model: student, student from weak, strong on easy, ceiling. Its ``robustness``
            is that of students alone.
        loss: what students minimise on pseudo-labels; ceiling and strong on easy always use cross-entropy.
        selection: which pseudo-labels students are trained on.
        student_rows: what students and the ceiling are trained on: the "pool" under its labels, or "all", which
            adds the labelled easy rows.
        iterations: how many students ``student_iterated`` trains, each on the labels of the one before.
        shots: labelled examples in the prompts of ``few_shot``.
        label_by: pseudo-labels of rows with choices: "generate" an answer, or take the likeliest of the "options".
        systems: what is trained and measured; ``weak`` always is.
    """

    preset: str = "quickstart"
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    data: DataConfig = DataConfig()
    split: SplitSettings = SplitSettings()
    noise: NoiseSettings = NoiseSettings()
    format: TaskFormat = TaskFormat()
    task: Literal["generation", "binary"] = "generation"
    head: Literal["tokens", "classifier"] = "tokens"
    models: ModelsConfig = ModelsConfig()
    lora: LoraSettings = LoraSettings()
    boost: BoostSettings = BoostSettings()
    rule: str = "mean"
    expert: TrainSettings = TrainSettings()
    weak_epochs: tuple[float, ...] = ()
    weak_search: WeakSearch = "all"
    student: TrainSettings = TrainSettings()
    loss: LossSettings = LossSettings()
    selection: SelectionSettings = SelectionSettings()
    student_rows: Literal["pool", "all"] = "pool"
    iterations: int = 2
    shots: int = 4
    label_by: Literal["generate", "options"] = "generate"
    systems: tuple[str, ...] = DEFAULT_SYSTEMS
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        for name in self.systems:
            SYSTEMS.get(name)
        for name, least in (("iterations", 2), ("shots", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_form(self.boost, self.rule)
        if self.models.more_weak and "averaged" in self.systems:
            raise ConfigError(
                f"system 'averaged' averages weights, and models.more_weak names {len(self.models.more_weak)} models "
                "pretrained apart, whose weights have no common mean: leave it out, or set models.more_weak=[]"
            )
        if self.loss.name == "additive":
            raise ConfigError(
                "loss.name 'additive' is what boost.form=additive trains experts on, added to a fixed sum; a student "
                "answers alone: use cross_entropy or another loss"
            )
        check_robustness(self.student.robustness, self.loss.name, "student.robustness")
        self._check_task()
        if any(epochs <= 0 for epochs in self.weak_epochs):
            raise ConfigError(f"weak_epochs must all be above 0, got {list(self.weak_epochs)}")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed must fit 64 bits, got {self.seed}")

    def _check_task(self) -> None:
        if self.task == "binary" and self.head == "classifier":
            if "few_shot" in self.systems:
                raise ConfigError(
                    "system 'few_shot' prompts a language model, and head is 'classifier': use head=tokens, or leave "
                    "it out"
                )
            if self.boost.prior == "pretrained":
                raise ConfigError(
                    "boost.prior 'pretrained' compares with the model before any training, whose classifier head is "
                    "random: "
                    "use boost.prior=none (AdaBoost's own) with head=classifier, or head=tokens"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data, as it goes into ``results.json`` and into hashes.

        Settings that came ``LATER`` are left out at their default: hashes of older runs stay what they were.
        """
        found: dict[str, Any] = plain(self)
        for path in LATER:
            *sections, key = path.split(".")
            mine, inside = found, _DEFAULTS
            for section in sections:
                mine, inside = mine[section], inside[section]
            if mine[key] == inside[key]:
                del mine[key]
        return found


def plain(value: Any) -> Any:
    """Settings as JSON data: dataclasses become mappings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


_DEFAULTS = plain(Config())


def build_config(settings: Mapping[str, Any]) -> Config:
    """A checked configuration from nested plain data.

    The section ``alone`` may hold settings that replace others where there is one pretrained weak model.

    Raises:
        ConfigError: an unknown key (with the nearest one), a value of the wrong type or out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    check_plain(settings, "the configuration")
    if isinstance(settings, Mapping) and "alone" in settings:
        _refuse_unknown(settings["alone"], Config, "alone.")
        check_types(settings["alone"], Config, "alone")
        settings = settle(settings)
    _refuse_unknown(settings, Config, "")
    check_types(settings, Config, "")
    try:
        return TypeAdapter(Config).validate_python(_completed(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {first['msg']}, got {shown(first['input'])}") from error


def _completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was left out and follows from other settings, filled in. The types have been checked."""
    found = dict(settings)
    boost = found.get("boost", {})
    if isinstance(boost, Mapping) and boost.get("form") == "additive":
        models = found.get("models", {})
        bases = 1 + len(models.get("more_weak", ()) if isinstance(models, Mapping) else models.more_weak)
        found["boost"] = {"shrinkage": usual_shrinkage("additive", bases), **boost}
        found.setdefault("rule", usual_rule("additive"))
    return found


def _refuse_unknown(settings: Any, kind: Any, path: str) -> None:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path.rstrip('.') or 'the configuration'} must be a section of keys, got {shown(settings)}")
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"unknown setting '{path}{key}': {nearest(str(key), known)}")
        section = hints[key]
        if get_origin(section) is None and dataclasses.is_dataclass(section) and not dataclasses.is_dataclass(value):
            _refuse_unknown(value, section, f"{path}{key}.")
