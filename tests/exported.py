"""Models to export, as a user would have them."""

import torch

from spectralgpt.building import add_windows
from spectralgpt.checkpoints import LoadedModel
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    Scaling,
    sensor_preprocessing,
)
from tests.tiny import tiny_encoder, tiny_model

CLASSES = ("field", "forest", "water")


def contract(scaling: Scaling = "image-minmax") -> Preprocessing:
    """Twelve bands with statistics that differ from band to band."""
    plain = sensor_preprocessing("sentinel-2-l1c", exclude=("B10",), image_size=32)
    numbers = {name: 0.1 + 0.02 * i for i, name in enumerate(plain.band_names)}
    statistics = BandStatistics(
        mean=numbers,
        std={name: value / 3 for name, value in numbers.items()},
        low={name: value / 4 for name, value in numbers.items()},
        high={name: 2 * value for name, value in numbers.items()},
    )
    return sensor_preprocessing(
        "sentinel-2-l1c",
        exclude=("B10",),
        image_size=32,
        scaling=scaling,
        statistics=None if scaling == "image-minmax" else statistics,
    )


def loaded(kind: str, scaling: Scaling = "z-score") -> LoadedModel:
    """A tiny model of a kind: autoencoder, encoder, classifier, or a head for maps.

    A windowed classifier has the attention `rvsa`.
    """
    encoder = tiny_encoder()
    torch.manual_seed(1)
    # Class logits that differ from class to class, as of a trained head.
    if kind == "classifier":
        model = ClassificationModel(encoder, len(CLASSES), pooling="groups")
        torch.nn.init.normal_(model.head.weight, std=0.1)
    elif kind == "change":
        model = ChangeModel(encoder, len(CLASSES), pixel_detail=True)
    elif kind == "regression":
        model = RegressionModel(encoder, 1, "fpn", pixel_detail=True)
        model.target_mean.fill_(20.0)
        model.target_std.fill_(7.0)
        torch.nn.init.normal_(model.detail.classifier.weight)
        extra = {"task": kind, "class_names": ["height"]}
        extra["target"] = {"unit": "m", "range": None, "edges": [10.0, 20.0]}
        return LoadedModel(model.eval(), contract(scaling), extra)
    elif kind == "windowed":
        encoder = add_windows(encoder, 3)
        for name, parameter in encoder.named_parameters():
            if "sampling" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model = ClassificationModel(encoder, len(CLASSES), pooling="groups")
        torch.nn.init.normal_(model.head.weight, std=0.1)
    elif kind in ("upernet", "fpn", "linear"):
        model = SegmentationModel(encoder, len(CLASSES), kind)
    else:
        bare = LoadedModel(tiny_model() if kind == "autoencoder" else encoder, None)
        return LoadedModel(bare.model.eval(), contract(scaling))
    tasks = {"classifier": "single-label", "windowed": "single-label"}
    task = (tasks | {"change": "change"}).get(kind, "segmentation")
    extra = {"task": task, "class_names": list(CLASSES), "config": {"root": "/home/me"}}
    return LoadedModel(model.eval(), contract(scaling), extra)
