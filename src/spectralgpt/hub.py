"""Models in the form of the Hugging Face Hub: weights, configuration and a card.

`Pretrained`, which all models are, leads here from `save_pretrained`, `push_to_hub` and
`from_pretrained`. Weights are those of `save_model`: safetensors, and nothing pickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
from torch import nn

from spectralgpt import __version__
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, OutputError
from spectralgpt.files import make_folder

_OURS = "library_name: spectralgpt"
_TEMPLATE = Path(__file__).with_name("hub_card.md")
_PIPELINES = {
    "single-label": "image-classification",
    "multi-label": "image-classification",
    "segmentation": "image-segmentation",
    "change": "image-segmentation",
}
"""What the Hub calls our tasks."""


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
