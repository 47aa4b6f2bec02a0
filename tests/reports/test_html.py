"""A report is one file: nothing in it reaches out, and no text becomes markup."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from spectralgpt.demo import story
from spectralgpt.reports.html import TEMPLATES, _render_report, write_report
from spectralgpt.reports.style import new_figure
from tests.viewer.serving import system_browser

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'n'"


PAGE = """{% extends "page.html" %}
{% from "parts.html" import figure, link, section, table with context %}
{% block summary %}<p>{{ text }}</p>{% endblock %}
{% block sections %}
{% for title in titles %}
{% call section(title) %}
<p>{{ text }}</p>
{{ link(path, text) }}
{{ table(header, rows, text) }}
{{ figure(image, text, text) }}
{% endcall %}
{% endfor %}
{% endblock %}
"""


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


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.html"
    path.write_text(PAGE)
    new_figure(1, 1).savefig(tmp_path / "figure.png")
    return path


def render(template: Path, text: str = HOSTILE, **shown: object) -> str:
    figure = new_figure(1, 1)
    figure.subplots().plot([1, 2])
    values: dict[str, object] = {
        "titles": [text],
        "text": text,
        "path": text,
        "header": [text],
        "rows": [[text, text]],
        "image": figure,
    }
    facts = [(text, text)]
    return _render_report(template, text, facts=facts, **(values | shown))


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_text_never_becomes_markup(template: Path) -> None:
    reader = read(render(template))
    assert not reader.open
    assert "script" not in {tag for tag, _ in reader.tags}
    # Title x 2, contents, heading, text, link, table x 4, caption, summary, fact x 2.
    assert reader.text.count(HOSTILE) == 14
    [image] = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image["alt"] == HOSTILE


def test_nothing_is_loaded_from_elsewhere(template: Path) -> None:
    page = render(template)
    for tag, attributes in read(page).tags:
        for name in ("src", "href"):
            target = attributes.get(name)
            is_link = tag == "a" and ":" not in (target or "")
            assert target is None or target.startswith(("data:", "#")) or is_link
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_page_serves_phones_and_both_colour_schemes(template: Path) -> None:
    page = render(template)
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page
    assert '<html lang="en">' in page


@pytest.mark.slow
def test_nothing_sticks_out_on_a_phone(template: Path) -> None:
    wide = new_figure(9, 3)
    wide.subplots().plot([1, 2])
    table = {"header": ["column"] * 30, "rows": [["0.123"] * 30]}
    page = template.with_name("page.html")
    page.write_text(render(template, "a_run_" * 20, image=wide, **table))
    with system_browser() as browser:
        shown = browser.new_page(viewport={"width": 390, "height": 800})
        shown.goto(page.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        # Captions are read without scrolling, and letters in figures are no dots.
        for part in ("caption", "figcaption"):
            box = shown.locator(part).bounding_box()
            assert box["x"] + box["width"] <= 390
        assert shown.locator("img").bounding_box()["width"] > 600


def test_pictures_are_png_inside_the_page(template: Path) -> None:
    [data] = re.findall(r"data:image/png;base64,([^\"]+)", render(template))
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_picture_from_a_file_is_embedded_unchanged(template: Path) -> None:
    path = template.parent / "figure.png"
    [data] = re.findall(r"base64,([^\"]+)", render(template, image=path))
    assert base64.b64decode(data) == path.read_bytes()


def test_contents_link_to_their_sections(template: Path) -> None:
    reader = read(render(template, titles=["one", "two"]))
    links = [str(a["href"]) for tag, a in reader.tags if tag == "a"]
    identities = [f"#{a['id']}" for tag, a in reader.tags if tag == "section"]
    assert links[:2] == identities == ["#section-1", "#section-2"]


def test_numbers_are_aligned_and_words_are_not(template: Path) -> None:
    rows = [["row", "0.91 ± 0.02", "12 %", "a1 words"]]
    page = render(template, rows=rows)
    assert page.count('<td class="number">') == 2
    assert "<td>a1 words</td>" in page


def test_write_replaces_the_old_report_and_leaves_nothing_else(
    template: Path, tmp_path: Path
) -> None:
    template.write_text("{% extends 'page.html' %}")
    path = tmp_path / "run" / "report.html"
    write_report(path, template, "old")
    assert write_report(path, template, "new") == path
    assert "<h1>new</h1>" in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_links_stay_relative_paths(template: Path) -> None:
    page = render(template, text="one & two", path="a b/x.html")
    assert '<a href="a%20b/x.html">one &amp; two</a>' in page
    assert '<a href="js%3Ax%28%29">no</a>' in render(template, "no", path="js:x()")


def test_a_page_that_lacks_what_it_shows_is_not_written(template: Path) -> None:
    with pytest.raises(UndefinedError, match="'titles' is undefined"):
        write_report(template.parent / "report.html", template, "t", text="")
    assert not (template.parent / "report.html").exists()


@pytest.mark.parametrize(
    "path",
    [*TEMPLATES.glob("*.html"), Path(story.__file__).with_suffix(".html")],
    ids=lambda path: path.name,
)
def test_no_template_lets_text_through_or_links_elsewhere(path: Path) -> None:
    source = path.read_text(encoding="utf-8").lower()
    found = re.findall(r"\|\s*safe|autoescape|<script|://|javascript:|\son\w+=", source)
    assert found == []
