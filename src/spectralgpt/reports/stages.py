"""The report of a run of several stages, from what the stages left in their folders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectralgpt.errors import DataError
from spectralgpt.json_files import read_json
from spectralgpt.reports.curves import Series, plot_lines, read_metrics
from spectralgpt.reports.html import Picture, Section, Table, write_report
from spectralgpt.reports.pretraining import read_scores
from spectralgpt.yaml_files import read_yaml

__all__ = ["write_stages_report"]

_FOLDER = re.compile(r"stage-(\d+)-(.+)")
_LAST_SHARE = 10
"""The last loss is a mean over this part of the curve: single steps scatter."""


@dataclass(frozen=True)
class _Stage:
    """What a stage left.

    Args:
        number: from 1.
        name: as in the configuration.
        folder: of the stage.
        loss: its training loss by step, counted from its own beginning.
        config: its resolved configuration.
        contracts: bands and patch of each sensor, by the sensor's name.
    """

    number: int
    name: str
    folder: Path
    loss: Series
    config: Mapping[str, Any]
    contracts: Mapping[str, Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """Optimizer steps made."""
        return self.loss[0][-1]

    @property
    def datasets(self) -> list[Mapping[str, Any]]:
        """Configuration of each of its data sets."""
        data = self.config["data"]
        mixture = data.get("mixture") or [{"name": self.name}]
        return [{**data, "weight": 1.0, **entry} for entry in mixture]


def write_stages_report(run: Path) -> Path:
    """Write `report.html` of a run of stages, whether or not all are done.

    Args:
        run: folder with a folder `stage-N-NAME` for each stage.

    Returns:
        The path of the report.

    Raises:
        DataError: no stage has begun, or a stage's files cannot be read.
    """
    stages = _read_stages(run)
    if not stages:
        raise DataError(f"{run} holds no stage that has begun.")
    facts = [
        (str(len(stages)), "stages"),
        (f"{sum(stage.steps for stage in stages):,}", "optimizer steps"),
    ]
    sections = [
        Section(
            "Stages",
            "Each stage starts from the weights of the one before; positions are "
            "interpolated to its image size and bands. Losses of stages with other "
            "images, bands or mask ratios do not compare.",
            tables=[_stages_table(stages), _datasets_table(stages)],
            links=[
                (
                    f"Report of stage {s.number}, {s.name}",
                    f"{s.folder.name}/report.html",
                )
                for s in stages
            ],
        ),
        _curves_section(stages),
    ]
    return write_report(
        run / "report.html",
        f"Progressive pretraining: {run.resolve().name}",
        sections,
        summary="A masked autoencoder was trained in stages. The model of the last "
        "one is in checkpoints/model.",
        facts=facts,
    )


def _read_stages(run: Path) -> list[_Stage]:
    found = []
    for folder in run.glob("stage-*"):
        match = _FOLDER.fullmatch(folder.name)
        if match and (folder / "metrics.csv").is_file():
            loss = read_metrics(folder / "metrics.csv").get("loss")
            if loss:
                found.append(
                    _Stage(
                        int(match[1]),
                        match[2],
                        folder,
                        loss,
                        _read_config(folder / "config.yaml"),
                        _read_contracts(folder / "checkpoints" / "model"),
                    )
                )
    return sorted(found, key=lambda stage: stage.number)


def _read_config(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, Mapping) or "data" not in content:
        raise DataError(f"{path} is no configuration of a stage: it has no 'data'.")
    return content


def _read_contracts(folder: Path) -> dict[str, Mapping[str, Any]]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        contract = read_json(path)["preprocessing"]
        both = [contract, *contract.get("others", ())]
        return {each["sensor"]: each for each in both}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no model's configuration ({error}).") from error


def _stages_table(stages: Sequence[_Stage]) -> Table:
    rows = []
    for stage in stages:
        values = stage.loss[1]
        last = values[-max(1, len(values) // _LAST_SHARE) :]
        rows.append(
            [
                f"{stage.number}, {stage.name}",
                str(stage.config["masking"]["ratio"]),
                str(stage.config["trainer"]["epochs"]),
                f"{stage.steps:,}",
                f"{stage.config['optimizer']['base_lr']:g}",
                f"{values[0]:.4f}",
                f"{sum(last) / len(last):.4f}",
                _describe_scores(stage),
            ]
        )
    header = ["stage", "masked", "epochs", "steps", "base lr", "first loss"]
    return Table(
        [*header, "last loss", "held-out error"],
        rows,
        "The first loss is that of the first step, the last one the mean over the last "
        "tenth. The held-out error is the mean square over hidden pixels.",
    )


def _describe_scores(stage: _Stage) -> str:
    scores = read_scores(stage.folder / "validation.json")
    shown = [(name, each["model"]) for name, each in scores.items() if "model" in each]
    texts = [f"{name} {error:.4f}".strip() for name, error in shown]
    return ", ".join(texts) or "not scored"


def _datasets_table(stages: Sequence[_Stage]) -> Table:
    rows = []
    for stage in stages:
        for data in stage.datasets:
            contract = stage.contracts.get(data["sensor"])
            bands = tokens = "not saved yet"
            if contract is not None:
                bands = str(len(contract["bands"]))
                tokens = f"{_count_tokens(data, contract):,}"
            rows.append(
                [
                    f"{stage.number}, {stage.name}",
                    str(data["name"]) if "name" in data else stage.name,
                    str(data["sensor"]),
                    bands,
                    f"{data['image_size']} px",
                    tokens,
                    f"{data['weight']:g}",
                ]
            )
    header = ["stage", "data set", "sensor", "bands", "images", "tokens a sample"]
    return Table([*header, "weight"], rows)


def _count_tokens(data: Mapping[str, Any], contract: Mapping[str, Any]) -> int:
    """Count the tokens of one sample: those of the image, as far as the budget goes."""
    positions = (data["image_size"] // contract["patch_size"]) ** 2
    groups = -(-len(contract["bands"]) // contract["bands_per_token"])
    budget = data.get("token_budget")
    if budget is not None:
        groups = min(groups, budget // positions)
    return int(groups * positions)


def _curves_section(stages: Sequence[_Stage]) -> Section:
    lines: dict[str, Series] = {}
    boundaries: list[int] = []
    before = 0
    for stage in stages:
        steps, values = stage.loss
        lines[f"{stage.number}, {stage.name}"] = ([before + s for s in steps], values)
        before += stage.steps
        boundaries.append(before)
    picture = Picture(
        plot_lines(lines, "training loss", boundaries[:-1]),
        "Training loss over all stages: " + ", ".join(lines) + ".",
        "Steps count on from stage to stage. Thin lines are single steps, thick ones a "
        "moving average.",
    )
    return Section("Training loss, stage by stage", figures=[picture])
