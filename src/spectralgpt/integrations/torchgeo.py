"""Our named weights and labelled data as TorchGeo knows them; importing tells TorchGeo.

Samples are dictionaries of `image`, reflectance (C, H, W) in a model's bands, and
`label` or `mask`. Pixels without data hold the mean of their band; where a mask has no
label it is `IGNORE`.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spectralgpt.checkpoints import load_model
from spectralgpt.config import build_config, read_mapping
from spectralgpt.data.datasets import (
    DenseAugmentationConfig,
    DenseDataset,
    LabelledDataset,
)
from spectralgpt.data.dense.config import DenseDataConfig, read_dense_config
from spectralgpt.data.dense.sets import read_dense
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.samples import LABEL_TASKS, SPLITS, SampleSet
from spectralgpt.errors import ConfigError, UnitError, require
from spectralgpt.integrations import BRIGHTEST, open_backbone
from spectralgpt.preprocessing import BandStatistics, Preprocessing
from spectralgpt.sensors import find_sensor
from spectralgpt.threads import start_worker
from spectralgpt.weights import list_weights

require("lightning", "timm", "torchvision")
import timm  # noqa: E402
from lightning import LightningDataModule  # noqa: E402
from torchvision.models._api import Weights, WeightsEnum  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
_Item = dict[str, Tensor]
_Images = TypeVar("_Images", Tensor, _Item)
_TINY_S2, _BASE = "spectralgpt_tiny_s2", "spectralgpt_base"
_COLOURS_NM = (665.0, 560.0, 490.0)
_WHITE = 0.3  # Reflectance.


class _AsTorchGeo(Dataset[_Item]):
    """See `as_torchgeo`."""

    def __init__(
        self,
        items: LabelledDataset | DenseDataset,
        augments: bool,
        transforms: Callable[[_Item], _Item] | None,
    ) -> None:
        self.items, self.augments, self.transforms = items, augments, transforms
        self.classes = list(items.sample_set.class_names)
        has_labels = items.sample_set.task in LABEL_TASKS
        self.target = "label" if has_labels else "mask"

    def __len__(self) -> int:
        """Return the number of images, or windows of images."""
        return len(self.items)

    def __getitem__(self, index: int) -> _Item:
        """Return `image` and `label` or `mask`."""
        if self.augments:
            # Of torch's generator, which seeds and workers set.
            seed = int(torch.randint(2**62, ()))
            item = self.items.draw(index, torch.Generator().manual_seed(seed))
        else:
            item = self.items[index]
        item = {"image": item["image"], self.target: item["target"]}
        return item if self.transforms is None else self.transforms(item)

    def plot(self, sample: _Item, suptitle: str | None = None) -> "Figure":
        """Draw a sample in true colour beside its mask and `prediction`, if any."""
        from matplotlib.figure import Figure

        centres = torch.tensor(self.items.preprocessing.wavelengths_nm)
        visible = [int((centres - each).abs().argmin()) for each in _COLOURS_NM]
        first = sample["image"] if sample["image"].ndim == 3 else sample["image"][0]
        image = first[visible]
        panels = {"image": (image / _WHITE).clamp(0, 1).permute(1, 2, 0).float()}
        for name in ("mask", "prediction"):
            if name in sample and sample[name].ndim == 2:
                panels[name] = sample[name]
        figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
        for name, each in panels.items():
            axes = figure.add_subplot(1, len(panels), 1 + list(panels).index(name))
            axes.imshow(each.cpu().numpy(), vmin=0, vmax=max(1, len(self.classes) - 1))
            axes.set_title(name)
            axes.axis("off")
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure


def as_torchgeo(
    samples: SampleSet,
    preprocessing: Preprocessing,
    *,
    augments: bool = False,
    transforms: Callable[[_Item], _Item] | None = None,
) -> Dataset[_Item]:
    """Return samples as a data set in TorchGeo's convention.

    Args:
        samples: of one split or all, see `read_labelled` and `read_dense`.
        preprocessing: contract of the model: its bands and image size are taken; images
            are not scaled, which is left to the model.
        augments: flip and turn images at random, and crop those with masks.
        transforms: applied to each sample.

    Returns:
        Samples `{"image": (C, H, W), "label": () or (classes,)}`, or with a `mask` (H,
        W): class indices, or numbers for regression. Pairs have images (2, C, H, W).
    """
    names = preprocessing.band_names
    zeros, ones = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    # From 0 to 1: reflectance as it is.
    flat = BandStatistics(mean=zeros, std=ones, low=zeros, high=ones)
    contract = replace(preprocessing, scaling="fixed-range", statistics=flat, others=())
    items: LabelledDataset | DenseDataset
    if samples.task in LABEL_TASKS:
        items = LabelledDataset(samples, contract, flip=augments)
    else:
        items = DenseDataset(
            samples, contract, DenseAugmentationConfig() if augments else None
        )
    return _AsTorchGeo(items, augments, transforms)


class SampleDataModule(LightningDataModule):
    """Our labelled data for tasks of TorchGeo and TerraTorch.

    Args:
        labels: images with labels: settings of `LabelledDataConfig`, or a YAML file of
            them.
        masks: images with masks, likewise of `DenseDataConfig`. One of both is given.
        weights: the model whose bands and image size images take.
        sensor: one of the sensors of the weights; None is the first.
        image_size: side in px; None is that of the weights.
        batch_size: images at once.
        num_workers: processes that read.

    Raises:
        ConfigError: labels and masks are both given, or neither.
    """

    def __init__(
        self,
        labels: str | Path | dict[str, Any] | None = None,
        masks: str | Path | dict[str, Any] | None = None,
        weights: str = "spectralgpt-tiny-s2",
        sensor: str | None = None,
        image_size: int | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if (labels is None) == (masks is None):
            raise ConfigError("data needs labels or masks: give one of both.")
        self.labels, self.masks = labels, masks
        self.weights, self.sensor, self.image_size = weights, sensor, image_size
        self.batch_size, self.num_workers = batch_size, num_workers
        # Under the names that tasks of TerraTorch look for.
        self.train_dataset: Dataset[_Item] | None = None
        self.val_dataset: Dataset[_Item] | None = None
        self.test_dataset: Dataset[_Item] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find images and split them, once."""
        if self.train_dataset is not None:
            return
        contract = load_model(self.weights, sensor=self.sensor).preprocessing
        if contract is None:
            raise ConfigError(f"{self.weights} does not say what images it takes.")
        contract = contract.for_images(self.image_size)
        samples = self._read(contract)
        self.train_dataset, self.val_dataset, self.test_dataset = (
            as_torchgeo(samples.select(split), contract, augments=split == "train")
            for split in SPLITS
        )

    def _read(self, contract: Preprocessing) -> SampleSet:
        assumed = contract.unstated
        if self.masks is not None:
            if isinstance(self.masks, Mapping):
                dense = build_config(self.masks, DenseDataConfig, "masks")
            else:
                dense = read_dense_config(self.masks)
            return read_dense(dense, assumed=assumed)
        assert self.labels is not None, "the constructor checks this"
        values, where = self.labels, "labels"
        if not isinstance(values, Mapping):
            values, where = read_mapping(Path(values)), str(values)
        return read_labelled(
            build_config(values, LabelledDataConfig, where), assumed=assumed
        )

    def _loader(
        self, dataset: Dataset[_Item] | None, shuffle: bool = False
    ) -> DataLoader[_Item]:
        assert dataset is not None, "Lightning calls setup first"
        return DataLoader(
            dataset,
            self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            worker_init_fn=start_worker,
        )

    def train_dataloader(self) -> DataLoader[_Item]:
        """Return the training images, shuffled and augmented."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[_Item]:
        """Return the validation images."""
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader[_Item]:
        """Return the test images."""
        return self._loader(self.test_dataset)


def to_reflectance(
    images: _Images, sensor: str = "sentinel-2-l2a", offset: float | None = None
) -> _Images:
    """Turn digital numbers, as TorchGeo's data sets hold them, into reflectance.

    That is all that is done before a model of ours, which scales reflectance itself.

    Args:
        images: (..., C, H, W), or a sample whose `image` that is.
        sensor: whose digital numbers they are.
        offset: added to them; None is what holds for products without a newer one. Of
            Sentinel-2 it is 0, and -1000 since January 2022 (baseline 04.00).

    Returns:
        The same in reflectance, NaN where nothing was measured or it was too bright.

    Raises:
        UnitError: they are reflectance already.
        ConfigError: each product of the sensor states its own scale.
    """
    if not isinstance(images, Tensor):
        return {**images, "image": to_reflectance(images["image"], sensor, offset)}
    known = find_sensor(sensor)
    if known.quantification is None:
        raise ConfigError(f"products of {sensor} state their own scale.")
    numbers = images.float()
    most = float(numbers.nan_to_num().max()) if numbers.numel() else 0.0
    if 0 < most <= BRIGHTEST:
        raise UnitError(
            f"images reach {most:.4g}, so they are reflectance, or were scaled: leave "
            "out the weights' transforms, which take digital numbers."
        )
    added = known.offset if offset is None else offset
    reflectance = (numbers + added) / known.quantification
    for code in (known.nodata, known.saturated):
        if code is not None:
            reflectance[numbers == code] = torch.nan
    return reflectance


def _entry(name: str, model: str) -> Weights:
    """Say of named weights what the table says, and which builder takes them."""
    named = list_weights()[name]
    takes = named.contract
    return Weights(
        url=named.url,
        transforms=partial(to_reflectance, sensor=takes["sensor"]),
        meta={
            "model": model,
            "weights": name,
            "title": named.title,
            "bands": list(takes["band_names"]),
            "in_chans": len(takes["band_names"]),
            "sensor": takes["sensor"],
            "unit": "reflectance",
            "image_size": takes["image_size"],
            "licence": named.licence,
            "citation": named.citation,
            "source": named.source,
        },
    )


class SpectralGPT_Weights(WeightsEnum):  # type: ignore[misc]  # noqa: N801 (theirs)
    """The weights of `spectralgpt weights list`, as TorchGeo describes weights.

    `url` is None for those that ship with the package. `transforms` is
    `to_reflectance`: digital numbers in, what the model takes out.
    """

    SPECTRALGPT_TINY_S2 = _entry("spectralgpt-tiny-s2", _TINY_S2)
    SPECTRALGPT = _entry("SpectralGPT", _BASE)
    SPECTRALGPT_PLUS = _entry("SpectralGPT+", _BASE)

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the state of the `Backbone` that the model's builder gives.

        It is read as `load_model` reads it, so that nothing is unpickled; arguments are
        those of torch.hub, which is not asked.
        """
        return open_backbone(self.meta["weights"]).state_dict()


def spectralgpt_tiny_s2(
    weights: SpectralGPT_Weights | str | None = None, **settings: Any
) -> nn.Module:
    """Build the encoder that ships with the package, for reflectance.

    Args:
        weights: `SpectralGPT_Weights.SPECTRALGPT_TINY_S2`, or that as text.
        **settings: what `timm.create_model("spectralgpt")` takes: num_classes, img_size
            in px, features_only, ...

    Raises:
        ConfigError: there are no weights, or those of another model.
    """
    return _create(_TINY_S2, "spectralgpt", weights, settings)


def spectralgpt_base(
    weights: SpectralGPT_Weights | str | None = None, **settings: Any
) -> nn.Module:
    """Build the published encoder for reflectance, or one with random weights.

    Args:
        weights: `SpectralGPT_Weights.SPECTRALGPT` or `SPECTRALGPT_PLUS`, or that as
            text, which is downloaded if need be; None gives random weights that take
            images as they are.
        **settings: what `timm.create_model("spectralgpt_base")` takes.

    Raises:
        ConfigError: these are the weights of another model.
        CheckpointError: they cannot be downloaded.
    """
    return _create(_BASE, _BASE, weights, settings)


def _create(
    model: str,
    known_as: str,
    weights: SpectralGPT_Weights | str | None,
    settings: Mapping[str, Any],
) -> nn.Module:
    """Let timm build a model of ours; see `spectralgpt_base`."""
    listed = SpectralGPT_Weights.__members__.values()
    own = {str(each): each for each in listed if each.meta["model"] == model}
    if weights is not None:
        entry = own.get(str(weights))
        if entry is None:
            raise ConfigError(f"{model} has no weights {weights}: {', '.join(own)}.")
        settings = {**settings, "weights": entry.meta["weights"]}
    built: nn.Module = timm.create_model(known_as, **settings)
    return built


def _tell_torchgeo() -> None:
    """Let TorchGeo find our models by name; names that it has stay its own."""
    if find_spec("torchgeo") is None:
        return
    api: object = None
    with suppress(ImportError):
        from torchgeo.models import api
    # Private, but there is no other way in.
    models, weights = (getattr(api, n, None) for n in ("_model", "_model_weights"))
    if not (isinstance(models, dict) and isinstance(weights, dict)):
        _log.warning(
            "TorchGeo's tables of models are not what they were, so its get_model does "
            "not find ours: build them with the functions of %s.",
            __name__,
        )
        return
    for builder in (spectralgpt_tiny_s2, spectralgpt_base):
        if models.setdefault(builder.__name__, builder) is builder:
            weights[builder.__name__] = weights[builder] = SpectralGPT_Weights


_tell_torchgeo()
