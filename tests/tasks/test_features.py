import numpy as np
import pytest
import torch

from spectralgpt.data.labelled import LabelledDataConfig, LabelledDataset, read_labelled
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.tasks.baselines import (
    band_statistics,
    random_convolutions,
    random_encoder,
)
from spectralgpt.tasks.features import (
    Features,
    extract_features,
    predict_knn,
    predict_linear,
    predict_ridge,
)
from tests.tiny import tiny_contract, tiny_model
from tests.toy import SENSOR, write_archive


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LabelledDataset:
    root = write_archive(tmp_path_factory.mktemp("archive"), per_class=12)
    config = LabelledDataConfig(root=str(root), sensor=SENSOR, offset=0.0)
    return LabelledDataset(read_labelled(config), tiny_contract())


def blobs(count: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, count)
    centres = 3 * np.eye(3, 5)
    values = centres[targets] + rng.normal(0, 0.7, (count, 5))
    # One feature in another unit must not drown the others.
    values[:, 4] *= 1e4
    return Features(values.astype(np.float32), torch.from_numpy(targets), 3)


def test_probe_and_neighbours_learn_separable_classes() -> None:
    train, val, test = blobs(90, 0), blobs(30, 1), blobs(200, 2)
    fitted = (
        predict_linear(train, val, test),
        predict_ridge(train, test),
        predict_knn(train, test),
    )
    for probabilities in fitted:
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(200))
        accuracy = (probabilities.argmax(dim=1) == test.targets).float().mean()
        assert accuracy > 0.9


def test_ridge_scores_rank_labels_of_their_own() -> None:
    train, test = blobs(90, 0), blobs(200, 2)
    labels = torch.nn.functional.one_hot(train.targets, 3).float()
    truth = torch.nn.functional.one_hot(test.targets, 3).bool()
    found = predict_ridge(Features(train.values, labels, 3), test)
    assert found.min() >= 0
    assert found.max() <= 1
    assert ((found > 0.5) == truth).float().mean() > 0.9


def test_one_neighbour_gives_the_label_of_the_most_alike() -> None:
    train, test = blobs(60, 0), blobs(20, 2)
    mean, std = train.values.mean(axis=0), train.values.std(axis=0)
    a, b = ((f.values - mean) / std for f in (test, train))
    cosine = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    expected = train.targets[torch.from_numpy(cosine.argmax(axis=1))]
    assert torch.equal(predict_knn(train, test, k=1).argmax(dim=1), expected)


def test_multi_label_probe_handles_labels_that_never_or_always_occur() -> None:
    train, val, test = blobs(90, 0), blobs(30, 1), blobs(100, 2)

    def multi(features: Features) -> Features:
        present = torch.eye(3)[features.targets]
        ends = torch.tensor([0.0, 1.0]).expand(len(present), 2)
        return Features(features.values, torch.cat([present, ends], dim=1), 5)

    found = predict_linear(multi(train), multi(val), multi(test))
    assert torch.equal(found[:, 3], torch.zeros(100))
    assert torch.equal(found[:, 4], torch.ones(100))
    assert (found[:, :3].argmax(dim=1) == test.targets).float().mean() > 0.9
    neighbours = predict_knn(multi(train), multi(test))
    assert (neighbours[:, :3].argmax(dim=1) == test.targets).float().mean() > 0.9


def test_a_class_missing_from_train_gets_no_probability() -> None:
    train, test = blobs(60, 0), blobs(20, 2)
    kept = train.take(np.flatnonzero(train.targets.numpy() != 1))
    assert torch.equal(predict_linear(kept, kept, test)[:, 1], torch.zeros(20))


def test_unusable_features_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        Features(np.full((2, 2), np.nan, np.float32), torch.zeros(2).long(), 2)
    one = blobs(60, 0).take(np.flatnonzero(blobs(60, 0).targets.numpy() == 1))
    with pytest.raises(DataError, match="one class only"):
        predict_linear(one, one, one)
    with pytest.raises(ConfigError, match="k must be"):
        predict_knn(one, one, k=0)


def test_encoder_features_are_the_means_of_each_band_groups_normed_tokens(
    dataset: LabelledDataset,
) -> None:
    encoder = tiny_model().encoder
    features = extract_features(encoder, dataset, batch_size=5)
    image = dataset[7]["image"]
    with torch.no_grad():
        tokens = encoder.eval()(image[None])[0]  # (G, Hp, Wp, D)
    expected = torch.cat([group.mean(dim=(0, 1)) for group in tokens])
    np.testing.assert_allclose(features.values[7], expected.numpy(), atol=1e-5)
    assert torch.equal(features.targets, dataset.labelled.targets())


def test_probe_learns_the_archive_from_an_encoder(dataset: LabelledDataset) -> None:
    features = extract_features(tiny_model().encoder, dataset)
    splits = [c.split for c in dataset.labelled.chips]
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
        random_convolutions(dataset, train, seed=seed, mode=mode, num_features=8)
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
