"""Models saved and loaded as on the Hugging Face Hub, and sent to a stand-in of it."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

import spectralgpt
from spectralgpt.checkpoints import load_model, save_model
from spectralgpt.errors import CheckpointError, ConfigError, OutputError
from spectralgpt.models.encoder import SpectralEncoder
from spectralgpt.models.heads import ClassificationModel, SegmentationModel
from tests.exported import CLASSES, contract
from tests.tiny import tiny_encoder

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
    assert names == ["README.md", "config.json", "model.safetensors"]
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
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
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
