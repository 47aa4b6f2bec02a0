import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spectralgpt.data.crops import CropConfig
from spectralgpt.data.pretraining import PretrainingDataset
from spectralgpt.data.series import Series, SeriesRule
from spectralgpt.data.sources import find_series, read_source
from spectralgpt.errors import ConfigError, DataError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import (
    BandStatistics,
    Preprocessing,
    sensor_preprocessing,
)
from spectralgpt.rasters import Stated, describe_raster
from spectralgpt.tasks.pretraining import PretrainingTask, score_reconstructions
from spectralgpt.training.loading import KeyedDataset, SampleKey
from tests.raster_files import LEFT, S2_L2A, TOP, write_tiff
from tests.tiny import tiny_model

PROJECT = Path(__file__).resolve().parents[2]


def contract(size: int = 16) -> Preprocessing:
    """0..1 is reflectance 0..1, so that pixels can be told from each other."""
    same = {value: dict.fromkeys(S2_L2A, float(value)) for value in (0, 1)}
    statistics = BandStatistics(same[0], same[1], same[0], same[1])
    return sensor_preprocessing(
        "sentinel-2-l2a",
        image_size=size,
        scaling="fixed-range",
        statistics=statistics,
    )


def write_series(
    folder: Path,
    name: str,
    dates: int,
    drawn: int = 2,
    side: int = 40,
    **profile: Any,
) -> Series:
    """Date t of a place holds row + column / 10 + 50 t, over 100, as reflectance."""
    rows, columns = np.indices((side, side))
    items = []
    for date in range(dates):
        values = rows + columns / 10 + 50 * date
        pixels = np.repeat(values[None] * 100 + 1, len(S2_L2A), 0).astype(np.uint16)
        path = folder / name / f"{date}.tif"
        write_tiff(path, pixels, descriptions=S2_L2A, **profile)
        item = describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
        items.append(replace(item, place=name))
    return Series(
        tuple(items),
        tuple(18_000.0 + 10 * date for date in range(dates)),
        SeriesRule(drawn),
    )


def keep_all(**changes: Any) -> CropConfig:
    return CropConfig(**{"val_share": 0.0} | changes)


def draw(data: PretrainingDataset, index: int, seed: int) -> dict[str, Any]:
    return data.draw(index, torch.Generator().manual_seed(seed))


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one
    )


def test_dates_are_cut_by_one_window_and_turned_alike(tmp_path: Path) -> None:
    series = [write_series(tmp_path, "a", 3, 3)]
    crops = keep_all(vertical_flip=True)
    data = PretrainingDataset(series, contract(), crops=crops)
    turned = set()
    for seed in range(20):
        sample = draw(data, 0, seed)
        images = sample["images"]
        assert images.shape == sample["valid"].shape == (3, 12, 16, 16)
        assert images.dtype == torch.float32
        assert sample["valid"].dtype == torch.bool
        assert sample["days"].tolist() == [18_000, 18_010, 18_020]
        # Each date is 50 rows above the one before, in each pixel and band.
        torch.testing.assert_close(
            images[1:] - images[:-1],
            torch.full_like(images[1:], 0.5),
            atol=3e-4,
            rtol=0,
        )
        image = images[0, 0]
        turned.add((bool(image[1, 0] < image[0, 0]), bool(image[0, 1] < image[0, 0])))
    assert len(turned) == 4


def test_dates_are_drawn_without_replacement_and_sorted(tmp_path: Path) -> None:
    series = [write_series(tmp_path, "a", 4)]
    data = PretrainingDataset(series, contract(), crops=keep_all())
    drawn = set()
    for seed in range(60):
        sample = draw(data, 0, seed)
        days = tuple(sample["days"].tolist())
        assert days[0] < days[1]
        drawn.add(days)
        # The pixels are those of the days.
        gap = (sample["images"][1] - sample["images"][0]).mean()
        assert gap == pytest.approx((days[1] - days[0]) / 20, abs=1e-4)
    assert len(drawn) == 6


def test_sample_depends_on_index_and_generator_alone(tmp_path: Path) -> None:
    series = [write_series(tmp_path, name, 3) for name in "ab"]
    one = PretrainingDataset(series, contract(), crops=keep_all())
    two = pickle.loads(pickle.dumps(one))
    draw(two, 3, 99)
    for seed in (1, 2):
        assert same(draw(one, 2, seed), draw(two, 2, seed))
    assert not same(draw(one, 2, 3), draw(one, 2, 2))
    assert same(one[1], draw(one, 1, 1))


def test_validation_takes_fixed_windows_and_dates_of_other_places(
    tmp_path: Path,
) -> None:
    series = [write_series(tmp_path, f"place {i}", 3, side=16) for i in range(12)]
    crops = CropConfig(val_share=0.3)
    train, val = (
        PretrainingDataset(series, contract(), split, crops)
        for split in ("train", "val")
    )
    places = [
        {data.item_of(i).place for i in range(len(data))} for data in (train, val)
    ]
    assert places[0]
    assert places[1]
    assert not places[0] & places[1]
    assert same(draw(val, 0, 1), draw(val, 0, 2))
    days = [tuple(val[i]["days"].tolist()) for i in range(3)]
    assert days == [(18_000, 18_010), (18_010, 18_020), (18_000, 18_020)]


def test_unreadable_and_empty_dates_are_replaced_by_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = write_series(tmp_path, "a", 4)
    broken = series.items[1].files["B01"].path
    broken.write_bytes(broken.read_bytes()[:2000])
    empty = series.items[2].files["B01"].path
    write_tiff(empty, np.zeros((12, 40, 40), np.uint16), descriptions=S2_L2A)
    data = PretrainingDataset([series], contract(), crops=keep_all(), max_bad_share=0.5)
    with caplog.at_level(logging.WARNING):
        for seed in range(10):
            sample = draw(data, 0, seed)
            assert sample["days"].tolist() == [18_000, 18_030]
            assert sample["valid"].all()
    assert len([r for r in caplog.records if "1.tif" in r.getMessage()]) == 1


def test_too_few_usable_dates_are_padded_if_allowed(tmp_path: Path) -> None:
    series = write_series(tmp_path, "a", 3, 3)
    empty = series.items[0].files["B01"].path
    write_tiff(empty, np.zeros((12, 40, 40), np.uint16), descriptions=S2_L2A)
    data = PretrainingDataset([series], contract(), crops=keep_all())
    with pytest.raises(DataError, match="too few usable dates of 3"):
        data[0]
    allowed = replace(series, rule=SeriesRule(3, at_least=2))
    sample = PretrainingDataset([allowed], contract(), crops=keep_all())[0]
    assert sample["days"][:2].tolist() == [18_010, 18_020]
    assert sample["days"][2].isnan()
    assert sample["valid"][:2].all()
    assert not sample["valid"][2].any()


def test_dates_that_lie_beside_each_other_are_not_mixed(tmp_path: Path) -> None:
    series = write_series(tmp_path, "a", 2)
    shifted = write_series(tmp_path, "b", 1, corner=(LEFT + 30, TOP))
    moved = Series(
        (*series.items, *shifted.items), (*series.days, 18_900.0), series.rule
    )
    data = PretrainingDataset([moved], contract(), crops=keep_all(), max_bad_share=0.4)
    for seed in range(20):
        assert draw(data, 0, seed)["days"].tolist() == [18_000, 18_010]
    assert list(data.bad) == [2]
    assert "b/0.tif does not lie on the first date" in data.bad[2]
    assert "up to 3.0 px apart" in data.bad[2]


def test_token_budget_counts_all_dates(tmp_path: Path) -> None:
    series = [write_series(tmp_path, "a", 2)]
    data = PretrainingDataset(series, contract(), crops=keep_all(), token_budget=16)
    # 16 tokens are 8 a date: two band groups of four positions.
    generator = torch.Generator().manual_seed(0)
    sample = data.draw(0, generator, batch_seed=5)
    assert sample["images"].shape == (2, 6, 16, 16)
    wanted = torch.tensor(data.contract_of(5).band_rows)
    assert torch.equal(sample["bands"], wanted)


def test_series_of_different_lengths_make_no_data_set(tmp_path: Path) -> None:
    series = [write_series(tmp_path, "a", 2), write_series(tmp_path, "b", 3, 3)]
    with pytest.raises(ConfigError, match="2 and 3 dates cannot make one data set"):
        PretrainingDataset(series, contract())


def load(shared: Path, name: str, size: int = 32) -> PretrainingDataset:
    source = read_source(PROJECT / "examples" / "series" / f"{name}.yaml")
    assert source.sensor is not None
    assert source.series is not None
    bands = sensor_preprocessing(
        source.sensor,
        exclude=("B10",) if source.sensor.endswith("l1c") else (),
        image_size=size,
    )
    series = find_series([source], shared / "data")
    crops = keep_all(max_invalid_share=0.5)
    return PretrainingDataset(series, bands, crops=crops)


def series_model() -> MaskedAutoencoder:
    model = tiny_model()
    model.add_date_embedding()
    return model


@pytest.mark.parametrize(
    "name",
    ["ssl4eo_s12_s2a", "ssl4eo_s12_s2c", "ravaen_worldfloods", "eolearn_testeopatch"],
)
def test_real_series_train(shared: Path, name: str) -> None:
    data = KeyedDataset(load(shared, name))
    samples = [data[SampleKey(index % len(data), index)] for index in range(4)]
    batch = torch.utils.data.default_collate(samples)
    dates = batch["images"].shape[1]
    assert dates == (2 if name.startswith("ssl4eo") else 3)
    model = series_model().train()
    task = PretrainingTask(model, 0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = task.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    learned = model.encoder.positions.dates.weight.abs().max() > 0  # type: ignore[union-attr]
    assert learned == (name != "eolearn_testeopatch")


def test_held_out_series_are_scored(shared: Path) -> None:
    data = KeyedDataset(load(shared, "ssl4eo_s12_s2a"))
    batch = torch.utils.data.default_collate([data[SampleKey(i, i)] for i in range(2)])
    model = series_model().eval()
    task = PretrainingTask(model, 0.5, "date")
    task.validate(batch)
    with torch.no_grad():
        output = task.forward(batch)
    # By hand: the whole of one date of each sample is masked.
    hidden = output.mask.reshape(2, 2, -1)[..., 0].bool()
    error = (model.reconstruct(output) - batch["images"])[hidden] ** 2
    assert task.metrics()["masked_error"] == pytest.approx(
        error.mean().item(), rel=1e-5
    )
    scores = score_reconstructions(PretrainingTask(model, 0.5), [batch])
    assert scores["images"] == 4
    assert 0 < scores["linear_space"] < scores["band_mean"]
