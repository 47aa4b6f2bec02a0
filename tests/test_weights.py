"""Named weights, from a local server that does what servers should not."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import spectralgpt
from spectralgpt import weights
from spectralgpt.checkpoints import load_model, save_model, save_published
from spectralgpt.cli.main import main
from spectralgpt.errors import CheckpointError, ConfigError
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.sizes import find_weights
from spectralgpt.weights import NamedWeights, cache_folder, fetch, list_weights, verify
from tests.tiny import TINY, tiny_contract, tiny_model

CONTENT = torch.arange(80_000, dtype=torch.int32).numpy().tobytes()
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
CONTRACT = {"sensor": "sentinel-2-l1c", "image_size": 32}


class Server(ThreadingHTTPServer):
    """Serves `content` at any address; what else it does is set by a test."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.status = 200
        self.tag: str | None = '"one"'
        self.breaks_after: list[int] = []
        """Bytes of each of the next answers, before the connection breaks off."""
        self.says_length = True
        self.goes_to: str | None = None
        self.asked: list[dict[str, str]] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def handle_error(self, *_: object) -> None:
        """Not say when the other side goes away."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers))
        if server.goes_to is not None:
            self.send_response(302)
            self.send_header("Location", server.goes_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        same = self.headers.get("If-Range") in (None, server.tag)
        if "Range" in self.headers and same:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        body, whole = server.content[start:], len(server.content)
        self.send_response(206 if start else server.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        if server.tag is not None:
            self.send_header("ETag", server.tag)
        self.end_headers()
        if server.breaks_after:
            body = body[: server.breaks_after.pop(0)]
        self.close_connection = True
        for at in range(0, len(body), 2**16):
            server.sent += self.wfile.write(body[at : at + 2**16])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _quick_and_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SCHEMES", ("https://", "http://127.0.0.1"))
    monkeypatch.setattr(weights, "_PAUSE_S", 0.0)
    monkeypatch.setenv("SPECTRALGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def named(server: Server, **values: Any) -> NamedWeights:
    texts = dict.fromkeys(("title", "licence", "source", "citation"), "-")
    return NamedWeights(name="w", file="w.pth", url=server.url, **texts, **values)


def kept(item: NamedWeights) -> set[str]:
    """Return what a download left in the cache, beside its lock."""
    folder = item.path.parent
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return found - {"w.pth.lock"}


def put_table(folder: Path, monkeypatch: pytest.MonkeyPatch, **entry: Any) -> None:
    """Put a table of one entry `stand-in` in the place of the package's."""
    texts = dict.fromkeys(("title", "licence", "source", "citation"), "-")
    table = folder / "table.yaml"
    table.write_text(yaml.safe_dump({"stand-in": texts | entry}))
    monkeypatch.setattr(weights, "_TABLE", table)


def test_a_download_is_kept_and_pinned(server: Server) -> None:
    item = named(server)
    path = fetch(item)
    assert path.read_bytes() == CONTENT
    assert item.pin.read_text() == f"{SHA256.removeprefix('sha256:')}  w.pth\n"
    assert kept(item) == {"w.pth", "w.pth.sha256"}
    assert fetch(item) == path
    assert [asked["Accept-Encoding"] for asked in server.asked] == ["identity"]


@pytest.mark.parametrize("known", [{}, {"hash": SHA256, "size": len(CONTENT)}])
def test_a_broken_download_goes_on_by_itself(
    server: Server, known: dict[str, Any]
) -> None:
    server.breaks_after = [150_000, 70_000]
    assert fetch(named(server, **known)).read_bytes() == CONTENT
    starts = [asked.get("Range") for asked in server.asked]
    assert starts[0] is None
    assert starts[1] == "bytes=131072-"
    assert len(starts) == 3


def test_a_download_goes_on_by_the_next_command(server: Server) -> None:
    item = named(server)
    server.breaks_after = [70_000] + [0] * 4
    with pytest.raises(CheckpointError, match=r"broke off 5 times, last after 65,536"):
        fetch(item)
    assert not item.path.exists()
    assert fetch(item).read_bytes() == CONTENT
    assert server.asked[-1]["Range"] == "bytes=65536-"
    assert server.asked[-1]["If-Range"] == '"one"'


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_halves_of_two_files_are_not_joined(server: Server, tag: str | None) -> None:
    server.breaks_after = [150_000]
    server.tag = tag
    assert fetch(named(server)).read_bytes() == CONTENT
    assert "Range" not in server.asked[-1]


def test_a_file_that_changes_meanwhile_is_begun_anew(server: Server) -> None:
    item = named(server)
    server.breaks_after = [150_000] + [0] * 4
    with pytest.raises(CheckpointError, match="broke off"):
        fetch(item)
    server.tag, server.content = '"two"', CONTENT[::-1]
    assert fetch(item).read_bytes() == CONTENT[::-1]


def test_two_at_once_download_once(server: Server) -> None:
    item = named(server)
    both = [threading.Thread(target=fetch, args=(item,)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert item.path.read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_missing_file_is_one_line(server: Server) -> None:
    item = named(server)
    server.status = 404
    with pytest.raises(CheckpointError, match="answered 404 Not Found") as error:
        fetch(item)
    assert "\n" not in str(error.value)
    assert kept(item) == set()


def test_another_file_is_refused_and_not_kept(server: Server) -> None:
    item = named(server, hash=SHA256)
    server.content = CONTENT[::-1]
    with pytest.raises(CheckpointError, match=f"not {SHA256} as published"):
        fetch(item)
    assert kept(item) <= {"w.pth.part.version"}
    server.content = CONTENT
    assert fetch(item).read_bytes() == CONTENT


def test_an_md5_serves_where_that_is_published(server: Server) -> None:
    md5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    item = named(server, hash=md5)
    fetch(item)
    assert verify(item) == md5
    assert kept(item) == {"w.pth"}


def test_what_was_pinned_stays(server: Server) -> None:
    item = named(server)
    path = fetch(item)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(CheckpointError, match="as when first used"):
        fetch(item)
    assert not path.exists()
    server.content = CONTENT
    path = fetch(item)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(CheckpointError, match=r"Remove it to get it anew\.$"):
        fetch(item)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_file_of_another_size_is_not_begun(server: Server) -> None:
    item = named(server, size=1000)
    with pytest.raises(
        CheckpointError, match="announces 320000 bytes, and w needs 1,000"
    ):
        fetch(item)
    assert kept(item) == set()


def test_a_server_that_sends_more_is_cut_off(server: Server) -> None:
    item = named(server, size=100_000)
    server.says_length = False
    server.content = CONTENT * 200
    with pytest.raises(CheckpointError, match="sends more than the 100,000 bytes"):
        fetch(item)
    # What fits into the buffers of the connection, at most.
    assert server.sent < len(server.content) / 2
    assert kept(item) <= {"w.pth.part.version"}


def test_a_file_of_unknown_length_is_refused(server: Server) -> None:
    server.says_length = False
    with pytest.raises(CheckpointError, match="announces no bytes, and w needs a size"):
        fetch(named(server))


def test_a_web_page_is_not_pinned(server: Server) -> None:
    item = named(server)
    server.content = b"<!DOCTYPE html><p>We are being repaired."
    with pytest.raises(CheckpointError, match="is a web page"):
        fetch(item)
    assert not item.path.exists()
    assert not item.pin.exists()


@pytest.mark.parametrize("target", ["http://localhost/w.pth", "file:///etc/hosts"])
def test_nothing_is_redirected_off_https(server: Server, target: str) -> None:
    server.goes_to = target
    with pytest.raises(CheckpointError, match="No connection adapters"):
        fetch(named(server))


def test_redirects_end(server: Server) -> None:
    server.goes_to = server.url
    with pytest.raises(CheckpointError, match="Exceeded 5 redirects"):
        fetch(named(server))


def test_a_server_that_is_not_there_is_one_line(server: Server) -> None:
    item = NamedWeights("w", *"-" * 5, url="http://127.0.0.1:9/w.pth")  # discard
    with pytest.raises(CheckpointError, match="could not be downloaded") as error:
        fetch(item)
    assert "refused" in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_says_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = named(server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids to download"):
        fetch(item)
    item.path.parent.mkdir(parents=True)
    item.path.write_bytes(CONTENT)
    assert fetch(item) == item.path
    assert verify(item) == SHA256
    assert server.asked == []


def test_the_cache_is_where_hugging_face_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SPECTRALGPT_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = Path.home()
    assert cache_folder() == home / ".cache" / "huggingface" / "spectralgpt"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/huggingface/spectralgpt")
    monkeypatch.setenv("HF_HOME", "/hub")
    assert cache_folder() == Path("/hub/spectralgpt")
    monkeypatch.setenv("SPECTRALGPT_CACHE", "~/own")
    assert cache_folder() == home / "own"


@pytest.mark.parametrize(
    "wrong",
    [{"url": "http://zenodo.org/w"}, {"file": "../w"}, {"hash": "sha256:12"}],
)
def test_entries_are_checked(wrong: dict[str, str]) -> None:
    texts = dict.fromkeys(("title", "licence", "source", "citation"), "-")
    with pytest.raises(ConfigError):
        NamedWeights(**({"name": "w", "file": "w.pth"} | texts | wrong))


def test_the_table_names_the_published_weights() -> None:
    table = list_weights()
    assert [*table] == ["spectralgpt-tiny-s2", "SpectralGPT", "SpectralGPT+"]
    published = [item.url for item in table.values() if item.url is not None]
    assert len(published) == 2
    assert all(url.startswith("https://zenodo.org/") for url in published)


def test_weights_in_the_package_need_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "made", tiny_model(), tiny_contract())
    (folder / "model.safetensors").rename(tmp_path / "stand-in.safetensors")
    put_table(tmp_path, monkeypatch, file="stand-in.safetensors", contract=CONTRACT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = spectralgpt.load("Stand-In")
    images = torch.rand(1, 12, 32, 32)
    assert encoder(images).equal(tiny_model().encoder.eval()(images))
    (tmp_path / "stand-in.safetensors").unlink()
    with pytest.raises(CheckpointError, match="install the package again"):
        spectralgpt.load("stand-in")


def test_any_command_takes_a_name(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As published files, it says nothing of wavelengths.
    published = save_published(
        tmp_path / "theirs.pth", MaskedAutoencoder(32, 12, **TINY)
    )
    server.content = published.read_bytes()
    server.breaks_after = [100_000]
    entry = {"file": "theirs.pth", "url": server.url}
    put_table(tmp_path, monkeypatch, **entry, contract=CONTRACT)
    assert find_weights("stand-in", is_needed=False) is None
    assert main(["info", "stand-in"]) == 0
    assert "MaskedAutoencoder" in capsys.readouterr().out
    assert main(["convert", "stand-in", "--output", str(tmp_path / "ours")]) == 0
    ours, theirs = load_model(tmp_path / "ours"), load_model("stand-in")
    for name, value in theirs.model.state_dict().items():
        assert ours.model.state_dict()[name].equal(value)
    put_table(tmp_path, monkeypatch, **entry, contract={"image_size": 96})
    assert main(["info", "stand-in"]) == 1
    assert "should have image_size 96, but" in capsys.readouterr().err


def test_pickled_code_is_not_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": {"a": Path("code")}}, tmp_path / "bad.pth")
    server.content = (tmp_path / "bad.pth").read_bytes()
    put_table(tmp_path, monkeypatch, file="bad.pth", url=server.url)
    with pytest.raises(CheckpointError, match="pickled code"):
        spectralgpt.load("stand-in")


def test_a_path_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "SpectralGPT").mkdir()
    # A clone of the published code, say.
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        find_weights("SpectralGPT")
    save_model(tmp_path / "SpectralGPT", tiny_model(), tiny_contract())
    assert find_weights("SpectralGPT") == Path("SpectralGPT/model.safetensors")


def test_the_command_lists_downloads_and_verifies(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["weights", "list"]) == 0
    assert "SpectralGPT+" in capsys.readouterr().out
    assert main(["weights", "list", "SpectralGPT+"]) == 0
    assert "size: not known" in capsys.readouterr().out
    assert main(["weights", "download", "SpectralGTP"]) == 1
    assert "did you mean 'SpectralGPT'?" in capsys.readouterr().err
    put_table(tmp_path, monkeypatch, file="w.pth", url=server.url)
    assert main(["weights", "verify"]) == 0
    assert "no weights are here yet" in capsys.readouterr().out
    assert main(["weights", "download", "stand-in"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path.read_bytes() == CONTENT
    assert main(["weights", "verify"]) == 0
    assert f"stand-in: {SHA256}, as pinned in {path}.sha256" in capsys.readouterr().out
    path.write_bytes(CONTENT[1:])
    assert main(["weights", "verify"]) == 1
    assert "is not stand-in" in capsys.readouterr().err
