import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio import Affine

from spectralgpt.building import plain_parts, quantize_encoder
from spectralgpt.errors import ConfigError, DataError, OutputError
from spectralgpt.rasters import Grid, Layers, read_map_rows, write
from spectralgpt.scenes.unfinished import digest_model, making_maps
from tests.tiny import tiny_model

GRID = Grid(6, 5, Affine(10, 0, 0, 0, -10, 0), "EPSG:32632")
FACTS = {"model": "a", "image": "b"}
ROWS = np.arange(30, dtype=np.uint8).reshape(6, 5) % 2


def layers() -> Layers:
    return Layers.of_classes(["x", "y"], ["#000000", "#ffffff"])


def write_then_fail(
    path: Path, rows: slice, error: BaseException, begins_at: int = 0
) -> None:
    with making_maps({path: layers()}, GRID, FACTS) as made:
        assert made.next_row == begins_at
        made.write(rows.start, [ROWS[None, rows]])
        raise error


def stop_after(path: Path, rows: int) -> None:
    """Leave what a stopped process leaves."""
    with pytest.raises(KeyboardInterrupt):
        write_then_fail(path, slice(0, rows), KeyboardInterrupt())


def folder_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def test_what_was_stopped_goes_on_behind_its_last_row(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    stop_after(path, 4)
    assert not path.exists()
    with making_maps({path: layers()}, GRID, FACTS) as made:
        assert made.next_row == 4
        made.write(4, [ROWS[None, 4:]])
        made.export()
        made.publish()
    found = np.concatenate([rows for _, rows in read_map_rows(path)])
    np.testing.assert_array_equal(found, ROWS)
    made = ["map.qml", "map.tif", "map.tif.aux.xml"]
    assert sorted(p.name for p in tmp_path.iterdir()) == made


def test_a_journal_that_was_cut_off_counts_up_to_its_last_whole_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "map.tif"
    stop_after(path, 4)
    with (folder_of(path) / "journal.jsonl").open("a") as journal:
        journal.write('\n{"next_r')
    with pytest.raises(KeyboardInterrupt):
        write_then_fail(path, slice(4, 5), KeyboardInterrupt(), begins_at=4)
    with making_maps({path: layers()}, GRID, FACTS) as made:
        assert made.next_row == 5


def test_another_model_or_image_is_refused_or_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    stop_after(path, 4)
    other = FACTS | {"model": "c"}
    with (
        pytest.raises(ConfigError, match=r"map\.tif was begun .* another model: pass"),
        making_maps({path: layers()}, GRID, other),
    ):
        pass
    with making_maps({path: layers()}, GRID, FACTS, restart=True) as made:
        # The same job: going on gives the same bytes as beginning anew.
        assert made.next_row == 4
    stop_after(path, 4)
    assert folder_of(path).is_dir()
    with making_maps({path: layers()}, GRID, other, restart=True) as made:
        assert made.next_row == 0


def test_without_a_fingerprint_nothing_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    stop_after(path, 4)
    with making_maps({path: layers()}, GRID, None) as made:
        assert made.next_row == 0


def test_a_bad_image_leaves_nothing_and_a_full_disk_what_is_finished(
    tmp_path: Path,
) -> None:
    path = tmp_path / "map.tif"
    with pytest.raises(DataError, match="truncated"):
        write_then_fail(path, slice(0, 2), DataError("scene is truncated"))
    assert list(tmp_path.iterdir()) == []
    full = OutputError("map.tif cannot be written: No space left on device.")
    with pytest.raises(OutputError, match=r"No space.*What is finished stays in"):
        write_then_fail(path, slice(0, 2), full)
    assert [p.name for p in tmp_path.iterdir()] == [".map.tif.unfinished"]
    with making_maps({path: layers()}, GRID, FACTS) as made:
        assert made.next_row == 2


def test_two_runs_do_not_write_one_map(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with (
        making_maps({path: layers()}, GRID, FACTS),
        pytest.raises(ConfigError, match="being made by another process"),
        making_maps({path: layers()}, GRID, FACTS),
    ):
        pass


def test_the_journal_can_be_read_by_people(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    stop_after(path, 4)
    text = (folder_of(path) / "journal.jsonl").read_text()
    first, last = (json.loads(line) for line in text.split("\n") if line)
    assert first["fingerprint"]["model"] == "a"
    assert (last["row"], last["next_row"]) == (0, 4)
    assert list(last["rows"]) == ["map.tif"]


def test_a_digest_tells_weights_and_settings_apart() -> None:
    model = tiny_model()
    assert digest_model(model, True) == digest_model(tiny_model(), True)
    assert digest_model(model, True) != digest_model(model, False)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert digest_model(model, True) != digest_model(tiny_model(), True)
    quantize_encoder(model)
    of_integers = digest_model(model, True)
    with torch.no_grad():
        plain_parts(model.encoder.blocks[0].attn.qkv.weight)[1].mul_(2)
    assert digest_model(model, True) != of_integers


def test_a_map_that_the_disk_has_no_room_for_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []
    monkeypatch.setattr(write, "_reserve", lambda _file, size: reserved.append(size))
    huge = Grid(2_000_000_000, 2_000_000_000, GRID.transform, GRID.crs)
    path = tmp_path / "new" / "map.tif"
    with (
        pytest.raises(OutputError, match=r"takes 4e\+09 GB\. Make room \(the disk has"),
        making_maps({path: layers()}, huge, FACTS),
    ):
        raise AssertionError("begun")
    assert reserved == []
    assert list(tmp_path.iterdir()) == []


def test_room_that_runs_out_while_it_is_reserved_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "_reserve", full)
    path = tmp_path / "map.tif"
    with (
        pytest.raises(OutputError, match="No space left"),
        making_maps({path: layers()}, GRID, FACTS),
    ):
        raise AssertionError("begun")
    assert list(tmp_path.iterdir()) == []


def test_rows_and_entries_that_are_damaged_are_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"

    def make(first_row: int) -> list[int]:
        done = []
        with making_maps({path: layers()}, GRID, FACTS) as made:
            assert made.next_row == first_row
            for row in range(made.next_row, 6, 2):
                made.write(row, [ROWS[None, row : row + 2]])
                done.append(row)
                if row == 2 and not first_row:
                    raise KeyboardInterrupt
            made.export()
            made.publish()
        return done

    journal, rows = (folder_of(path) / n for n in ("journal.jsonl", "map.tif.rows"))

    def swap_rows() -> None:
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([lines[0], lines[2], lines[1]]))

    def claim_more() -> None:
        journal.write_text(
            journal.read_text().replace('"next_row": 4', '"next_row": 6')
        )

    def lose_rows() -> None:
        rows.write_bytes(rows.read_bytes()[:12] + bytes(18))

    def flip_row() -> None:
        content = bytearray(rows.read_bytes())
        content[3] ^= 1
        rows.write_bytes(content)

    for damage, whole in (
        (swap_rows, 0),
        (claim_more, 2),
        (lose_rows, 2),
        (flip_row, 0),
        (rows.unlink, 0),
        (lambda: journal.write_bytes(b"\xff\xfe" * 9), 0),
    ):
        with pytest.raises(KeyboardInterrupt):
            make(0)
        damage()
        if not whole:
            # All six rows are written in one run, which is stopped by none.
            with making_maps({path: layers()}, GRID, FACTS) as made:
                assert made.next_row == 0
                made.write(0, [ROWS[None]])
                made.export()
                made.publish()
        else:
            assert make(whole) == list(range(whole, 6, 2))
        found = np.concatenate([rows for _, rows in read_map_rows(path)])
        np.testing.assert_array_equal(found, ROWS)
        path.unlink()
