"""Models in the form of the Hugging Face Hub: weights, configuration and a card.

`Pretrained`, which all models are, leads here from `save_pretrained`, `push_to_hub` and
`from_pretrained`. Weights are those of `save_model`: safetensors, and nothing pickled.
For catalogues `model.stac.json` says as a STAC item what a model takes and gives.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
from torch import nn

from spectralgpt import __version__
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.data.classes import class_colours, describe_classes
from spectralgpt.errors import CheckpointError, OutputError
from spectralgpt.files import digest_of, make_folder, read_json, write_json
from spectralgpt.models.heads import ChangeModel, DenseModel, RegressionModel

_OURS = "library_name: spectralgpt"
_TEMPLATE = Path(__file__).with_name("hub_card.md")
_PIPELINES = {
    "single-label": "image-classification",
    "multi-label": "image-classification",
    "segmentation": "image-segmentation",
    "change": "image-segmentation",
}
"""What the Hub calls our tasks."""
_STAC_TASKS = {
    "single-label": "scene-classification",
    "multi-label": "classification",
    "segmentation": "semantic-segmentation",
    "change": "semantic-segmentation",
    "regression": "regression",
}
"""What STAC's extension for models calls them; all others give features to compare."""
_STAC_SCALINGS = {
    "fixed-range": ("min-max", {"minimum": "low", "maximum": "high"}),
    "z-score": ("z-score", {"mean": "mean", "stddev": "std"}),
}
_OWN_SCALING = {
    "type": "processing",
    "format": "python",
    "expression": "spectralgpt.preprocessing:Preprocessing.prepare",
}
_GRID = ("height", "width")


class Upload(ModelHubMixin):
    """A model on its way into a folder, or to the Hub.

    Attributes:
        model: any of ours.
        facts: of its card: `license`, `data` and `scores`, where they are known.
        repo: what it is called there.
    """

    # Not arguments, of which the mixin would make a configuration of its own.
    model: Any = None
    facts: Mapping[str, Any]
    repo: str

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(save_directory, self.model, self.model.contract, self.model.notes)
        item = save_directory / "model.stac.json"
        item.unlink(missing_ok=True)
        if self.model.contract is not None:
            name = self.repo.rpartition("/")[2]
            write_json(item, _describe(self.model, save_directory, name, self.facts))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write what the model takes, and what is known of its making."""
        model, notes = self.model, self.model.notes
        task, chosen = notes.get("task", ""), notes.get("chosen")
        scores = {}
        if chosen:
            scores[f"{chosen['metric']} (epoch {chosen['epoch']})"] = chosen["value"]
        data = ModelCardData(
            library_name="spectralgpt",
            license=self.facts["license"],
            pipeline_tag=_PIPELINES.get(task, "image-feature-extraction"),
            tags=["remote-sensing", "multispectral"],
        )
        return ModelCard.from_template(
            data,
            template_path=str(_TEMPLATE),
            kind=type(model).__name__,
            module=type(model).__module__,
            repo=self.repo,
            contract=model.contract,
            weights=f"{sum(each.numel() for each in model.parameters()):,}",
            version=__version__,
            task=task,
            classes=notes.get("class_names"),
            data=self.facts["data"] or notes.get("trained_on"),
            scores=self.facts["scores"] or scores,
        )


def _describe(
    model: Any, folder: Path, name: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe saved weights as a STAC item, which has neither a place nor a day.

    Source: STAC 1.1.0; its extensions mlm 1.4.0, eo 2.0.0 and file 2.1.0.
    """
    item: dict[str, Any] = read_json(Path(__file__).with_name("hub_stac.json"))
    contract, weights = model.contract, folder / "model.safetensors"
    task = _STAC_TASKS.get(model.notes.get("task", ""), "similarity-search")
    is_swin = getattr(model, "encoder", model).kind == "swin"
    item["id"] = name
    item["properties"] |= {
        "description": f"{type(model).__name__} for {contract.sensor}",
        "mlm:name": name,
        "mlm:architecture": "Swin Transformer" if is_swin else "Vision Transformer",
        "mlm:tasks": [task],
        "mlm:framework_version": torch.__version__,
        "mlm:total_parameters": sum(each.numel() for each in model.parameters()),
        "mlm:memory_size": sum(each.nbytes for each in model.state_dict().values()),
        "mlm:input": [_describe_input(model)],
        "mlm:output": [{"tasks": [task], **_describe_output(model)}],
    }
    if licence := facts["license"]:
        is_name = re.fullmatch(r"[\w.+-]+", licence)
        item["properties"]["license"] = licence if is_name else "other"
    item["assets"]["model"] |= {
        "file:size": weights.stat().st_size,
        # As a multihash: sha2-256, of 32 bytes.
        "file:checksum": f"1220{digest_of(weights)}",
    }
    rows = zip(contract.band_names, contract.band_rows, strict=True)
    keys = "name", "eo:center_wavelength", "eo:full_width_half_max", "gsd"
    item["assets"]["model"]["bands"] = [
        dict(zip(keys, (band, centre / 1000, width / 1000, gsd_m), strict=True))
        for band, (centre, width, gsd_m) in rows
    ]
    return item


def _describe_input(model: Any) -> dict[str, Any]:
    """Describe the images that a model takes, and how they come of reflectance."""
    contract, side = model.contract, model.contract.image_size
    shape, axes = [-1, len(contract.bands), side, side], ["batch", "channel", *_GRID]
    if isinstance(model, ChangeModel):
        shape, axes = [-1, 2, *shape[1:]], ["batch", "time", *axes[1:]]
    scaling: list[dict[str, Any]] = [_OWN_SCALING]
    if contract.scaling in _STAC_SCALINGS:
        kind, keys = _STAC_SCALINGS[contract.scaling]
        columns = [contract.statistics.column(k, contract.bands) for k in keys.values()]
        rows = zip(*(each.ravel().tolist() for each in columns), strict=True)
        scaling = [{"type": kind} | dict(zip(keys, row, strict=True)) for row in rows]
    return {
        "name": "images",
        "description": f"Reflectance, about 0 to 1, after {contract.scaling} scaling.",
        "bands": list(contract.band_names),
        "input": {"shape": shape, "dim_order": axes, "data_type": "float32"},
        "value_scaling": scaling,
        "resize_type": None,
    }


def _describe_output(model: Any) -> dict[str, Any]:
    """Describe what a model gives: classes, numbers, or features of its encoder."""
    names, size = model.notes.get("class_names"), [model.contract.image_size] * 2
    encoder = getattr(model, "encoder", model)
    shape = [-1, encoder.groups, -1, -1, encoder.embed_dim]
    axes = ["batch", "band-group", *_GRID, "feature"]
    if names:
        shape, axes = [-1, len(names)], ["batch", "class"]
        if isinstance(model, DenseModel):
            shape, axes = [*shape, *size], [*axes, *_GRID]
    result = {"shape": shape, "dim_order": axes, "data_type": "float32"}
    if not names or isinstance(model, RegressionModel):
        return {"name": names[0] if names else "features", "result": result}
    # The extension's own library, stac-model 0.7, refuses classes with titles.
    classes = [
        {"description": each.pop("title")} | each
        for each in describe_classes(list(class_colours(names).items()))
    ]
    return {"name": "logits", "result": result, "classification:classes": classes}


def upload(model: nn.Module, name: str | Path, facts: Mapping[str, Any]) -> Upload:
    """Get a model ready; `save_pretrained` and `push_to_hub` of the result send it."""
    made = Upload()
    made.model, made.facts, made.repo = model, facts, str(name)
    return made


def save(model: nn.Module, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write a model's files and card; a README that is no card of ours is kept.

    Raises:
        OutputError: they cannot be written.
        CheckpointError: see `save_model`.
    """
    make_folder(folder)
    card = folder / "README.md"
    # The mixin keeps what is there: a card of ours may be of another model.
    if card.is_file() and _OURS in card.read_text(encoding="utf-8", errors="replace"):
        card.unlink()
    upload(model, folder.name, facts).save_pretrained(folder)
    return folder


def push(model: nn.Module, repo: str, facts: Mapping[str, Any], **options: Any) -> str:
    """Send a model to the Hub; returns the address of the commit.

    Raises:
        OutputError: the Hub does not take it.
        CheckpointError: see `save_model`.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(upload(model, repo, facts).push_to_hub(repo, **options))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise OutputError(
            f"{repo} was not sent to the Hugging Face Hub: {str(error).splitlines()[0]}"
        ) from error


def find(kind: type[nn.Module], name: str | Path, revision: str | None) -> nn.Module:
    """Load a model of a class, or the encoder in it, in evaluation mode.

    Raises:
        CheckpointError: there is none, or it is of another class.
    """
    loaded = load_model(name, revision=revision)
    for found in (loaded.model, loaded.encoder):
        if isinstance(found, kind):
            return found
    raise CheckpointError(
        f"{name} holds a {type(loaded.model).__name__}, no {kind.__name__}."
    )
