"""Features of the encoder, and of what learned nothing, are those that are named."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectralgpt.data.datasets import LabelledDataset
from spectralgpt.data.labelled import LabelledDataConfig, read_labelled
from spectralgpt.data.samples import SPLITS
from spectralgpt.tasks.probes import Features, predict_linear
from spectralgpt.training import comparison
from spectralgpt.training.comparison import (
    band_statistics,
    choose_head,
    probe,
    random_encoder,
)
from tests.tiny import tiny_contract, tiny_model
from tests.toy import SENSOR, write_archive


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LabelledDataset:
    root = write_archive(tmp_path_factory.mktemp("archive"), per_class=12)
    config = LabelledDataConfig(root=str(root), sensor=SENSOR, offset=0.0)
    return LabelledDataset(read_labelled(config), tiny_contract())


def test_encoder_features_are_the_means_of_each_band_groups_normed_tokens(
    dataset: LabelledDataset,
) -> None:
    encoder = tiny_model().encoder
    features = comparison.extract_features(encoder, dataset, batch_size=5)
    image = dataset[7]["image"]
    with torch.no_grad():
        tokens = encoder.eval()(image[None])[0]  # (G, Hp, Wp, D)
    expected = torch.cat([group.mean(dim=(0, 1)) for group in tokens])
    np.testing.assert_allclose(features.values[7], expected.numpy(), atol=1e-5)
    assert torch.equal(features.targets, dataset.sample_set.targets())


def test_probe_learns_the_archive_from_an_encoder(dataset: LabelledDataset) -> None:
    features = comparison.extract_features(tiny_model().encoder, dataset)
    splits = [c.split for c in dataset.sample_set.samples]
    train, val, test = (
        features.take(np.array([i for i, s in enumerate(splits) if s == name]))
        for name in ("train", "val", "test")
    )
    found = predict_linear(train, val, test)
    assert (found.argmax(dim=1) == test.targets).float().mean() > 0.8


def test_band_statistics_are_those_of_reflectance(dataset: LabelledDataset) -> None:
    found = band_statistics(dataset).values[3]
    pixels = dataset.raster(3).pixels[2]
    expected = [
        pixels.mean(),
        pixels.std(),
        *np.percentile(pixels, (5, 25, 50, 75, 95)),
    ]
    np.testing.assert_allclose(found[14:21], expected, rtol=1e-4)


@pytest.mark.parametrize("mode", ["gaussian", "empirical"])
def test_random_convolutions_follow_their_seed(
    dataset: LabelledDataset, mode: str
) -> None:
    train = np.arange(10)
    first, again, other = (
        comparison._random_convolutions(
            dataset, train, seed=seed, mode=mode, num_features=8
        )
        for seed in (0, 0, 1)
    )
    assert first.values.shape == (len(dataset), 8)
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.allclose(first.values, other.values)


def test_random_encoder_is_seeded_and_leaves_the_global_state() -> None:
    encoder, state = tiny_model().encoder, torch.get_rng_state()
    first, again, other = (random_encoder(encoder, seed) for seed in (0, 0, 1))
    weights = [e.embedding.state_dict() for e in (first, again, other)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
    assert any(not torch.equal(v, weights[2][n]) for n, v in weights[0].items())
    assert torch.equal(torch.get_rng_state(), state)
    assert first.config == encoder.config


def test_auto_takes_the_head_that_is_best_on_val_and_never_sees_test(
    dataset: LabelledDataset,
) -> None:
    named = dataset.sample_set  # of three classes
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (600, 2)).astype(np.float32)
    parts = np.split(np.arange(600), [300, 400])
    split = dict(zip(SPLITS, parts, strict=True))

    def classes_of(amount: NDArray[np.float32]) -> Features:
        edges = np.quantile(amount, (1 / 3, 2 / 3))
        return Features(values, torch.from_numpy(np.digitize(amount, edges)), 3)

    rings = classes_of((values**2).sum(axis=1))
    curved = choose_head(rings, split, named, "auto")
    assert curved in ("knn", "forest")
    auto = probe(rings, split, named, "auto").summary
    assert auto == probe(rings, split, named, curved).summary
    assert auto["accuracy"] > 0.8

    stripes = classes_of(values.sum(axis=1))
    chosen = choose_head(stripes, split, named, "auto")
    stripes.targets[parts[2]] = 0
    assert choose_head(stripes, split, named, "auto") == chosen
    assert choose_head(stripes, split, named, "knn") == "knn"
