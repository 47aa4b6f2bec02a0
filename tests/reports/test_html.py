"""A report is one file: nothing in it reaches out, and no text becomes markup."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

from spectralgpt.reports.html import (
    Picture,
    Section,
    Table,
    render_report,
    write_report,
)
from spectralgpt.reports.style import new_figure

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'n'"


class Reader(HTMLParser):
    """Collect tags, their attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_page() -> str:
    figure = new_figure(1, 1)
    figure.subplots().plot([1, 2])
    section = Section(
        HOSTILE,
        HOSTILE,
        [Picture(figure, HOSTILE, HOSTILE)],
        [Table([HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)],
    )
    facts = [(HOSTILE, HOSTILE)]
    return render_report(HOSTILE, [section], summary=HOSTILE, facts=facts)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_text_never_becomes_markup() -> None:
    reader = read(hostile_page())
    assert not reader.open
    assert "script" not in {tag for tag, _ in reader.tags}
    # Title (twice), contents, heading, text, table x 4, caption, summary, fact x 2.
    assert reader.text.count(HOSTILE) == 13
    [image] = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image["alt"] == HOSTILE


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = hostile_page()
    for _, attributes in read(page).tags:
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#"))
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_page_serves_phones_and_both_colour_schemes() -> None:
    page = hostile_page()
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page
    assert '<html lang="en">' in page


def test_pictures_are_png_inside_the_page() -> None:
    [data] = re.findall(r"data:image/png;base64,([^\"]+)", hostile_page())
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_picture_from_a_file_is_embedded_unchanged(tmp_path: Path) -> None:
    figure = new_figure(1, 1)
    figure.savefig(tmp_path / "figure.png")
    section = Section("s", figures=[Picture(tmp_path / "figure.png", "alt")])
    [data] = re.findall(r"base64,([^\"]+)", render_report("t", [section]))
    assert base64.b64decode(data) == (tmp_path / "figure.png").read_bytes()


def test_contents_link_to_their_sections() -> None:
    page = render_report("t", [Section("one"), Section("two")])
    reader = read(page)
    links = [a["href"] for tag, a in reader.tags if tag == "a"]
    identities = [f"#{a['id']}" for tag, a in reader.tags if tag == "section"]
    assert links == identities == ["#section-1", "#section-2"]


def test_numbers_are_aligned_and_words_are_not() -> None:
    table = Table(["", "", "", ""], [["row", "0.91 ± 0.02", "12 %", "a1 words"]])
    page = render_report("t", [Section("s", tables=[table])])
    assert page.count('<td class="number">') == 2
    assert "<td>a1 words</td>" in page


def test_write_replaces_the_old_report_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.html"
    write_report(path, "old", [])
    assert write_report(path, "new", []) == path
    assert "<h1>new</h1>" in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_links_stay_relative_paths() -> None:
    section = Section("Parts", links=[("one & two", "a b/x.html"), ("no", "js:x()")])
    page = render_report("t", [section])
    assert '<a href="a%20b/x.html">one &amp; two</a>' in page
    assert '<a href="js%3Ax%28%29">no</a>' in page
