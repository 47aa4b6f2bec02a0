"""`spectralgpt data pack`, used rightly and wrongly."""

from pathlib import Path

import pytest

from spectralgpt.cli.main import main
from spectralgpt.data.packing import MANIFEST, Pack
from tests.imagery import write_archive


def pack(*words: object) -> int:
    return main(["data", "pack", *map(str, words)])


def test_pack_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_archive(tmp_path, "scenes", "sentinel-2-l2a")
    out = tmp_path / "pack"
    assert pack(source, tmp_path, "--output", out, "--shard-mb", 0.2) == 0
    printed = capsys.readouterr().out
    assert "scenes: 4 images, 4 shards" in printed
    assert "left out as bad: 0" in printed
    assert main(["data", "check", str(out)]) == 0
    assert "no faults: all checksums agree" in capsys.readouterr().out
    shard = out / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert main(["data", "check", str(out)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {shard} is corrupt: its checksum")
    assert "\n" not in error
    assert pack(source, tmp_path, "--output", out) == 1
    assert "holds a pack already" in capsys.readouterr().err
    assert pack(source, tmp_path, "--output", out, "--overwrite") == 0
    assert main(["data", "check", str(out)]) == 0


def test_a_folder_of_images_is_packed(tmp_path: Path) -> None:
    write_archive(tmp_path, "scenes", "sentinel-2-l2a")
    words = ["--sensor", "sentinel-2-l2a", "--output", tmp_path / "pack"]
    # Such images say their bands; whether they hold reflectance, their type does.
    assert pack(tmp_path / "scenes", *words) == 0
    names = [item.name for item in Pack(tmp_path / "pack").items()]
    assert names == [f"images/{number}.tif" for number in range(4)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.yaml"], "nothing.yaml"),
        (["archive:bigearthnet-v3"], "did you mean"),
        (["archive:bigearthnet-v2"], "does not exist"),
        (["scenes.yaml", "--shard-mb", "0"], "shard_mb is 0.0; it must be above 0"),
        (["scenes.yaml", "--workers", "0"], "workers is 0; it must be at least 1"),
        (
            ["scenes.yaml", "--max-bad-share", "2"],
            "max_bad_share is 2.0; it must be at least 0 and at most 1",
        ),
        (["scenes.yaml", "--sensor", "sentinel-2-l2a"], "--sensor is for folders"),
        (["scenes.yaml", "elsewhere"], "does not exist"),
        (["empty"], "no image under"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path, "scenes", "sentinel-2-l2a", count=1)
    (tmp_path / "empty").mkdir()
    assert pack(*words, "--output", "pack") == 1
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not (tmp_path / "pack").exists()


def test_training_on_a_broken_pack_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_archive(tmp_path, "scenes", "sentinel-2-l2a")
    out = tmp_path / "pack"
    assert pack(source, tmp_path, "--output", out) == 0
    (out / MANIFEST).write_text("{")
    capsys.readouterr()
    words = ["pretrain", "--config", "pretrain_tiny", "--data.root", str(out)]
    assert main([*words, "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err.strip()
    assert "pack.json is no sound manifest of a pack" in error
    assert "\n" not in error
