import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from spectralgpt.rasters import Window
from spectralgpt.scenes.rebuilt_scores import score_window, write_scores
from spectralgpt.scenes.reconstruction import RebuiltWindow
from spectralgpt.sensors import load_sensor


def example() -> RebuiltWindow:
    """Two bands from 0 to 1; B03 hidden in the left patch, where it was 0.1 too high.

    One pixel of the left patch is invalid, and was rebuilt far off.
    """
    pixels = np.full((2, 8, 16), 0.5, np.float32)
    pixels[:, 0, 15], pixels[:, 1, 15] = 0.0, 1.0
    rebuilt = pixels + np.float32(0.1)
    masked, valid = np.zeros((2, 8, 16), bool), np.ones((2, 8, 16), bool)
    masked[1, :, :8] = True
    valid[1, 0, 0], rebuilt[1, 0, 0] = False, 9.0
    return RebuiltWindow(
        pixels,
        rebuilt,
        pixels + np.float32(0.25),
        masked,
        valid,
        load_sensor("sentinel-2-l2a").select(["B02", "B03"]),
        Window(0, 0, 8, 16),
        8,
        0.01,
        False,
    )


def test_only_hidden_valid_pixels_count() -> None:
    found = score_window(example())
    assert found.psnr_db == pytest.approx(20, abs=1e-4)
    assert found.guess_psnr_db == pytest.approx(20 * math.log10(4), abs=1e-4)
    assert found.psnr_map.shape == (1, 2)
    assert found.psnr_map[0, 0] == pytest.approx(20, abs=1e-4)
    assert math.isnan(found.psnr_map[0, 1])
    visible, hidden = found.bands
    assert (visible.hidden, hidden.hidden) == (0, 63)
    assert math.isnan(visible.psnr_db)
    assert hidden.peak == pytest.approx(1)
    assert hidden.rmse == pytest.approx(0.1, abs=1e-6)


def test_angle_is_that_of_the_spectrum_with_hidden_bands_rebuilt() -> None:
    found = score_window(example())
    # (0.5, 0.5) against (0.5, 0.6).
    expected = math.degrees(math.atan2(0.6, 0.5)) - 45
    np.testing.assert_allclose(found.angle[1:, :8], expected, atol=1e-4)
    assert found.mean_angle == pytest.approx(found.median_angle)
    # One band alone has no shape, and where nothing was hidden.
    assert math.isnan(found.angle[0, 0])
    assert np.isnan(found.angle[:, 8:]).all()


def test_band_without_data_is_left_out_of_the_angle() -> None:
    found = example()
    more = [
        np.concatenate([values, values[:1]])
        for values in (found.pixels, found.rebuilt, found.guess, found.masked)
    ]
    more[3][2] = True
    valid = np.concatenate([found.valid, np.zeros_like(found.valid[:1])])
    bands = load_sensor("sentinel-2-l2a").select(["B02", "B03", "B04"])
    scores = score_window(RebuiltWindow(*more, valid, bands, found.window, 8, 0, False))
    np.testing.assert_array_equal(scores.angle, score_window(found).angle)
    assert (scores.bands[2].hidden, scores.bands[2].peak) == (0, 0)
    assert math.isnan(scores.bands[2].rmse)


def test_files_hold_the_scores_by_name(tmp_path: Path) -> None:
    scores = score_window(example())
    summary, table = write_scores(tmp_path, scores, {"mask_ratio": 0.5})
    values = json.loads(summary.read_text())
    assert values["mask_ratio"] == 0.5
    assert values["psnr_db"] == pytest.approx(20, abs=1e-4)
    assert values["bands"][0]["band"] == "B02"
    assert values["bands"][0]["psnr_db"] is None
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["band"] for row in rows] == ["B02", "B03"]
    assert float(rows[1]["rmse_reflectance"]) == pytest.approx(0.1, abs=1e-6)
