"""What a file's own masks hide is no measurement, wherever it is read."""

import contextlib
import dataclasses

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from spectralgpt.errors import BandError, RasterError, UnitError
from spectralgpt.rasters import (
    OpenFiles,
    Stated,
    Window,
    describe_raster,
    read_codes,
    read_raster,
    summarise,
)
from spectralgpt.rasters.gdal import quiet_gdal
from spectralgpt.rasters.lookup import find_codes, read_codes_at, sample_scene
from tests.raster_files import S2_L2A, constant, write_tiff

SIDE = 16
HIDDEN = np.s_[:, : SIDE // 2]
"""The left half of each image is masked."""


def half_mask() -> np.ndarray:
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[HIDDEN] = 0
    return mask


def write_masked(folder, kind, numbers=None, **options):
    """Three bands of 1000, 2000, 3000 and a mask that hides the left half."""
    numbers = constant([1000, 2000, 3000], SIDE) if numbers is None else numbers
    names = S2_L2A[: len(numbers)]
    path = folder / "masked.tif"
    if kind == "alpha":
        alpha = half_mask()[None].astype(numbers.dtype)
        both = np.concatenate([numbers, alpha])
        write_tiff(path, both, descriptions=(*names, "alpha"), **options)
        with rasterio.open(path, "r+") as dataset:
            grey = [ColorInterp.gray] * len(numbers)
            dataset.colorinterp = [*grey, ColorInterp.alpha]
        return path
    write_tiff(path, numbers, descriptions=names, **options)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"),
        rasterio.open(path, "r+") as dataset,
    ):
        dataset.write_mask(half_mask())
    if kind != "vrt":
        assert path.with_name("masked.tif.msk").exists() == (kind == "sidecar")
        return path
    return write_vrt(folder / "masked.vrt", path, len(numbers))


def write_vrt(path, source, count, has_mask=True):
    def file(layer):
        return (
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source.name}'
            f"</SourceFilename><SourceBand>{layer}</SourceBand></SimpleSource>"
        )

    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i}">'
        f"<Description>{S2_L2A[i - 1]}</Description>{file(i)}</VRTRasterBand>"
        for i in range(1, count + 1)
    )
    mask = (
        f'<MaskBand><VRTRasterBand dataType="Byte">{file("mask,1")}</VRTRasterBand>'
        "</MaskBand>"
    )
    place = "<GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>"
    path.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32632</SRS>'
        f"{place}{bands}{mask if has_mask else ''}</VRTDataset>"
    )
    return path


def describe(path, **stated):
    return describe_raster(path, "sentinel-2-l2a", Stated(**({"offset": 0} | stated)))


@pytest.mark.parametrize("kind", ["internal", "sidecar", "alpha", "vrt"])
def test_masked_pixels_are_no_reflectance(tmp_path, kind):
    item = describe(write_masked(tmp_path, kind))
    assert [band.name for band in item.bands] == ["B01", "B02", "B03"]
    raster = read_raster(item)
    assert not raster.valid[:, HIDDEN[0], HIDDEN[1]].any()
    assert raster.valid[:, :, SIDE // 2 :].all()
    with contextlib.closing(OpenFiles(memory_mb=1)) as files, quiet_gdal():
        part = read_raster(item, window=Window(2, 4, 8, 8), files=files)
    np.testing.assert_array_equal(part.valid, raster.valid[:, 2:10, 4:12])
    assert summarise(item)["nodata"] == "50.0% of the pixels"


@pytest.mark.parametrize("kind", ["internal", "sidecar", "alpha", "vrt"])
def test_masked_pixels_are_not_shown(tmp_path, kind):
    item = describe(write_masked(tmp_path, kind))
    with contextlib.closing(OpenFiles()) as files, quiet_gdal():
        shown = sample_scene(item, item.bands, item.grid(), item.grid(), files)
    np.testing.assert_array_equal(shown.valid, read_raster(item).valid)


def test_masks_of_sources_count_where_a_virtual_raster_has_none(tmp_path):
    source = write_masked(tmp_path, "internal")
    item = describe(write_vrt(tmp_path / "plain.vrt", source, 3, has_mask=False))
    assert read_raster(item).valid.mean() == pytest.approx(0.5)


def test_bands_of_a_folder_keep_their_masks_and_layouts_that_state_sizes(tmp_path):
    for band in ("B02", "B03"):
        folder = tmp_path / band
        path = write_masked(folder, "internal", constant([1500], SIDE))
        path.rename(tmp_path / f"{band}.tif")
        folder.rmdir()
    item = describe(tmp_path)
    assert read_raster(item).valid.mean() == pytest.approx(0.5)
    stated = {
        name: dataclasses.replace(file, is_stated=True, masks=())
        for name, file in item.files.items()
    }
    item = dataclasses.replace(item, files=stated)
    assert read_raster(item).valid.mean() == pytest.approx(0.5)


def test_opacity_need_not_be_named_and_is_no_band(tmp_path):
    numbers = constant([1000, 2000, 3000, 4000], SIDE)
    path = write_masked(tmp_path, "alpha", numbers)
    for bands in (["B02", "B03", "B04", "B08"], ["B02", "B03", "B04", "B08", "-"]):
        item = describe(path, bands=bands)
        assert len(item.bands) == 4
        assert read_raster(item).valid.mean() == pytest.approx(0.5)
    with pytest.raises(BandError, match="has 5 layers"):
        describe(path, bands=["B02", "B03"])


def test_a_layer_marked_as_opacity_but_named_as_a_band_is_that_band(tmp_path, caplog):
    # Some programs mark the fourth layer as alpha, whatever is written there.
    numbers = constant([100, 110, 120, 130], SIDE, "uint8")
    numbers[3, :, :4] = 0
    path = write_tiff(tmp_path / "a.tif", numbers, alpha="YES")
    stated = {"nodata": [], "unit": "digital-numbers", "quantification": 255}
    item = describe(path, bands=["B04", "B03", "B02", "B08"], **stated)
    assert read_raster(item).valid.all()
    assert "marked as opacity" in caplog.text
    assert "B08" in caplog.text


def test_masked_ground_does_not_choose_the_offset(tmp_path):
    numbers = constant([1500, 2500, 3500], SIDE)
    numbers[:, :, : SIDE // 2] = 1
    path = write_masked(tmp_path, "internal", numbers)
    with pytest.raises(UnitError, match="offset is in doubt"):
        describe(path, offset="auto")


def test_masked_labels_are_no_class(tmp_path):
    path = write_masked(tmp_path, "internal", constant([1], SIDE, "uint8"))
    at = np.arange(SIDE)
    codes, known = read_codes(path, 1, at, at)
    assert not known[HIDDEN].any()
    assert known[:, SIDE // 2 :].all()
    grid = describe(path, unit="reflectance", nodata=[]).grid()
    codes, known = read_codes_at(path, 1, grid)
    assert known.mean() == pytest.approx(0.5)
    assert (codes[known] == 1).all()
    assert find_codes(path, 1, grid) == {1: SIDE * SIDE // 2}


def test_a_sidecar_that_is_no_tiff_is_not_opened(tmp_path):
    path = write_tiff(tmp_path / "a.tif", constant([900], SIDE), descriptions=["B02"])
    (tmp_path / "a.tif.msk").write_text("<VRTDataset/>")
    with pytest.raises(RasterError, match=r"a\.tif\.msk"):
        describe(path)


def test_a_layer_of_another_scale_that_is_no_band_is_left_out(tmp_path):
    numbers = np.concatenate([constant([1000, 2000], SIDE), constant([1], SIDE)])
    path = write_tiff(tmp_path / "a.tif", numbers, descriptions=("B02", "B03", "QA"))
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (0.0001, 0.0001, 1.0)
    raster = read_raster(
        describe_raster(path, "sentinel-2-l2a", Stated(bands=["B02", "B03", "-"]))
    )
    np.testing.assert_allclose(raster.pixels[:, 0, 0], [0.1, 0.2], atol=1e-7)
    with pytest.raises(UnitError, match="different scales"):
        describe_raster(path, "sentinel-2-l2a", Stated(bands=["B02", "B03", "B04"]))


@pytest.mark.parametrize("length", [8, 100, None])
def test_a_mask_beside_a_file_that_is_none_is_refused(tmp_path, length):
    path = write_masked(tmp_path, "sidecar")
    mask = path.with_name("masked.tif.msk")
    if length is None:
        # Of another file: no flags say that it is a mask.
        write_tiff(mask, constant([255], SIDE, "uint8"))
    else:
        mask.write_bytes(mask.read_bytes()[:length])
    with pytest.raises(
        RasterError, match=r"masked\.tif\.msk is no mask of masked\.tif"
    ):
        describe_raster(path, "sentinel-2-l2a", Stated(offset=0))
