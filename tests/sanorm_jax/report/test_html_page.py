"""The report is one well-formed page that loads nothing and shows what it is given."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from sanorm_jax.drawing import figures
from sanorm_jax.report import html_page

_VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """Collects elements with their attributes and text; checks that all close."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in _VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for index in self.open:
            self.elements[index][2].append(data)

    def texts(self, tag):
        return ["".join(text).strip() for t, _, text in self.elements if t == tag]

    def attributes(self, tag):
        return [attrs for t, attrs, _ in self.elements if t == tag]


def picture():
    labels = np.arange(16).reshape(4, 4)
    return figures.segmentation_overlay(np.zeros((4, 4, 3)), labels)


def plot():
    lines = {"": {"a": {1: [2.0]}}}
    return figures.sweep_plots(lines, xlabel="slots", ylabel="FG-ARI")


def sections():
    return [
        html_page.Section(
            "Question <1>", "First & `code_name`.\n\nSecond – paragraph."
        ),
        html_page.Section("Plot", figure=plot(), caption="Scores of `none`"),
        html_page.Section("Picture", figure=picture()),
        html_page.Section(
            "Numbers",
            table=[
                {"normalization": "none", "fg_ari": 0.51234, "slots": 7, "run": None},
                {"normalization": "<b>", "fg_ari": 1e-5, "slots": 11, "best": True},
            ],
            table_caption="All runs",
        ),
        html_page.Section("Settings", code="python -m x --a=<b>\nc: 1"),
    ]


@pytest.fixture
def page(tmp_path):
    path = html_page.write_report(
        tmp_path / "new" / "report.html", "Title & more", sections(), summary="Short."
    )
    return path.read_text("ascii")


def test_page_contains_its_parts(page):
    parsed = Page(page)
    assert parsed.texts("h1") == parsed.texts("title") == ["Title & more"]
    titles = ["Question <1>", "Plot", "Picture", "Numbers", "Settings"]
    assert parsed.texts("h2") == parsed.texts("a") == titles
    assert parsed.texts("p") == ["Short.", "First & code_name.", "Second – paragraph."]
    assert parsed.texts("figcaption") == ["Scores of none"]
    assert parsed.texts("pre") == ["python -m x --a=<b>\nc: 1"]
    targets = {attrs["href"] for attrs in parsed.attributes("a")}
    assert targets == {f"#{attrs['id']}" for attrs in parsed.attributes("section")}


def test_table_has_all_columns_and_readable_numbers(page):
    parsed = Page(page)
    head = ["normalization", "fg_ari", "slots", "run", "best"]
    assert parsed.texts("caption") == ["All runs"]
    assert parsed.texts("th") == [*head, "none", "<b>"]
    assert parsed.texts("td") == ["0.512", "7", "", "", "1e-05", "11", "", "True"]
    right = [attrs.get("class") for attrs in parsed.attributes("th")[:5]]
    assert right == [None, "number", "number", None, None]


def test_page_loads_nothing_from_elsewhere(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe"} & {tag for tag, _, _ in parsed.elements}
    assert all(a["src"].startswith("data:") for a in parsed.attributes("img"))
    assert "url(" not in page and "@import" not in page
    policy = [a["content"] for a in parsed.attributes("meta") if "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_lines_become_svg_and_pictures_png(page):
    images = Page(page).attributes("img")
    assert [a["alt"] for a in images] == ["Scores of none", "Picture"]
    kinds, contents = zip(
        *(re.fullmatch("data:(.*);base64,(.*)", a["src"]).groups() for a in images),
        strict=True,
    )
    assert kinds == ("image/svg+xml", "image/png")
    assert b"<svg" in base64.b64decode(contents[0])
    with Image.open(io.BytesIO(base64.b64decode(contents[1]))) as image:
        assert image.width > 300


def test_figure_files_are_embedded_unchanged(tmp_path):
    path = tmp_path / "figure.png"
    figures.save(picture(), path)
    section = html_page.Section("s", figure=path)
    page = html_page.write_report(tmp_path / "report.html", "t", [section])
    assert base64.b64encode(path.read_bytes()).decode() in page.read_text()


def test_failed_report_keeps_the_old_one(tmp_path):
    path = html_page.write_report(tmp_path / "report.html", "old", [])
    with pytest.raises(FileNotFoundError):
        section = html_page.Section("s", figure=tmp_path / "gone.png")
        html_page.write_report(path, "new", [section])
    assert Page(path.read_text()).texts("h1") == ["old"]


def test_equal_results_give_equal_pages(page, tmp_path):
    again = html_page.write_report(
        tmp_path / "again.html", "Title & more", sections(), summary="Short."
    )
    assert page == again.read_text("ascii")
