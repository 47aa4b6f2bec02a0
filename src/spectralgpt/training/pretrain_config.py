"""The configuration of a pretraining run, one YAML file as a tree of dataclasses.

Stages take from the run what they do not say, data sets of a mixture from `data`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from spectralgpt.config import build_config, check_keys, check_range, fit_arguments
from spectralgpt.data.crops import CropConfig
from spectralgpt.errors import ConfigError
from spectralgpt.models.sizes import check_settings, model_size
from spectralgpt.models.tokens import MaskStyle
from spectralgpt.objectives import OURS, objective_class, settings_of
from spectralgpt.preprocessing import Scaling
from spectralgpt.rasters import Stated
from spectralgpt.training.optim import OptimizerConfig, TrainerConfig

# Names become columns of tables and folders: nothing that leaves a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECTIONS = ("data", "masking", "optimizer", "trainer", "report")
_OWN = ("objective", "settings", "seed", "steps")
_OF_DATA = ("image_size", "num_bands", "wavelengths_nm")
"""Settings of an objective that its images say."""
_WHOLE_RUN = ("accelerator", "devices", "num_nodes", "strategy")
"""Settings of the processes, which are started once for all stages."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained, and from which weights.

    Args:
        size: tiny, small, base, large or huge.
        start_from: checkpoint to start from: a folder of ours, a published .pth file,
            a name of `spectralgpt weights list` or a Hub name; its positions are
            interpolated to this run's image size and bands. null starts from random
            weights.
        keep_positions: take its position tables over; false learns them anew, as the
            published code does where the grid of tokens changes. For comparison.
        patch_size: side of a token, px.
        bands_per_token: neighbouring bands in a token.
        embed_dim: width of the encoder; null takes that of the size.
        depth: blocks of the encoder; null takes that of the size.
        num_heads: attention heads of the encoder; null takes that of the size.
        decoder_embed_dim: width of the decoder; null takes that of the size.
        decoder_depth: blocks of the decoder; null takes that of the size.
        decoder_num_heads: attention heads of the decoder; null takes that of the size.
        normalize_targets: compare tokens normalised one by one (the token term only).
        token_loss_weight: weight of the token term.
        spectral_loss_weight: weight of the spectral term.
        decoder: full, the paper's; or cross, faster: masked tokens look at visible ones
            only.
        target_share: share of the masked tokens that a step rebuilds, 0..1, of a cross
            decoder.
        tokenizer: linear, the published one, with the same weights for all band groups;
            or spectral, whose weights follow each band's centre, width and ground
            sampling distance. null takes that of the checkpoint, and spectral where
            several sensors are mixed.
    """

    size: Literal["tiny", "small", "base", "large", "huge"] = "base"
    start_from: str | None = None
    keep_positions: bool = True
    patch_size: int = 8
    bands_per_token: int = 3
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    decoder_embed_dim: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    normalize_targets: bool = False
    token_loss_weight: float = 1.0
    spectral_loss_weight: float = 1.0
    decoder: Literal["full", "cross"] = "full"
    target_share: float = 1.0
    tokenizer: Literal["linear", "spectral"] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_settings(self.settings(), "model.")

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the model's class that are set."""
        others = ("size", "start_from", "keep_positions", "tokenizer")
        names = [f.name for f in fields(self) if f.name not in others]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class DataConfig(Stated):
    """Which images are trained on, and how they become model input.

    What is stated of images is of those of one folder; descriptions and packs state it
    themselves.

    Args:
        root: folder that holds the images, or that the descriptions' roots are in.
        sources: YAML descriptions of data sets, or folders of such files; none takes
            root as one folder of images.
        index: CSV or Parquet file under root that lists the images, where there are no
            descriptions; null looks for rasters.
        index_column: column of the index that holds paths under root.
        sensor: sensor whose bands the model takes, by name.
        use_bands: names of the bands to use; null takes all of the sensor.
        exclude_bands: names of bands to leave out.
        image_size: side of the crops that the model takes, px.
        scaling: image-minmax (each band of each image to 0..1), fixed-range (first and
            99th percentile of the data set to 0..1), z-score, or log (logarithm of
            reflectance, so that ratios of bands become differences).
        statistics: weights by whose band statistics images are scaled, such as those of
            model.start_from; null measures them on the training images.
        samples_per_epoch: crops in an epoch; null takes about as many as cover the
            images once.
        crops: how crops are cut, and what is held out.
        image_share: share of the images that is used, 0..1, each larger share holding
            the smaller ones.
        max_held_out: most held-out crops that are scored, spread over all there are.
        max_bad_share: largest share of images that may be unreadable, 0..1.
        allow_missing_bands: take images that lack some of the bands; what is missing is
            never shown to the encoder and counts in no loss.
        token_budget: most tokens of one sample; of images with more, each batch takes
            some band groups. null sets no limit.
        band_subsets: share of training batches that take a random part of the bands,
            0..1: tokens then hold other neighbours each time, which teaches a spectral
            tokeniser tokens of any bands. null takes 0.7 where several sensors are
            mixed and model.tokenizer is not linear, else 0.
        memory_mb: memory in MiB in which each loader process keeps small files (up to
            2 MiB) decoded, instead of reading them again for each crop; 0 keeps none.
        mixture: several data sets instead of one, each with a name, a weight (how often
            it is drawn, relative to the others; 1 if not given), and whatever of the
            keys of data differs for it; a relative root lies under data.root. The first
            is the primary one, whose bands the model's positions are learned on.
    """

    root: Path = Path()
    sources: tuple[str, ...] = ()
    index: str | None = None
    index_column: str = "path"
    sensor: str = "sentinel-2-l1c"
    use_bands: tuple[str, ...] | None = None
    exclude_bands: tuple[str, ...] = ()
    image_size: int = 96
    scaling: Scaling = "image-minmax"
    statistics: str | None = None
    samples_per_epoch: int | None = None
    crops: CropConfig = field(default_factory=CropConfig)
    image_share: float = 1.0
    max_held_out: int = 256
    max_bad_share: float = 0.1
    allow_missing_bands: bool = False
    token_budget: int | None = None
    band_subsets: float | None = None
    memory_mb: float = 256.0
    mixture: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check what no other component does."""
        super().__post_init__()
        stated = [name for name in self.facts if name != "sensor"]
        if stated and self.sources:
            raise ConfigError(
                f"data.{stated[0]} is of files in one folder (the bands to use are "
                "use_bands), but data.sources are set: state it in the description."
            )
        if self.sources and self.index:
            raise ConfigError(
                "data.index and data.sources are both set; a description names its own "
                "index. Keep one."
            )
        counts = ("image_size", "samples_per_epoch", "token_budget")
        check_range("at least 1", self, *counts, section="data.")
        check_range("at least 0", self, "max_bad_share", "memory_mb", section="data.")
        check_range("above 0 and at most 1", self, "image_share", section="data.")
        check_range("at least 0 and at most 1", self, "band_subsets", section="data.")
        if self.max_held_out < 1:
            raise ConfigError(
                f"data.max_held_out is {self.max_held_out}; it must be at least 1. To "
                "hold out nothing, set data.crops.val_share to 0."
            )


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens the encoder does not see.

    Args:
        ratio: share of masked tokens, 0..1; null takes the objective's own, which is
            0.9 of ours.
        style: cube (each token by itself), tube (one spatial mask for all band groups),
            spectral (whole band groups) or date (whole dates of a series).
    """

    ratio: float | None = None
    style: MaskStyle = "cube"

    def __post_init__(self) -> None:
        """Check the ratio."""
        check_range("at least 0 and below 1", self, "ratio", section="masking.")


@dataclass(frozen=True)
class ReportConfig:
    """What is drawn.

    Args:
        images: held-out crops whose reconstructions are drawn.
        every_epochs: epochs between drawings; 0 draws after the last epoch only.
        items: draw crops of images whose name contains one of these; none spreads the
            crops over all held-out images.
    """

    images: int = 4
    every_epochs: int = 0
    items: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("at least 0", self, "images", "every_epochs", section="report.")


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run.

    Args:
        objective: what is learned: spectralgpt, our own; or another of the paper's
            family, such as mae, satmae, st-mae, simmim, ringmo, beit, moco or simclr;
            or distill, features of a larger model.
        settings: further settings of another objective, by name, such as groups.
        teacher: model whose features are learned, with objective distill.
        model: which model, from which weights.
        data: which images.
        masking: which tokens are hidden.
        optimizer: AdamW or LARS, and its schedule.
        trainer: length, batches, machines.
        report: what is drawn.
        seed: seed of weights, order, crops and masks.
        steps: optimizer steps of the whole run, shared equally over the epochs, instead
            of data.samples_per_epoch; null takes that.
        stages: stages that are run in turn, each from the weights of the one before.
            Each has a name, and whatever of objective, settings, data, masking,
            optimizer, trainer, report, seed and steps differs for it; a relative
            data.root lies under the run's.
    """

    objective: str = OURS
    settings: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = 0
    steps: int | None = None
    stages: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check the objective, the seed, and that steps can be shared over epochs."""
        check_range("at least 0", self, "seed")
        self.objective_settings()
        chosen = objective_class(self.objective)
        if self.teacher is not None and not chosen.has_teacher:
            raise ConfigError(
                f"teacher is set, but objective {self.objective} learns from none: "
                "leave it out, or use objective distill."
            )
        if self.masking.ratio is None:
            ratio = chosen.default_mask_ratio
            stated = replace(self.masking, ratio=ratio)
            object.__setattr__(self, "masking", stated)
        if self.steps is None:
            return
        epochs = self.trainer.epochs
        if self.steps < 1 or self.steps % epochs:
            raise ConfigError(
                f"steps is {self.steps}, trainer.epochs {epochs}: each epoch takes the "
                "same number of steps, at least one. Change one of them."
            )
        if self.data.samples_per_epoch is not None:
            raise ConfigError(
                f"steps is {self.steps} and data.samples_per_epoch "
                f"{self.data.samples_per_epoch}: both say how long an epoch is. Set "
                "one of them to null."
            )

    def objective_settings(self) -> dict[str, Any]:
        """Return the arguments of the objective's class that are not of the data.

        Raises:
            ConfigError: the objective or a setting is unknown, or a value is wrong.
        """
        if self.objective == OURS:
            if self.settings:
                raise ConfigError(
                    f"settings.{next(iter(self.settings))} is set, but objective "
                    f"{OURS} has its settings in model."
                )
            return self.model.settings()
        known = settings_of(self.objective)
        for name in self.settings:
            if name not in known or name in _OF_DATA:
                wanted = [each for each in known if each not in _OF_DATA]
                raise ConfigError(
                    f"settings.{name}: objective {self.objective} has no such setting; "
                    f"it has {', '.join(wanted)}."
                )
        self._refuse_ours(known)
        chosen = {k: v for k, v in self.model.settings().items() if k in known}
        sizes = {k: v for k, v in model_size(self.model.size).items() if k in known}
        kind, where = objective_class(self.objective), f"objective {self.objective}"
        fitted = fit_arguments(kind, {**sizes, **chosen, **self.settings}, where)
        check_settings(fitted)
        return fitted

    def check_follows(self, earlier: "PretrainConfig", where: str) -> None:
        """Refuse to go on from the weights of a run, before that is trained.

        Args:
            earlier: that run.
            where: of this one, for messages.

        Raises:
            ConfigError: its objective leaves nothing that this one starts from.
        """
        usable = (self.objective, *objective_class(self.objective).starts_after)
        if earlier.objective not in usable:
            raise ConfigError(
                f"{where}: objective {self.objective} starts from weights of "
                f"{' or '.join(usable)}, not of {earlier.objective}, which is "
                "before it."
            )

    def _refuse_ours(self, known: Collection[str]) -> None:
        """Refuse what only our own objective has."""
        ours: dict[str, tuple[Any, Any]] = {
            f"model.{name}": (value, getattr(ModelConfig(), name))
            for name, value in self.model.settings().items()
            if name not in known
        }
        ours |= {
            "model.tokenizer": (self.model.tokenizer, None),
            "masking.style": (self.masking.style, "cube"),
            "data.token_budget": (self.data.token_budget or None, None),
            "data.band_subsets": (self.data.band_subsets or None, None),
            "data.allow_missing_bands": (self.data.allow_missing_bands, False),
        }
        hides = objective_class(self.objective).default_mask_ratio > 0
        if hides and self.masking.ratio == 0 and self.settings.get("loss_on") != "all":
            raise ConfigError("masking.ratio is 0, which hides nothing: raise it.")
        if not hides:
            ours["masking.ratio"] = (self.masking.ratio or None, None)
        changed = [name for name, (value, usual) in ours.items() if value != usual]
        if changed:
            usual = ", ".join(f"{name} {ours[name][1]}" for name in changed)
            raise ConfigError(
                f"objective {self.objective} does not have {', '.join(changed)}: leave "
                f"it out, or set {usual.replace('None', 'null')}."
            )


def datasets_of(
    data: DataConfig, where: str = "data"
) -> list[tuple[str, DataConfig, float]]:
    """Return the data sets of a run; without a mixture there is one.

    Each has its name in metrics and reports, its whole configuration, and how often it
    is drawn, relative to the others.

    Args:
        data: of the run or stage.
        where: of `data`, for messages.

    Raises:
        ConfigError: an unknown key or bad value, a missing or doubled name, or a weight
            that is not above 0.
    """
    if not data.mixture:
        return [(Path(data.root).resolve().name or "images", data, 1.0)]
    base = asdict(data)
    for name in ("mixture", "samples_per_epoch"):
        del base[name]
    known = (*base, "weight")
    found = []
    for number, entry in enumerate(data.mixture, start=1):
        place = f"{where}.mixture, entry {number}"
        values = _check_entry(entry, place, known)
        name, weight = values.pop("name"), values.pop("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{place} ({name}): weight is {weight!r}; use above 0.")
        own = build_config(
            merge_sections(base, values), DataConfig, f"{place} ({name})"
        )
        found.append((name, own, weight))
    _refuse_doubles([name for name, *_ in found], f"{where}.mixture")
    return found


def stages_of(config: PretrainConfig) -> dict[str, PretrainConfig]:
    """Return the stages of a run by name, each with its whole configuration.

    Raises:
        ConfigError: an unknown key or bad value, a missing or doubled name, a stage
            without data, or one that wants other machines than the run.
    """
    base = asdict(config)
    for name in ("stages", "model"):
        del base[name]
    found: list[tuple[str, PretrainConfig]] = []
    for number, entry in enumerate(config.stages, start=1):
        place = f"stages, entry {number}"
        values = _check_entry(entry, place, (*_SECTIONS, *_OWN))
        name = values.pop("name")
        place = f"stage {name!r}"
        _check_machines(values.get("trainer", {}), place)
        kept = _without_objective(_without_length(base, values), values)
        merged = merge_sections(kept, values)
        own = replace(build_config(merged, PretrainConfig, place), model=config.model)
        _check_data(own.data, place)
        if found:
            own.check_follows(found[-1][1], place)
        found.append((name, own))
    _refuse_doubles([name for name, _ in found], "stages")
    return dict(found)


def _without_length(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what the run says of an epoch's length, if the stage says it otherwise."""
    data = own.get("data", {})
    kept = dict(base)
    if own.get("steps") is not None:
        kept["data"] = {**base["data"], "samples_per_epoch": None}
    elif isinstance(data, Mapping) and data.get("samples_per_epoch") is not None:
        kept["steps"] = None
    return kept


def _without_objective(
    base: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Drop what the run says of its objective, if the stage has another one."""
    kept = dict(base)
    if own.get("objective", base["objective"]) != base["objective"]:
        kept["settings"] = {}
        kept["teacher"] = None
        kept["masking"] = {**base["masking"], "ratio": None}
    return kept


def _check_entry(entry: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: expected keys with values, found {entry!r}.")
    check_keys(entry, where, required=("name",), optional=known)
    name = entry["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: name is {name!r}; use letters, digits, '-', '_' and '.'."
        )
    return dict(entry)


def _check_machines(trainer: Any, where: str) -> None:
    if not isinstance(trainer, Mapping):
        raise ConfigError(f"{where}: trainer must hold keys, found {trainer!r}.")
    for name in _WHOLE_RUN:
        if name in trainer:
            raise ConfigError(
                f"{where}: trainer.{name} holds for all stages. Set it at the top "
                "level of the run."
            )


def _check_data(data: DataConfig, where: str) -> None:
    for _, own, _ in datasets_of(data, f"{where}, data"):
        if own.root == Path() and not (own.sources or own.index):
            raise ConfigError(
                f"{where} has no data. Name data.root, data.sources or data.mixture, "
                "there or at the top level."
            )


def _refuse_doubles(names: Sequence[str], where: str) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{where}: the name {doubled[0]!r} is there twice.")


def merge_sections(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put `own` over `base`, section by section; a relative root goes below.

    Neither is changed.
    """
    merged = dict(base)
    for name, value in own.items():
        below = base.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[name] = merge_sections(below, value)
        elif name == "root" and below is not None and isinstance(value, str | Path):
            merged[name] = Path(below) / value
        else:
            merged[name] = value
    return merged
