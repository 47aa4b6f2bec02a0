"""Progressive pretraining: what goes over, what a resume does, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.config import build_config, read_config
from spectralgpt.errors import ConfigError, DatasetNotFoundError
from spectralgpt.training import pretrain_data
from spectralgpt.training.logs import read_metrics
from spectralgpt.training.pretrain_config import PretrainConfig
from spectralgpt.training.pretrain_data import load_pretraining_data
from spectralgpt.training.pretraining import pretrain
from tests.imagery import write_archive

NARROW = {
    "size": "tiny", "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip
TRAINER = {
    "epochs": 2, "batch_size": 2, "workers": 0, "accelerator": "cpu",
    "checkpoint_every_steps": 1,
}  # fmt: skip


class InterruptedRunError(Exception):
    pass


class StopAt(Callback):
    """Break off after a step of a run that trains on images of one size."""

    def __init__(self, step: int, image_size: int) -> None:
        self.step = step
        self.image_size = image_size

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        is_there = batch["images"].shape[-1] == self.image_size
        if is_there and trainer.global_step >= self.step:
            raise InterruptedRunError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_archive(root, "s2", "sentinel-2-l2a")
    write_archive(root, "landsat", "landsat-8-9-l2")
    return root


def two_stages(root: Path, **second: Any) -> PretrainConfig:
    landsat = {
        "image_size": 24,
        "sources": [str(root / "landsat.yaml")],
        "sensor": "landsat-8-9-l2",
    }
    values = {
        "model": NARROW,
        "data": {"root": str(root), "max_held_out": 2, "samples_per_epoch": 6},
        "optimizer": {"base_lr": 0.1, "warmup_epochs": 0},
        "trainer": TRAINER,
        "report": {"images": 0},
        "stages": [
            {
                "name": "s2-16",
                "data": {
                    "image_size": 16,
                    "sources": [str(root / "s2.yaml")],
                    "sensor": "sentinel-2-l2a",
                },
            },
            {"name": "landsat-24", "data": landsat, **second},
        ],
    }
    return build_config(values, PretrainConfig, "test")


def losses(folder: Path) -> list[str]:
    return [row["loss"] for row in read_metrics(folder / "metrics.csv") if row["loss"]]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(two_stages(root), tmp_path_factory.mktemp("whole") / "run")


def test_each_stage_is_a_run_of_its_own(whole: Path, root: Path) -> None:
    one, two = whole / "stage-1-s2-16", whole / "stage-2-landsat-24"
    for folder in (one, two):
        assert len(losses(folder)) == 6
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        assert (folder / "report.html").is_file()
    config = read_config(two / "config.yaml", PretrainConfig)
    assert config.data.image_size == 24
    assert config.model.start_from == str(one / "checkpoints" / "model")
    assert read_config(whole / "config.yaml", PretrainConfig) == two_stages(root)


def test_run_folder_holds_the_model_of_the_last_stage(whole: Path) -> None:
    final, last = load_model(whole), load_model(whole / "stage-2-landsat-24")
    assert final.preprocessing is not None
    assert final.preprocessing.sensor == "landsat-8-9-l2"
    assert final.encoder.image_size == 24
    for name, value in final.model.state_dict().items():
        assert torch.equal(value, last.model.state_dict()[name])


@pytest.mark.slow
def test_weights_go_over_with_positions_interpolated(
    whole: Path, root: Path, tmp_path: Path
) -> None:
    frozen = {"optimizer": {"base_lr": 0.0}}
    run = pretrain(two_stages(root, **frozen), tmp_path / "run")
    first = load_model(run / "stage-1-s2-16").model
    second = load_model(run).model
    wavelengths = second.encoder.wavelengths_nm
    assert torch.equal(
        second.encoder.blocks[0].attn.qkv.weight,
        first.encoder.blocks[0].attn.qkv.weight,
    )
    from spectralgpt.building import resize_model

    moved = resize_model(first, 24, wavelengths)
    assert second.encoder.positions.spatial.shape == (1, 9, 16)
    for own in ("spatial", "spectral"):
        assert torch.equal(
            getattr(second.encoder.positions, own),
            getattr(moved.encoder.positions, own),
        )


def test_positions_can_be_learned_anew(whole: Path, root: Path) -> None:
    from spectralgpt.building import build_autoencoder
    from spectralgpt.training.pretrain_models import build_model

    start = str(whole / "stage-1-s2-16")
    trained = load_model(start)
    assert trained.preprocessing is not None
    config = two_stages(root)
    model = replace(config.model, start_from=start, keep_positions=False)
    built = build_model(replace(config, model=model), trained.preprocessing)
    fresh = build_autoencoder(
        "tiny",
        image_size=16,
        num_bands=12,
        wavelengths_nm=trained.preprocessing.wavelengths_nm,
        **config.model.settings(),
    )
    for name, value in trained.model.state_dict().items():
        expected = fresh.state_dict()[name] if "positions" in name else value
        assert torch.equal(built.state_dict()[name], expected), name


def test_report_shows_every_stage_and_links_to_it(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert 'href="stage-2-landsat-24/report.html"' in page
    for text in ("sentinel-2-l2a", "landsat-8-9-l2", "16 px", "24 px", "2 stages"):
        assert text in page.replace("</dt><dd>", " ").replace("<dt>stages", "2 stages")
    assert page.count("<figure>") == 1
    assert "http:" not in page
    assert "https:" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "step"), [(16, 4), (24, 0), (24, 4)], ids=["first", "between", "second"]
)
def test_resume_in_any_stage_gives_the_same_losses(
    whole: Path, root: Path, tmp_path: Path, size: int, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        pretrain(two_stages(root), run, callbacks=[StopAt(step, size)])
    lines: list[str] = []
    pretrain(two_stages(root), run, resume=True, announce=lines.append)
    expected = ["stage 1 of 2: s2-16"] if size == 16 else []
    assert lines == [*expected, "stage 2 of 2: landsat-24"]
    for stage in ("stage-1-s2-16", "stage-2-landsat-24"):
        assert losses(run / stage) == losses(whole / stage)
    one, two = load_model(run).model, load_model(whole).model
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


@pytest.mark.slow
def test_finished_run_is_left_alone_or_replaced(root: Path, tmp_path: Path) -> None:
    run = pretrain(two_stages(root), tmp_path / "run")
    weights = run / "checkpoints" / "model" / "model.safetensors"
    weights.unlink()
    with pytest.raises(ConfigError, match="holds a run already"):
        pretrain(two_stages(root), run)
    lines: list[str] = []
    pretrain(two_stages(root), run, resume=True, announce=lines.append)
    assert not lines
    assert weights.is_file()
    single = replace(
        two_stages(root),
        stages=(),
        data=replace(
            two_stages(root).data,
            sources=(str(root / "s2.yaml"),),
            sensor="sentinel-2-l2a",
            image_size=16,
        ),
    )
    (run / "mine.txt").write_text("not a run's")
    pretrain(single, run, overwrite=True)
    assert sorted(path.name for path in run.glob("stage-*")) == []
    assert (run / "mine.txt").is_file()


def test_a_stage_that_was_finished_with_other_settings_is_not_taken_over(
    whole: Path, root: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    config = two_stages(root)
    faster = replace(config, optimizer=replace(config.optimizer, base_lr=0.2))
    with pytest.raises(
        ConfigError, match=r"begun with other settings: .*base_lr 0\.1 \(now 0\.2\)"
    ):
        pretrain(faster, run, resume=True)
    # What only says how it is computed may be another.
    fewer = replace(config, trainer=replace(config.trainer, log_every_steps=2))
    pretrain(fewer, run, resume=True)
    (run / "stage-1-s2-16" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"its config\.yaml is gone"):
        pretrain(config, run, resume=True)


def test_resume_with_other_stages_is_refused(whole: Path, root: Path) -> None:
    config = two_stages(root)
    other = replace(
        config, stages=(config.stages[0], {**config.stages[1], "name": "x"})
    )
    with pytest.raises(ConfigError, match=r"stages\.2\.name .* \(now 'x'"):
        pretrain(other, whole, resume=True)


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        ({"optimizer": {"warmup_epochs": 2}}, ConfigError, "warmup_epochs is 2"),
        ({"data": {"image_size": 20}}, ConfigError, "20 px is no multiple"),
        ({"data": {"root": "none"}}, DatasetNotFoundError, "none.* does not exist"),
        ({"data": {"samples_per_epoch": 1}}, ConfigError, "does not fill one step"),
        ({"report": {"images": 1, "items": ["x"]}}, ConfigError, "fit no held-out"),
    ],
)
def test_mistake_in_the_last_stage_is_found_before_the_first_starts(
    root: Path, tmp_path: Path, second: dict[str, Any], error: type[Exception],
    message: str,
) -> None:  # fmt: skip
    base = two_stages(root)
    stage = {**base.stages[1], **second}
    if "data" in second:
        stage["data"] = {**base.stages[1]["data"], **second["data"]}
    config = replace(base, stages=(base.stages[0], stage))
    with pytest.raises(error, match=f"stage 'landsat-24'.*{message}"):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_steps_of_a_stage_are_made(root: Path, tmp_path: Path) -> None:
    config = replace(
        two_stages(root, steps=4), stages=two_stages(root, steps=4).stages[1:]
    )
    run = pretrain(config, tmp_path / "run")
    assert len(losses(run / "stage-1-landsat-24")) == 4


@pytest.mark.slow
def test_stage_s_own_configuration_runs_alone(whole: Path, tmp_path: Path) -> None:
    config = read_config(whole / "stage-2-landsat-24" / "config.yaml", PretrainConfig)
    run = pretrain(config, tmp_path / "run")
    assert losses(run) == losses(whole / "stage-2-landsat-24")
    saved = json.loads((run / "checkpoints" / "model" / "config.json").read_text())
    assert "others" not in saved["preprocessing"]
    assert yaml.safe_load((run / "config.yaml").read_text())["stages"] == []


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_a_stage_that_was_finished_with_other_images_is_not_taken_over(
    whole: Path, root: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    image = min((root / "s2").rglob("*.tif"))
    kept, hidden = image.read_bytes(), root / "hidden"
    try:
        if what == "changed":
            image.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            with pytest.raises(
                ConfigError, match=r"'s2-16' was finished with other im"
            ):
                pretrain(two_stages(root), run, resume=True)
        else:
            (root / "s2.yaml").rename(hidden)
            pretrain(two_stages(root), run, resume=True)
            assert "whether its images are still the same cannot be told" in caplog.text
    finally:
        image.write_bytes(kept)
        if hidden.exists():
            hidden.rename(root / "s2.yaml")
    pretrain(two_stages(root), run, resume=True)


def test_what_earlier_stages_held_out_is_scored_again(
    root: Path, tmp_path: Path
) -> None:
    config = two_stages(root)
    one, two = (dict(stage) for stage in config.stages)
    two["data"] = one["data"] | {"image_size": 24}
    stages = ({**one, "name": "near"}, {**two, "name": "far"})
    run = pretrain(replace(config, stages=stages), tmp_path / "run")
    first, last = run / "stage-1-near", run / "stage-2-far"
    scored = json.loads((first / "validation.json").read_text())
    assert not (first / "stages.json").exists()  # There is none before it.
    again = json.loads((last / "stages.json").read_text())
    assert list(again) == ["near"]
    # The same images and masks, rebuilt by other weights.
    assert again["near"]["linear_space"] == scored["linear_space"]
    assert again["near"]["model"] != scored["model"]
    page = (run / "report.html").read_text()
    table = page.partition("What is kept of earlier stages")[2]
    own = json.loads((last / "validation.json").read_text())
    for errors in (scored, again["near"], own):
        fillers = [errors[n] for n in ("band_mean", "linear_space", "space_spectrum")]
        assert f">{errors['model'] / min(fillers):.2f}<" in table
    (last / "stages.json").unlink()
    pretrain(replace(config, stages=stages), tmp_path / "run", resume=True)
    assert json.loads((last / "stages.json").read_text()) == again


def test_images_of_other_bands_are_not_scored_again(whole: Path) -> None:
    again = json.loads((whole / "stage-2-landsat-24" / "stages.json").read_text())
    assert again == {}


def scaled(
    root: Path, sensor: str, scaling: str, start: Path | None, known: Path | None
) -> PretrainConfig:
    source = {"sentinel-2-l2a": "s2", "landsat-8-9-l2": "landsat"}[sensor]
    values = {
        "model": NARROW | {"start_from": start and str(start)},
        "data": {
            "root": str(root),
            "sources": [str(root / f"{source}.yaml")],
            "sensor": sensor,
            "image_size": 16,
            "samples_per_epoch": 2,
            "scaling": scaling,
            "statistics": known and str(known),
        },
        "optimizer": {"base_lr": 0.1, "warmup_epochs": 0},
        "trainer": TRAINER,
        "report": {"images": 0},
    }
    return build_config(values, PretrainConfig, "test")


@pytest.fixture(scope="module")
def darker(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose statistics are of no imagery that is at hand."""
    folder = tmp_path_factory.mktemp("darker")
    config = scaled(root, "sentinel-2-l2a", "z-score", None, None)
    run = pretrain(config, folder / "run")
    loaded = load_model(run)
    contract = loaded.preprocessing
    assert contract is not None
    assert contract.statistics is not None
    means = dict.fromkeys(contract.statistics.mean, 0.01)
    statistics = replace(contract.statistics, mean=means)
    save_model(folder / "model", loaded.model, replace(contract, statistics=statistics))
    return folder / "model"


def test_a_run_is_scaled_as_the_weights_that_it_names(
    root: Path, darker: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = scaled(root, "sentinel-2-l2a", "z-score", darker, darker)
    contract = load_model(pretrain(config, tmp_path / "run")).preprocessing
    known = load_model(darker).preprocessing
    assert contract is not None
    assert known is not None
    assert contract.statistics == known.statistics
    assert contract.statistics is not None
    assert set(contract.statistics.mean.values()) == {0.01}
    assert "shifts" not in caplog.text


@pytest.mark.parametrize("scaling", ["z-score", "fixed-range"])
def test_another_scaling_than_that_of_the_start_is_said(
    root: Path,
    darker: Path,
    tmp_path: Path,
    scaling: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = scaled(root, "sentinel-2-l2a", scaling, darker, None)
    contract = load_model(pretrain(config, tmp_path / "run")).preprocessing
    assert contract is not None
    assert contract.statistics is not None
    assert min(contract.statistics.mean.values()) > 0.01
    [said] = [r.getMessage() for r in caplog.records if "shifts" in r.getMessage()]
    assert ("data.statistics" in said) == (scaling == "z-score")


@pytest.mark.parametrize(
    ("sensor", "scaling"),
    [("landsat-8-9-l2", "z-score"), ("sentinel-2-l2a", "fixed-range")],
)
def test_statistics_of_other_bands_or_another_scaling_are_refused(
    root: Path, darker: Path, sensor: str, scaling: str
) -> None:
    config = scaled(root, sensor, scaling, None, darker)
    with pytest.raises(ConfigError, match=r"data\.statistics: .* scaling z-score"):
        load_pretraining_data(config)


def test_weights_of_a_mixture_are_read_once(
    root: Path, darker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = scaled(root, "sentinel-2-l2a", "z-score", None, darker)
    mixture = [{"name": name, "image_size": 16} for name in ("one", "two")]
    config = replace(config, data=replace(config.data, mixture=mixture))
    read: list[Any] = []
    monkeypatch.setattr(
        pretrain_data, "load_model", lambda name: read.append(name) or load_model(name)
    )
    load_pretraining_data(config)
    assert read == [str(darker)]
