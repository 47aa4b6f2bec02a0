"""Models saved and loaded as on the Hugging Face Hub, and sent to a stand-in of it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pystac
import pytest
import torch
from huggingface_hub import ModelCard, constants
from pystac.extensions.mlm import MLMExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

import spectralgpt
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import (
    ChangeModel,
    ClassificationModel,
    RegressionModel,
    SegmentationModel,
)
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.preprocessing import Scaling
from tests.exported import CLASSES, contract
from tests.tiny import tiny_encoder, tiny_model

FILES = ["README.md", "config.json", "model.safetensors"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the Hub answers for one repository, and the files that it was sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refuses = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def commit(self, body: bytes) -> dict[str, object]:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files[entry["value"]["path"]] = content
        page = f"{self.url}/lab/fields/commit/{COMMIT}"
        return {"success": True, "commitOid": COMMIT, "commitUrl": page}

    def answer(self, path: str, body: bytes) -> object:
        if path == "/api/repos/create":
            return {"url": f"{self.url}/lab/fields", "name": "lab/fields"}
        if path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            kinds = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": name, **kinds} for name in names]}
        if path.endswith("/commit/main"):
            return self.commit(body)
        return {"errors": [], "warnings": []}  # /api/validate-yaml

    def handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def send(self, content: bytes, status: int = 200, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = 403 if hub.refuses else 200
                answer = hub.answer(self.path.partition("?")[0], body)
                self.send(json.dumps(answer).encode(), status)

            def do_GET(self) -> None:
                hub.asked.append(self.path)
                name = self.path.rpartition("/")[2]
                if name not in hub.files:
                    self.send(b"", 404, X_Error_Code="EntryNotFound")
                    return
                content = hub.files[name]
                tag = f'"{hash(content)}"'
                self.send(content, ETag=tag, X_Repo_Commit=COMMIT)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None: ...

        return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture
def mapper(tmp_path: Path) -> SegmentationModel:
    """A model as fine-tuning leaves it, loaded."""
    model = SegmentationModel(tiny_encoder(), len(CLASSES), head="linear")
    extra = {
        "class_names": list(CLASSES),
        "task": "segmentation",
        "window_px": 32,
        "trained_on": "fields of 2021",
        "chosen": {"metric": "val_miou", "value": 0.61239, "epoch": 7, "class": None},
    }
    save_model(tmp_path / "run", model, contract(), extra)
    loaded = load_model(tmp_path / "run").model
    assert isinstance(loaded, SegmentationModel)
    return loaded


def test_an_encoder_comes_back_bit_by_bit(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    folder = encoder.save_pretrained(tmp_path / "model")
    again = SpectralEncoder.from_pretrained(folder)
    assert type(again) is SpectralEncoder
    assert same_weights(encoder, again)
    assert not again.training
    names = sorted(path.name for path in folder.iterdir())
    assert names == FILES
    assert "nothing says which bands" in (folder / "README.md").read_text()


def test_contract_and_notes_go_along(mapper: SegmentationModel, tmp_path: Path) -> None:
    mapper.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.preprocessing == contract()
    assert again.extra["class_names"] == list(CLASSES)
    assert same_weights(again.model, mapper)
    encoder = SpectralEncoder.from_pretrained(tmp_path / "model")
    assert same_weights(encoder, mapper.encoder)
    assert encoder.contract == contract()
    # An encoder is not what a training of maps says of its model.
    card = ModelCard.load(encoder.save_pretrained(tmp_path / "encoder") / "README.md")
    assert "B8A" in card.text
    assert "field, forest" not in card.text


def test_the_card_says_what_is_known(mapper: SegmentationModel, tmp_path: Path) -> None:
    folder = mapper.save_pretrained(tmp_path / "model", license="apache-2.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "spectralgpt"
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-segmentation"
    for line in (
        "Reflectance of sentinel-2-l1c, scaled by `image-minmax`, in images of",
        "| B8A | 865 | 20 | 20 |",
        "| B12 | 2190 | 180 | 20 |",
        "segmentation: field, forest, water.",
        "fields of 2021",
        "| val_miou (epoch 7) | 0.6124 |",
        "apache-2.0",
    ):
        assert line in card.text.splitlines(), card.text
    # What is stated goes before what was noted, and replaces the card.
    scores = {"test IoU": 0.5}
    mapper.save_pretrained(folder, data="fields of 2022", scores=scores)
    text = (folder / "README.md").read_text()
    assert "| test IoU | 0.5 |" in text
    assert "fields of 2022" in text
    assert "2021" not in text
    assert "val_miou" not in text


KINDS: dict[str, tuple[type[Any], str]] = {
    "single-label": (ClassificationModel, "scene-classification"),
    "multi-label": (ClassificationModel, "classification"),
    "segmentation": (SegmentationModel, "semantic-segmentation"),
    "change": (ChangeModel, "semantic-segmentation"),
    "regression": (RegressionModel, "regression"),
    "pretraining": (MaskedAutoencoder, "similarity-search"),
}


def item_of(folder: Path, task: str, scaling: Scaling) -> tuple[Any, dict[str, Any]]:
    """A model as saved for the Hub, and its STAC item."""
    kind, _ = KINDS[task]
    names = ["height"] if task == "regression" else ["bare field", "forest"]
    extra: dict[str, Any] = {"task": task, "class_names": names}
    if task == "regression":
        extra["target"] = {"unit": "m", "range": None, "edges": [10.0, 20.0]}
    head = () if kind is ClassificationModel else ("linear",)
    model = tiny_model()
    if task != "pretraining":
        model = kind(tiny_encoder(), len(names), *head)
    save_model(
        folder / "run", model, contract(scaling), extra if task != "pretraining" else {}
    )
    saved = load_model(folder / "run").model
    saved.save_pretrained(folder / "made", license="CC0-1.0")
    return saved, json.loads((folder / "made" / "model.stac.json").read_text())


@pytest.mark.parametrize("task", KINDS)
def test_the_stac_item_says_what_a_model_takes_and_gives(
    tmp_path: Path, task: str
) -> None:
    model, table = item_of(tmp_path, task, "z-score")
    kind, version = pystac.STACObjectType.ITEM, pystac.get_stac_version()
    JsonSchemaSTACValidator().validate_core(table, kind, version)
    item = pystac.Item.from_dict(table)
    said = MLMExtension.ext(item)
    assert (said.mlm_name, said.architecture) == ("made", "Vision Transformer")
    assert said.tasks == [KINDS[task][1]]
    assert said.total_parameters == sum(each.numel() for each in model.parameters())
    ((taken,), (given,)) = said.input, said.output
    assert taken.bands == list(contract().band_names)
    assert len(taken.input.shape) == len(taken.input.dim_order)
    assert len(given.result.shape) == len(given.result.dim_order)
    # What is said of the shapes is so.
    images = torch.zeros([2 if each == -1 else each for each in taken.input.shape])
    run = model.encoder if task == "pretraining" else model
    found = [2, *run(images).shape[1:]]
    stated = [2, *given.result.shape[1:]]
    assert all(a in (b, -1) for a, b in zip(stated, found, strict=True))
    names = [(each.value, each.name) for each in given.classes or ()]
    is_classes = task not in ("regression", "pretraining")
    assert names == ([(0, "bare_field"), (1, "forest")] if is_classes else [])
    # pystac takes a list of scalings for one.
    scalings = table["properties"]["mlm:input"][0]["value_scaling"]
    statistics = contract("z-score").statistics
    assert statistics is not None
    assert {each.pop("type") for each in scalings} == {"z-score"}
    assert [(each["mean"], each["stddev"]) for each in scalings] == [
        pytest.approx((statistics.mean[name], statistics.std[name]))
        for name in contract().band_names
    ]
    asset = table["assets"]["model"]
    content = (tmp_path / "made" / asset["href"]).read_bytes()
    assert asset["file:size"] == len(content)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    assert "mlm:model" in asset["roles"]
    assert asset["bands"][1] == {
        "name": "B02",
        "gsd": 10.0,
        "eo:center_wavelength": pytest.approx(0.49, abs=0.01),
        "eo:full_width_half_max": pytest.approx(0.065, abs=0.01),
    }
    assert table["properties"]["license"] == "CC0-1.0"


def test_scalings_that_stac_has_no_name_for_are_named_in_ours(tmp_path: Path) -> None:
    _, table = item_of(tmp_path, "segmentation", "two-std-uint8")
    (scaling,) = table["properties"]["mlm:input"][0]["value_scaling"]
    module, _, name = scaling["expression"].partition(":")
    kind, _, method = name.partition(".")
    assert callable(getattr(getattr(import_module(module), kind), method))
    assert scaling["type"] == "processing"
    _, table = item_of(tmp_path, "segmentation", "fixed-range")
    scaling = table["properties"]["mlm:input"][0]["value_scaling"][1]
    assert scaling == {
        "type": "min-max",
        "minimum": pytest.approx(0.03),
        "maximum": pytest.approx(0.24),
    }


def test_an_item_is_not_left_from_another_model(
    mapper: SegmentationModel, tmp_path: Path
) -> None:
    folder = mapper.save_pretrained(tmp_path / "x", license="all rights reserved")
    table = json.loads((folder / "model.stac.json").read_text())
    assert table["properties"]["license"] == "other"
    tiny_encoder().save_pretrained(folder)
    assert not (folder / "model.stac.json").exists()


def test_a_readme_of_the_users_own_is_kept(
    mapper: SegmentationModel, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("# My notes")
    mapper.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My notes"


def test_a_model_goes_to_the_hub_with_its_card_and_back(
    hub: Hub, mapper: SegmentationModel
) -> None:
    page = mapper.push_to_hub("lab/fields", token="hf_none", license="cc-by-4.0")
    assert page == f"{hub.url}/lab/fields/commit/{COMMIT}"
    assert sorted(hub.files) == sorted((*FILES, "model.stac.json"))
    assert json.loads(hub.files["model.stac.json"])["id"] == "fields"
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert 'SegmentationModel.from_pretrained("lab/fields")' in card.text
    again = SegmentationModel.from_pretrained("lab/fields", revision="v1")
    assert same_weights(again, mapper)
    assert again.contract == contract()
    assert "/lab/fields/resolve/v1/model.safetensors" in hub.asked


def test_what_the_hub_refuses_is_one_line(hub: Hub, mapper: SegmentationModel) -> None:
    hub.refuses = True
    with pytest.raises(OutputError, match=r"^lab/fields was not sent to .*\b403\b"):
        mapper.push_to_hub("lab/fields", token="hf_none")
    with pytest.raises(OutputError, match="was not sent"):
        mapper.push_to_hub("no/such/name", token="hf_none")
    assert hub.files == {}


def test_a_model_of_another_class_is_refused(
    mapper: SegmentationModel, tmp_path: Path
) -> None:
    folder = mapper.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="SegmentationModel, no Classification"):
        ClassificationModel.from_pretrained(folder)


def test_only_the_hub_has_revisions(tmp_path: Path) -> None:
    folder = tiny_encoder().save_pretrained(tmp_path / "model")
    for name in (folder, "tiny", "spectralgpt-tiny-s2"):
        with pytest.raises(ConfigError, match=r"no revision 'v1'"):
            SpectralEncoder.from_pretrained(name, revision="v1")


def test_shipped_weights_load_by_name() -> None:
    encoder = spectralgpt.load("spectralgpt-tiny-s2")
    again = type(encoder).from_pretrained("spectralgpt-tiny-s2")
    assert same_weights(encoder, again)
    assert again.contract is not None
