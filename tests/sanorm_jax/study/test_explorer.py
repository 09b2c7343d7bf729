"""The interactive part of a study's page, in a browser; and what it is made from."""

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from sanorm_jax.drawing import painting
from sanorm_jax.report import html_page
from sanorm_jax.study import explorer, jobs, page, results
from tests import browser

_SHOWN = "document.querySelector('output').textContent"
_VALUES = "[...document.querySelectorAll('dd')].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def report(study):
    """Return the page of the study and the content of its interactive part."""
    config, created, workdir = study
    path = page.write(config, created, workdir)
    (content,) = re.findall(
        r'<script type="application/json">(.*?)</script>', path.read_text()
    )
    return path, json.loads(content)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.start(tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


def _open(tab, report, **options):
    path, content = report
    tab.open(path, **options)
    tab.wait(f"{_SHOWN} === '{content['slots'][-1]}'")
    return content


def _labels(png: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(png))).convert("L"))


def _expected(content, model: int, place: int, scene: int) -> list[str]:
    """Return the texts of the measures."""
    model = content["settings"]["few"]["models"][model]
    *measured, used = model["values"][place][scene]
    texts = [f"{value:.3f}" for value in measured]
    objects = content["scenes"][scene]["objects"]
    return [*texts, f"{used} of {content['slots'][place]}", str(objects)]


def test_label_maps_are_the_model_s_in_the_colors_of_its_objects(study, report):
    _, created, _ = study
    _, content = report
    examples, _ = jobs.read_arrays(created[0].images_path("random"))
    colors = np.array(content["colors"])
    for job, model in zip(created, content["settings"]["few"]["models"], strict=True):
        for slots, labels in zip(content["slots"], model["labels"], strict=True):
            samples, _ = jobs.read_arrays(job.samples_path("random", slots))
            for true, predicted, png in zip(
                examples["segmentation"], samples["segmentation"], labels, strict=True
            ):
                matched = painting.matched_colors(true.astype(int), predicted, slots)
                shown = [explorer.to_hex(c) for c in matched[predicted].reshape(-1, 3)]
                assert colors[_labels(png)].ravel().tolist() == shown


def test_measures_are_those_of_the_image_and_curves_those_of_the_table(study, report):
    config, created, _ = study
    _, content = report
    job, model = created[1], content["settings"]["few"]["models"][1]
    assert content["kinds"] == ["FG-ARI", "ARI"] and model["name"] == "weighted sum"
    examples, _ = jobs.read_arrays(job.images_path("random"))
    table, _ = jobs.read_arrays(job.table_path("random", 3))
    for index, (fg_ari, ari, used) in zip(
        examples["index"], model["values"][0], strict=True
    ):
        (row,) = np.flatnonzero(table["index"] == index)
        assert fg_ari == pytest.approx(table["fg_ari_masks_refined"][row], abs=1e-4)
        assert ari == pytest.approx(table["ari_masks_refined"][row], abs=1e-4)
        assert 1 <= used <= 3
    data = results.Data("random", job, config)
    (row,) = results.select(
        results.collect(config, [job], [data]),
        num_slots=3,
        min_objects=2,
        max_objects=int(data.num_objects.max()),
    )
    assert model["curve"][0] == pytest.approx(row["fg_ari_masks_refined"])


def test_keys_choose_scene_variant_and_slots(tab, report):
    content = _open(tab, report)
    assert tab.run(_VALUES) == _expected(content, 0, 1, 0)
    before = tab.run("document.querySelector('circle').getAttribute('cx')")
    tab.run("document.querySelector('.scenes input').focus()")
    tab.press("ArrowRight")
    tab.press("Tab")
    tab.press("ArrowRight")
    tab.press("Tab")
    tab.press("ArrowLeft")
    tab.wait(f"{_SHOWN} === '3'")
    assert tab.run(_VALUES) == _expected(content, 1, 0, 1)
    after = tab.run("document.querySelector('circle').getAttribute('cx')")
    assert float(after) < float(before)
    assert tab.run("document.activeElement.ariaValueText") == "3 slots"
    label = tab.run("document.querySelectorAll('canvas')[2].ariaLabel")
    assert label.startswith("Segments of weighted sum with 3 slots")
    tab.press("End")
    tab.wait(f"{_SHOWN} === '5'")
    assert not tab.errors


def test_pictures_show_the_chosen_label_map(tab, report):
    content = _open(tab, report)
    tab.run("document.querySelector('input[type=range]').focus()")
    tab.press("Home")
    tab.wait(f"{_SHOWN} === '3'")
    # The middle of each of the 16 x 16 pixels, which no outline covers.
    colors = tab.run("""(() => {
        const canvas = document.querySelectorAll("canvas")[2];
        const context = canvas.getContext("2d"), step = canvas.width / 16;
        return Array.from({length: 256}, (_, i) => [...context.getImageData(
            (i % 16 + 0.5) * step, (Math.floor(i / 16) + 0.5) * step, 1, 1
        ).data.slice(0, 3)]);
    })()""")
    index = _labels(content["settings"]["few"]["models"][0]["labels"][0][0])
    expected = [content["colors"][i] for i in index.ravel()]
    assert ["#" + bytes(color).hex() for color in colors] == expected


def test_touch_moves_the_slider_and_chooses_a_scene(tab, report):
    content = _open(tab, report, width=400)
    tab.tap("input[type=range]", at=0.03)
    tab.wait(f"{_SHOWN} === '3'")
    tab.tap(".scenes label:nth-of-type(2)")
    tab.tap(".choices label:nth-of-type(2)")
    expected = json.dumps(_expected(content, 1, 0, 1))
    tab.wait(f"JSON.stringify({_VALUES}) === JSON.stringify({expected})")
    assert not tab.errors


def test_a_setting_offers_the_variants_that_were_trained(tab, study, tmp_path):
    config, created, _ = study
    data = results.Data("random", created[0], config)
    rows = results.collect(config, created, [data])
    shown = explorer.create(config, created, data, rows)
    settings = shown["content"]["settings"]
    only = settings["few"]["models"][1]
    settings["many"] = {"trained_with": 5, "models": [only]}
    section = html_page.Section("Explore", explorer=shown)
    tab.open(html_page.write_report(tmp_path / "report.html", "Page", [section]))
    tab.wait(f"{_SHOWN} === '5'")
    tab.run("document.querySelector('[name$=-setting][value=many]').click()")
    chosen = "document.querySelector('[name$=-variant]:checked').value"
    tab.wait(f"{chosen} === 'weighted sum'")
    assert tab.run("document.querySelector('[name$=-variant]').disabled")
    tab.run("document.querySelector('[name$=-setting][value=few]').click()")
    tab.wait("!document.querySelector('[name$=-variant]').disabled")
    assert not tab.errors


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 400, 1200])
def test_nothing_overflows(tab, report, width, dark):
    _open(tab, report, width=width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    ends = tab.run("""[...document.querySelectorAll(".explorer, .explorer *")].map(
        (each) => each.getBoundingClientRect().right)""")
    assert max(ends) <= width


def test_the_page_loads_nothing(tab, report):
    _open(tab, report)
    assert tab.requests == [report[0].as_uri()]
    assert not tab.errors


def test_page_without_scripts_shows_the_images(tab, report):
    path, _ = report
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(path)
        shown = tab.run("document.body.innerText")
        assert "needs JavaScript" in shown and "Number of slots" not in shown
        loaded = tab.run("""[...document.querySelectorAll("img")]
            .filter((each) => each.offsetWidth && each.naturalWidth).length""")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert loaded >= path.read_text().count("<figcaption>Held-out images") > 0


def test_page_works_without_label_maps(study):
    config, created, workdir = study
    lost = created[1].samples_path("random", 3)
    lost.unlink()
    assert jobs.is_reportable(created[1], config)
    assert not jobs.is_finished(created[1], config)
    text = page.write(config, created, workdir).read_text()
    assert "<script" not in text and "The same images with 5 slots" in text
    assert f"python -m sanorm_jax.study --workdir={workdir}" in html.unescape(text)
    assert jobs.run(created[1], config) == 0
    assert jobs.is_finished(created[1], config)
    assert "<script" in page.write(config, created, workdir).read_text()
