"""The comparison uses the split it states, and clusters get the names they earn."""

import numpy as np

from spectralgpt.demo import run
from spectralgpt.demo.imagery import CellLabels
from spectralgpt.sensors import load_sensor

BANDS = load_sensor("sentinel-2-l2a").select(["B03", "B04", "B08"])


def scene() -> tuple[np.ndarray, CellLabels]:
    """Half water, half forest, with embeddings that tell them apart."""
    generator = np.random.default_rng(0)
    truth = np.zeros((12, 12), dtype=np.int64)
    truth[:, 6:] = 1
    cells = generator.normal(0, 0.1, (12, 12, 4)).astype(np.float32)
    cells[..., 0] += truth
    classes = np.where(generator.random(truth.shape) < 0.5, truth, -1)
    split = np.where(classes < 0, "", "train")
    split[4:6][classes[4:6] >= 0] = "val"
    split[6:][classes[6:] >= 0] = "test"
    return cells, CellLabels(("water", "forest"), classes, classes, split)


def test_means_are_over_the_pixels_of_a_cell() -> None:
    pixels = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    np.testing.assert_allclose(
        run._mean_spectra(pixels, 4)[..., 0], [[13.5, 17.5], [45.5, 49.5]]
    )


def test_class_map_finds_separable_classes() -> None:
    cells, labels = scene()
    found = run._map_classes(labels, cells)
    assert (found[:, :6] == 0).mean() > 0.95
    assert (found[:, 6:] == 1).mean() > 0.95


def test_test_labels_do_not_reach_the_class_map() -> None:
    cells, labels = scene()
    wrong = labels.classes.copy()
    wrong[labels.split == "test"] = 1 - wrong[labels.split == "test"]
    swapped = CellLabels(labels.class_names, wrong, wrong, labels.split)
    np.testing.assert_array_equal(
        run._map_classes(labels, cells), run._map_classes(swapped, cells)
    )


def test_clusters_are_named_by_the_labels_in_them() -> None:
    cells, labels = scene()
    cells *= 100
    spectra = np.full((12, 12, 3), 0.1, np.float32)
    index, names = run._find_clusters(cells, spectra, BANDS, labels, seed=0)
    sizes = np.bincount(index.ravel())
    assert sizes.tolist() == sorted(sizes, reverse=True)
    for number, name in enumerate(names):
        known = labels.classes[(index == number) & (labels.classes >= 0)]
        if known.size:
            most = labels.class_names[np.bincount(known).argmax()]
            assert f"{most} in {np.bincount(known).max()} of {known.size}" in name


def test_clusters_without_labels_tell_their_greenness() -> None:
    cells, _ = scene()
    spectra = np.full((12, 12, 3), 0.1, np.float32)
    spectra[..., 2] = 0.3
    _, names = run._find_clusters(cells, spectra, BANDS, None, seed=0)
    assert all("NDVI 0.50" in name for name in names)
