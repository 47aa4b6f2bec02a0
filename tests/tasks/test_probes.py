import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralgpt.errors import CheckpointError, ConfigError, DataError
from spectralgpt.tasks.probes import (
    HEADS,
    Features,
    ProbeHead,
    blocks_of,
    fit_probe,
    load_probe,
    predict_knn,
    predict_linear,
    predict_ridge,
    save_probe,
    score_by_blocks,
)

FACTS = {
    "class_names": ("a", "b", "c"),
    "colours": ("#000000",) * 3,
    "features": "embedding",
    "encoder": "one",
    "cell_px": 4,
    "bands": (),
}


def cells(classes: int = 3, number: int = 90) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    kinds = np.arange(number) % classes
    values = np.eye(classes, 6)[kinds] * 3 + rng.normal(0, 0.3, (number, 6))
    places = rng.uniform(0, 5000, (number, 2))
    return values.astype(np.float32), kinds, places


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_learns_what_can_be_told(classes: int) -> None:
    values, kinds, places = cells(classes)
    probe = fit_probe(values, kinds, np.arange(90), blocks_of(places, 1000))
    found = probe.probabilities(values)
    assert found.shape == (90, classes)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found.argmax(axis=1) == kinds).all()


def test_a_probe_equals_the_library_that_fitted_it() -> None:
    from sklearn.linear_model import LogisticRegression

    values, kinds, _places = cells()
    probe = fit_probe(values, kinds, np.arange(90), np.zeros(90, int))
    scaled = (values - probe.mean) / probe.scale
    model = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced")
    expected = model.fit(scaled, kinds).predict_proba(scaled)
    np.testing.assert_allclose(probe.probabilities(values), expected, atol=1e-4)


def test_a_forest_equals_the_library_that_grew_it() -> None:
    from sklearn.ensemble import RandomForestClassifier

    values, kinds, _places = cells()
    values += np.random.default_rng(1).normal(0, 2, values.shape)
    whole = (values, kinds, np.arange(90), np.zeros(90, int))
    probe = fit_probe(*whole, heads=("forest",))
    scaled = (values - probe.mean) / probe.scale
    forest = RandomForestClassifier(50, random_state=0)
    forest.fit(scaled, kinds, np.ones(90))
    others = np.random.default_rng(2).normal(0, 3, (40, 6)).astype(np.float32)
    expected = forest.predict_proba((others - probe.mean) / probe.scale)
    np.testing.assert_allclose(probe.probabilities(others), expected, atol=1e-5)


def test_what_tells_the_classes_is_chosen_on_blocks_that_are_held_out() -> None:
    values, kinds, places = cells()
    noise = np.random.default_rng(1).normal(0, 1, (90, 200)).astype(np.float32)
    both = np.concatenate([noise, values], axis=1)
    parts = {"embedding": slice(200), "reflectance": slice(200, None)}
    groups = blocks_of(places, 1000)
    probe = fit_probe(both, kinds, np.arange(90), groups, parts)
    assert probe.features == "reflectance"
    assert (probe.probabilities(values).argmax(axis=1) == kinds).all()
    scores = score_by_blocks(both, kinds, np.arange(90), places, 1000.0, parts)
    assert scores.accuracy == 1
    assert len(scores.chosen) == scores.folds
    assert all(choice.endswith("on reflectance") for choice in scores.chosen)
    # Each part alone, as if nothing else were there.
    worse = score_by_blocks(noise, kinds, np.arange(90), places, 1000.0)
    assert worse.accuracy < 0.6


def test_the_head_is_chosen_by_what_can_be_told_with_it() -> None:
    # One class within a ring of the other: no line parts them.
    rng = np.random.default_rng(0)
    angles, kinds = rng.uniform(0, 2 * np.pi, 200), np.arange(200) % 2
    radius = 1 + 2 * kinds + rng.normal(0, 0.2, 200)
    values = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    groups = blocks_of(rng.uniform(0, 5000, (200, 2)), 1000)
    whole = (values.astype(np.float32), kinds, np.arange(200), groups)
    probe = fit_probe(*whole, heads=HEADS)
    assert probe.head == "forest"
    assert str(probe) == "a random forest of 50 trees on embedding"


def test_held_out_blocks_tell_learning_from_remembering() -> None:
    rng = np.random.default_rng(1)
    kinds = np.repeat(np.arange(40) % 2, 5)
    shapes = np.repeat(np.arange(40), 5)
    places = rng.uniform(0, 20_000, (40, 2))
    # Each polygon has features of its own, which tell nothing of other polygons.
    values = rng.normal(0, 1, (40, 60))[shapes] + rng.normal(0, 0.01, (200, 60))
    scores = score_by_blocks(values.astype(np.float32), kinds, shapes, places, 1000.0)
    assert scores.accuracy < 0.75
    assert scores.confusion.sum() == 200
    assert scores.labels == 40


def test_scores_are_those_of_the_confusion_table() -> None:
    values, kinds, places = cells()
    scores = score_by_blocks(values, kinds, np.arange(90), places, 1000.0)
    assert scores.confusion.sum(axis=1).tolist() == [30, 30, 30]
    assert scores.accuracy == pytest.approx(np.trace(scores.confusion) / 90)
    assert scores.accuracy > 0.95
    assert scores.folds == 5


def test_a_polygon_weighs_as_much_as_a_point() -> None:
    values, kinds, places = cells()
    groups = np.zeros(90, int)
    once = fit_probe(values, kinds, np.arange(90), groups)
    again = np.repeat(np.arange(90), np.where(np.arange(90) == 7, 40, 1))
    many = fit_probe(values[again], kinds[again], again, groups[again])
    # Of other means, as 40 cells are the same, but the same told from the same.
    assert (many.probabilities(values) - once.probabilities(values)).max() < 0.1
    scores = score_by_blocks(values[again], kinds[again], again, places, 1000.0)
    assert scores.labels == 90
    assert scores.confusion.sum() == 129
    wrong = scores.confusion.sum() - np.trace(scores.confusion)
    assert scores.label_accuracy >= 1 - wrong / 90


def test_blocks_are_squares_on_the_ground() -> None:
    places = np.array([[0, 0], [999, 999], [1000, 0], [-1, 0]])
    assert len(set(blocks_of(places, 1000).tolist())) == 3
    assert blocks_of(places, 1000)[0] == blocks_of(places, 1000)[1]


def test_one_block_or_class_is_refused() -> None:
    values, kinds, places = cells()
    with pytest.raises(DataError, match="one block of 90000 m"):
        score_by_blocks(values, kinds, np.arange(90), places, 90_000.0)
    with pytest.raises(DataError, match="one class only"):
        fit_probe(values, np.zeros(90, int), np.arange(90), np.arange(90))


def test_a_block_whose_labels_were_left_out_is_no_block() -> None:
    values, kinds, _ = cells()
    centres = np.array([(1000.0 * number, 0) for number in range(5)])
    shapes = np.array([0, 1, 3, 4])[np.arange(90) % 4]  # the third has no cell
    assert score_by_blocks(values, kinds, shapes, centres, 1000.0).folds == 4


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_probe_gives_the_same_numbers(head: ProbeHead, tmp_path: Path) -> None:
    values, kinds, places = cells()
    groups = blocks_of(places, 1000)
    probe = fit_probe(values, kinds, np.arange(90), groups, heads=(head,))
    found = probe.probabilities(values.reshape(9, 10, 6))
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert (found.argmax(axis=-1).ravel() == kinds).all()
    path = save_probe(tmp_path / "probe.safetensors", replace(probe, **FACTS))
    again = load_probe(path)
    assert {name: getattr(again, name) for name in FACTS} == FACTS
    assert str(again) == str(probe)
    assert np.array_equal(again.probabilities(values), found.reshape(90, 3))


def test_a_probe_of_an_earlier_version_is_linear(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    values, kinds, places = cells()
    probe = fit_probe(values, kinds, np.arange(90), blocks_of(places, 1000))
    path = save_probe(tmp_path / "probe.safetensors", replace(probe, **FACTS))
    with safe_open(path, framework="numpy") as opened:
        facts = json.loads(opened.metadata()["probe"])
        tables = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del facts["head"], facts["setting"]
    save_file(tables, path, {"probe": json.dumps(facts)})
    again = load_probe(path)
    assert np.array_equal(again.probabilities(values), probe.probabilities(values))


@pytest.mark.parametrize(
    ("name", "value"), [("left", 0), ("right", 10**6), ("feature", 6), ("roots", -1)]
)
def test_a_damaged_forest_is_refused(name: str, value: int, tmp_path: Path) -> None:
    values, kinds, _places = cells()
    whole = (values, kinds, np.arange(90), np.zeros(90, int))
    probe = fit_probe(*whole, heads=("forest",))
    tables = {**probe.tables, name: probe.tables[name].copy()}
    tables[name][0] = value
    path = save_probe(tmp_path / "a", replace(probe, **FACTS, tables=tables))
    with pytest.raises(CheckpointError, match="its trees are damaged"):
        load_probe(path)


def test_files_that_are_no_probe_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(CheckpointError, match="no probe at"):
        load_probe(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    save_file({"mean": np.zeros(3)}, tmp_path / "other")
    values, kinds, places = cells(2)
    probe = fit_probe(values, kinds, np.arange(90), blocks_of(places, 1000))
    save_probe(tmp_path / "unfit", replace(probe, **FACTS))
    for name in ("text", "other", "unfit"):
        with pytest.raises(CheckpointError, match="is no probe"):
            load_probe(tmp_path / name)


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
    with pytest.raises(ConfigError, match="k is 0; it must be"):
        predict_knn(one, one, k=0)
