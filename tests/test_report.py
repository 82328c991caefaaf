"""The page of the report: its contents, its notices, and how it works in a real browser."""

import base64
import json
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, SampleError
from sparsem.geometry import VoxelSize, ZBlock
from sparsem.labels.constrain import constrain, remove_constrained
from sparsem.labels.inventory import describe
from sparsem.labels.objects import objects
from sparsem.measure.contacts import contacts
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.skeletons import skeletons
from sparsem.report import page as page_module
from sparsem.report.encode import encode_mesh, encode_numbers, gray_image_uri, mask_uri
from sparsem.report.mesh import Mesh
from sparsem.report.report import report
from sparsem.report.scene3d.lines import MAX_POINTS, encode_skeletons
from sparsem.report.settings import ReportSettings
from sparsem.report.slices import encode_slices, scale_bar
from sparsem.score.score import score
from sparsem.settings import Settings, changed
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage
from tests.conftest import copy_of, drawn, put
from tests.test_measure import SHAPE, tissue_of

pytestmark = pytest.mark.xdist_group("report")  # one process makes the sample and its page

AGAIN = Execution(overwrite=True, quiet=True)
SMALL = ReportSettings(n_slices=5, triangles=6000)
MEASURES = MeasureSettings(min_voxels=8, spectrum_sizes=3, protrusion_nm=60)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A sample with measurements, constraints, ground truth and scores."""
    sample = tissue_of(tmp_path_factory.mktemp("reported") / "tissue.zarr")
    for name in ("nucleus", "nucleolus", "mitochondrion"):
        labels = sample.volume("labels", name).read(slice(None))
        put(
            sample,
            f"probabilities/{name}",
            np.where(labels > 0, 220, 20).astype(np.uint8),
            7,
            VoxelSize(20, 10, 10),
        )
        put(sample, f"truth/{name}", np.roll(labels, 1, axis=2), 7, VoxelSize(20, 10, 10))
    constrain(sample)
    for name in ("nucleus", "nucleolus", "mitochondrion"):
        score(sample, name)
    measure(sample, MEASURES)
    return sample


@pytest.fixture(scope="module")
def networks(complete: Sample) -> Sample:
    """The sample with contacts and skeletons."""
    sample = copy_of(complete, complete.path.with_name("networks.zarr"))
    contacts(sample, "mitochondrion", "nucleus", distance_nm=400)
    contacts(sample, "mitochondrion", "mitochondrion", distance_nm=400)
    skeletons(sample, "mitochondrion")
    skeletons(sample, "cells")
    return sample


@pytest.fixture(scope="module")
def page(complete: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two samples, the second one with a name that a page must not read as HTML."""
    folder = tmp_path_factory.mktemp("page")
    second = copy_of(complete, folder / '<b>O\'Hara & "Sons"<script>alert(1).zarr')
    return report([complete.path, second.path], folder / "report.html", SMALL).path


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert match
    return dict(json.loads(match.group(1)))


def test_the_page_loads_nothing_and_escapes_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    links = re.findall(
        r"""(?:src|href)\s*=\s*["']([^"']+)""", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    )
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in text
    assert "url(http" not in text
    assert page.stat().st_size < 15_000_000


def test_the_page_shows_all_results(page: Path, complete: Sample) -> None:
    text = page.read_text(encoding="utf-8")
    for words in (
        "Summary",
        "every feature",
        "pattern spectrum",
        "Dice along z: tissue",
        "Organelle volume per cell",
        "Processing history",
    ):
        assert words in text, words
    assert "equation 8, Machireddy et al. 2023" in text
    samples = data_of(page)["samples"]
    assert [len(view["slices"]) for view in samples] == [3, 3]
    assert set(samples[0]["slices"][0]["predicted"]) == {
        "cells",
        "nucleus",
        "nucleolus",
        "mitochondrion",
    }
    assert set(samples[0]["slices"][0]["truth"]) == {"nucleus", "nucleolus", "mitochondrion"}
    assert [structure["name"] for structure in samples[0]["scene"]["structures"]] == [
        "cells",
        "nucleus",
        "nucleolus",
        "mitochondrion",
    ]
    assert samples[0]["scene"]["size"] == pytest.approx([0.38, 0.6, 0.7])
    downloads = dict(re.findall(r'data-file="([^"]+)" data-content="([^"]+)"', text))
    csv = zlib.decompress(base64.b64decode(downloads["tissue_nucleus.csv"])).decode()
    assert csv.splitlines()[0].startswith('"object","cell"')
    assert len(csv.splitlines()) == 1 + complete.read_table("nucleus").num_rows
    both = zlib.decompress(base64.b64decode(downloads["nucleus.csv"])).decode()
    assert len(both.splitlines()) == 1 + 2 * complete.read_table("nucleus").num_rows


def test_encoded_images_and_meshes_equal_their_source(complete: Sample) -> None:
    gray = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    assert (
        np.abs(
            np.asarray(image_of(gray_image_uri(gray, 95)).convert("L")).astype(int) - gray
        ).mean()
        < 4
    )
    mask = drawn("....", ".11.", ".11.") > 0
    rgba = np.asarray(image_of(mask_uri(mask, (10, 200, 30))).convert("RGBA"))
    np.testing.assert_array_equal(rgba[..., 3] > 0, mask)
    labels = drawn("1122", "1122", "....", "....").astype(np.uint32) * 70_000
    encoded = encode_numbers(labels)
    assert (encoded["height"], encoded["width"]) == (4, 4)
    np.testing.assert_array_equal(numbers_in(encoded["numbers"], "<u4"), labels.ravel())
    (entry,) = encode_slices(complete.image(), [], [], [4], 900, 10**6)
    assert image_of(entry["image"]).size == (SHAPE[2], SHAPE[1])
    mesh = Mesh(np.array([[0.0, 0, 0], [1, 2, 3], [2, 2, 2]]), np.array([[0, 1, 2]]))
    steps = numbers_in(encode_mesh(mesh, 4.0)["vertices"], "<u2").reshape(3, 3)
    np.testing.assert_allclose(steps / 65535 * 4, mesh.vertices[:, ::-1], atol=1e-4)


def numbers_in(text: str, dtype: str) -> NDArray[Any]:
    """Return the numbers of a compressed text: the bytes of equal significance are together."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    size = np.dtype(dtype).itemsize
    return planes.reshape(size, -1).T.copy().view(dtype).ravel()


def image_of(uri: str) -> Image.Image:
    import io

    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def notice_texts(sample: Sample, path: Path, settings: ReportSettings = SMALL) -> str:
    page = report([sample.path], path, settings, on=AGAIN)
    return " ".join(notice.text for notices in page.notices.values() for notice in notices)


@pytest.mark.usefixtures("few_plots")
def test_missing_parts_are_reported_and_the_rest_is_shown(complete: Sample, tmp_path: Path) -> None:
    sample, page = copy_of(complete, tmp_path / "s.zarr"), tmp_path / "r.html"
    words = notice_texts(
        sample,
        page,
        changed(
            SMALL, {"structures": ("nucleus", "lysosome"), "truth": {"nucleus": "nowhere.tif"}}
        ),
    )
    assert "s.zarr has no labels/lysosome" in words
    assert (
        "The ground truth of nucleus is not shown: There is no file or folder nowhere.tif" in words
    )
    assert set(data_of(page)["samples"][0]["slices"][0]["predicted"]) == {"nucleus"}
    put(sample, "labels/odd", np.ones((4, 60, 70), np.uint8))
    assert (
        "odd is not drawn over the slices: its shape is (4, 60, 70), that of its image is (19, 60, "
        "70)" in notice_texts(sample, page)
    )
    shutil.rmtree(sample.path / "labels" / "odd")
    put(sample, "labels/mitochondrion", np.zeros(SHAPE, np.uint8), 7, VoxelSize(20, 10, 10))
    words = notice_texts(sample, page)
    assert (
        "labels/mitochondrion of s.zarr has changed since labels/nucleus was constrained" in words
    )
    assert "nucleus" in data_of(page)["samples"][0]["slices"][0]["predicted"]


@pytest.mark.usefixtures("few_plots")
def test_a_sample_without_image_and_a_folder_that_is_no_sample(
    complete: Sample, tmp_path: Path
) -> None:
    sample = Sample.create(tmp_path / "labels only.zarr")
    put(
        sample,
        "labels/nucleus",
        complete.volume("labels", "nucleus").read(slice(None)),
        7,
        VoxelSize(20, 10, 10),
    )
    (tmp_path / "none.zarr").mkdir()
    result = report(
        [sample.path, tmp_path / "none.zarr", complete.path], tmp_path / "r.html", SMALL
    )
    words = " ".join(notice.text for notices in result.notices.values() for notice in notices)
    assert "labels only.zarr has no image, only labels" in words
    assert "none.zarr is not a sparsem sample" in words
    samples = data_of(result.path)["samples"]
    assert [len(view["slices"]) for view in samples] == [0, 0, 3]
    assert [bool(view["scene"].get("structures")) for view in samples] == [True, False, True]
    with pytest.raises(SampleError, match="is not a sparsem sample"):
        report([tmp_path / "none.zarr"], tmp_path / "n.html")


@pytest.mark.usefixtures("few_plots")
def test_notices_report_what_limits_the_measurements(complete: Sample, tmp_path: Path) -> None:
    words = notice_texts(complete, tmp_path / "r.html")
    assert "cells has not been validated against ground truth" in words
    assert "nucleus has not been validated" not in words
    bare = Sample.create(tmp_path / "bare.zarr")
    put(bare, "", np.zeros(SHAPE, np.uint8), 7)
    put(bare, "labels/nucleus", np.zeros(SHAPE, np.uint8), 7)
    assert "Nothing was measured yet; run 'sparsem measure'" in notice_texts(
        bare, tmp_path / "b.html"
    )
    measure(bare, MEASURES)
    assert "nucleus: no object was found" in notice_texts(bare, tmp_path / "b.html")
    put(bare, "labels/nucleus", np.ones(SHAPE, np.uint8), 7)
    assert (
        "nucleus has changed since it was measured; run 'sparsem measure --overwrite'"
        in notice_texts(bare, tmp_path / "b.html")
    )
    measure(bare, MEASURES, on=AGAIN)
    assert "nucleus: 1 of 1 objects are cut by the border" in notice_texts(
        bare, tmp_path / "b.html"
    )


@pytest.mark.usefixtures("few_plots")
def test_textures_that_cannot_be_compared_are_reported(complete: Sample, tmp_path: Path) -> None:
    second = copy_of(complete, tmp_path / "cost$\\frac$x.zarr")
    measure(second, changed(MEASURES, {"texture_nm": 80.0}), on=AGAIN)
    for name in ("nucleus", "nucleolus", "mitochondrion"):
        table = second.read_table(name)
        column = table.column_names.index("texture_voxel_nm")
        second.write_table(
            name, table.set_column(column, "texture_voxel_nm", [[40.0] * table.num_rows])
        )
    result = report([complete.path, second.path], tmp_path / "r.html", SMALL)
    words = [notice.text for notice in result.notices["tissue"]]
    assert any(
        text.startswith("Texture of nucleus cannot be compared: its voxels differ (tissue 20 nm,")
        for text in words
    )
    with pytest.raises(InputError, match="--truth belongs to one sample"):
        report(
            [complete.path, second.path],
            tmp_path / "s.html",
            changed(SMALL, {"truth": {"nucleus": "x.tif"}}),
        )


@pytest.mark.usefixtures("few_plots")
def test_damaged_tables_and_outdated_scores_are_reported(complete: Sample, tmp_path: Path) -> None:
    sample = copy_of(complete, tmp_path / "s.zarr")
    (sample.path / "tables" / "phantom.parquet").write_bytes(b"PAR1 not")
    assert "The scores of nucleus belong to other labels" not in notice_texts(
        sample, tmp_path / "before.html"
    )
    assert re.search(
        r"<td>nucleus</td>.*0\.\d{3} on \d+ compared slices",
        (tmp_path / "before.html").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert describe(sample)["outdated"] == []
    remove_constrained(sample)
    words = notice_texts(sample, tmp_path / "r.html")
    assert "The table phantom.parquet is damaged and not shown" in words
    assert "The scores of nucleus belong to other labels than the current ones" in words
    assert "nucleus has changed since it was measured" in words
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (
        "compared slices" not in text
    )  # an outdated score must not appear as that of the new labels
    assert "Dice along z" not in text
    assert {"tables/scores_nucleus", "tables/nucleus"} <= set(describe(sample)["outdated"])


@pytest.mark.parametrize(
    ("width_nm", "words"), [(4_700, "500 nm"), (10_000, "2 µm"), (51_200, "10 µm"), (99, "10 nm")]
)
def test_scale_bars_are_round_lengths(width_nm: float, words: str) -> None:
    part, length = scale_bar(width_nm)
    assert length == words
    number, unit = words.split()
    assert part * width_nm == pytest.approx(float(number) * {"nm": 1, "µm": 1000}[unit])
    assert 0.08 < part <= 0.2


@pytest.mark.usefixtures("few_plots")
def test_tables_beyond_the_budget_are_named(
    complete: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAX_TABLE_BYTES", 4000)
    text = report([complete.path], tmp_path / "r.html", SMALL).path.read_text(encoding="utf-8")
    contents = re.findall(r'data-content="([^"]+)"', text)
    assert contents
    assert sum(map(len, contents)) <= 4000
    assert "too large for this page; see tables/dictionary.csv in the sample" in text


@pytest.mark.usefixtures("few_plots")
def test_pages_are_not_overwritten_unless_asked(complete: Sample, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("precious")
    with pytest.raises(InputError, match="exists; use --overwrite"):
        report([complete.path], page)
    with pytest.raises(InputError, match=r"ends in \.html, got 'r\.pdf'"):
        report([complete.path], tmp_path / "r.pdf")
    with pytest.raises(InputError, match="at least one sample"):
        report([], tmp_path / "s.html")
    assert page.read_text() == "precious"
    report([complete.path], page, SMALL, on=AGAIN)
    assert page.stat().st_size > 50_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that draws WebGL in software, and puts downloads into a folder."""
    program, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "google-chrome"), ("chromedriver",))
    )
    if not program or not driver:
        pytest.skip(
            "no Chromium with its driver on this machine (Debian: apt install chromium "
            "chromium-driver)"
        )
    from selenium import webdriver

    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(flag)
    options.binary_location = program
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.downloads = folder
    yield running
    running.quit()


def wait_for(condition: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("it did not happen")


PIXELS = """const canvas = document.querySelector("canvas[tabindex]"), gl = canvas.getContext("webgl2");
const out = new Uint8Array(4 * canvas.width * canvas.height);
gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, out);
const counts = new Map();
for (let i = 0; i < out.length; i += 4) {
  const key = out[i] << 16 | out[i + 1] << 8 | out[i + 2];
  counts.set(key, (counts.get(key) || 0) + 1);
}
return [counts.size, out.length / 4 - Math.max(...counts.values())];"""


def test_the_page_works_in_a_browser(browser: Any, page: Path) -> None:
    browser.set_window_size(1400, 1000)
    browser.get(page.as_uri())
    drawn_scene = "const one = document.querySelector('canvas[tabindex]'); return Number(one.dataset.drawn || 0)"
    wait_for(lambda: browser.execute_script(drawn_scene))
    colors, covered = browser.execute_script(PIXELS)
    assert colors > 30  # the 3D scene draws
    assert covered > 1000

    def sources(kind: str) -> list[str]:
        return list(
            browser.execute_script(
                f"return [...document.querySelectorAll('.stack.{kind} img')].map((image) => "
                "image.src)"
            )
        )

    before, text = (
        wait_for(lambda: sources("predicted")),
        browser.execute_script("return document.querySelector('.slice-viewer output').textContent"),
    )
    move = "const one = document.querySelector('.slider'); one.value = 0; one.dispatchEvent(new Event('input', {bubbles: true}))"
    browser.execute_script(move)  # the slice changes
    wait_for(lambda: sources("predicted")[0] != before[0])
    assert (
        browser.execute_script("return document.querySelector('.slice-viewer output').textContent")
        != text
    )
    shown = "return document.querySelectorAll('.stack.predicted .areas > *').length"
    wait_for(lambda: browser.execute_script(shown) == 8)
    browser.execute_script(
        "document.querySelector('.slice-viewer input.layer').click()"
    )  # a structure switches off in the slices
    wait_for(lambda: browser.execute_script(shown) == 7)
    frames = browser.execute_script(drawn_scene)
    browser.execute_script("document.querySelector('.scene input.layer').click()")  # and in 3D
    wait_for(lambda: browser.execute_script(drawn_scene) > frames)
    assert browser.execute_script(PIXELS) != [colors, covered]
    frames = browser.execute_script(drawn_scene)
    press = "document.querySelector('canvas[tabindex]').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
    browser.execute_script(press)  # it turns by the keyboard
    wait_for(lambda: browser.execute_script(drawn_scene) > frames)
    browser.execute_script(
        "document.querySelector('figure .download').click()"
    )  # a download arrives
    file = wait_for(lambda: next(iter(browser.downloads.glob("*.csv")), None))
    assert wait_for(lambda: file.read_text(encoding="utf-8")).startswith('"structure","z","use"')
    assert (
        browser.execute_script("return document.querySelector('h1').textContent")
        == "sparsem report"
    )
    assert not [
        entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ]  # no console error


CLICK_OBJECT = """const stack = document.querySelector(".stack.predicted");
const frame = stack.getBoundingClientRect();
const canvas = stack.querySelectorAll(".areas canvas")[LAYER];
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const index = Array.from({length: pixels.length / 4}, (_, i) => i).find((i) => pixels[4 * i + 3]);
const x = frame.left + frame.width * (index % canvas.width + 0.5) / canvas.width;
const y = frame.top + frame.height * (Math.floor(index / canvas.width) + 0.5) / canvas.height;
stack.dispatchEvent(new MouseEvent("click", {clientX: x, clientY: y, bubbles: true}));"""
SELECTED_TITLES = (
    "return [...document.querySelectorAll('.object-rows h4')].map((one) => one.textContent)"
)


def test_a_click_on_an_object_shows_its_rows(
    browser: Any, networks: Sample, tmp_path: Path
) -> None:
    page = report(networks, tmp_path / "networks.html", SMALL).path
    browser.set_window_size(1400, 1000)
    browser.get(page.as_uri())
    layers = "return document.querySelectorAll('.stack.predicted .areas canvas').length"
    wait_for(lambda: browser.execute_script(layers) == 4)
    browser.execute_script(CLICK_OBJECT.replace("LAYER", "3"))
    # Below the slices and below the 3D scene.
    wait_for(lambda: len(browser.execute_script(SELECTED_TITLES)) == 2)
    titles = browser.execute_script(SELECTED_TITLES)
    number = int(titles[0].removeprefix("mitochondrion "))
    text = browser.find_element("css selector", ".object-rows").text
    row = networks.read_table("mitochondrion").to_pydict()
    volume = row["volume_um3"][row["object"].index(number)]
    assert str(np.float32(volume)) in text
    assert "skeletons_mitochondrion" in text
    assert "contact_fraction_mitochondrion_nucleus" in text
    browser.execute_script("document.querySelector('#contacts button.select').click()")
    pair = networks.read_table("contacts_mitochondrion_mitochondrion").sort_by(
        [("area_um2", "descending")]
    )
    first = f"mitochondrion {pair['first'][0]}"
    wait_for(lambda: browser.execute_script(SELECTED_TITLES) == [first, first])
    # In 3D, a click on empty space selects nothing.
    canvas = browser.find_element("css selector", "canvas[tabindex]")
    events = "for (const kind of ['pointerdown', 'pointerup']) arguments[0].dispatchEvent(new PointerEvent(kind, {clientX: arguments[1], clientY: arguments[2], pointerId: 1}))"
    browser.execute_script(
        "const original = Element.prototype.setPointerCapture; Element.prototype.setPointerCapture = () => {};"
    )
    browser.execute_script("arguments[0].scrollIntoView()", canvas)
    frame = browser.execute_script(
        "const f = arguments[0].getBoundingClientRect(); return [f.left, f.top, f.width, f.height]",
        canvas,
    )
    browser.execute_script(events, canvas, frame[0] + 3, frame[1] + 3)
    wait_for(lambda: browser.execute_script(SELECTED_TITLES) == [])
    browser.execute_script(events, canvas, frame[0] + frame[2] / 2, frame[1] + frame[3] / 2)
    wait_for(lambda: browser.execute_script(SELECTED_TITLES) != [])
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_rows_of_earlier_objects_are_not_shown(networks: Sample, tmp_path: Path) -> None:
    sample = copy_of(networks, tmp_path / "s.zarr")
    before = data_of(report(sample, tmp_path / "a.html", SMALL).path)["samples"][0]
    names = [entry["table"] for entry in before["objects"]["mitochondrion"]["tables"]]
    assert names == [
        "mitochondrion",
        "skeletons_mitochondrion",
        "contact_fraction_mitochondrion_nucleus",
        "contacts_mitochondrion_nucleus",
        "contact_fraction_mitochondrion_mitochondrion",
        "contacts_mitochondrion_mitochondrion",
    ]
    mitochondria = before["scene"]["structures"][-1]
    assert len(mitochondria["parts"]) == networks.read_table("mitochondrion").num_rows
    points = networks.read_table("skeleton_lines_cells").num_rows
    lines = before["scene"]["structures"][0]["skeletons"]
    assert len(numbers_in(lines["vertices"], "<u2")) == 3 * points
    objects(sample, "mitochondrion", min_voxels=40, on=AGAIN)
    text = notice_texts(sample, tmp_path / "b.html")
    for command in (
        "skeletons s.zarr mitochondrion",
        "contacts s.zarr mitochondrion nucleus",
        "contacts s.zarr mitochondrion mitochondrion",
    ):
        assert f"so it is not shown; run 'sparsem {command} --overwrite'" in text
    after = data_of(report(sample, tmp_path / "b.html", SMALL, on=AGAIN).path)["samples"][0]
    assert after["objects"]["mitochondrion"]["tables"] == []  # measured with other numbers
    assert "mitochondrion has changed since it was measured" in text
    assert after["scene"]["structures"][0]["skeletons"] == lines


def test_names_with_underscores_are_no_other_pair(complete: Sample, tmp_path: Path) -> None:
    """``contacts_a_b_c`` may belong to a and b_c, or to a_b and c."""
    sample = copy_of(complete, tmp_path / "s.zarr")
    for name in ("a", "b_c", "a_b", "c"):
        put(sample, f"labels/{name}", two_slabs(sample), 7, VoxelSize(20, 10, 10))
    contacts(sample, "a", "b_c", distance_nm=400)
    assert contacts(sample, "a", "b_c", distance_nm=400, on=AGAIN).pairs
    page = report(sample, tmp_path / "a.html", SMALL)
    assert not [notice for notice in page.notices["s"] if "contacts" in notice.text]
    objects_of = data_of(page.path)["samples"][0]["objects"]
    names = {name: [entry["table"] for entry in objects_of[name]["tables"]] for name in objects_of}
    assert "contacts_a_b_c" in names["a"]
    assert "contacts_a_b_c" in names["b_c"]
    assert "contacts_a_b_c" not in names["a_b"] + names["c"]


def two_slabs(sample: Sample) -> NDArray[np.uint32]:
    labels = np.zeros(sample.image().shape, np.uint32)
    labels[4:8, 10:20, 10:20], labels[4:8, 10:20, 24:30] = 300, 301
    return labels


def test_lines_of_many_points_are_thinned() -> None:
    points = np.linspace(0, 1, 200_000)
    columns = {f"{axis}_um": points for axis in "zyx"}
    branch = np.repeat(np.arange(2000), 100)
    table = pa.table({"object": np.ones(200_000, np.int64), "branch": branch, **columns})
    lines = encode_skeletons(table, 2.0)
    ends = numbers_in(lines["ends"], "<u4").reshape(-1, 2)
    steps = numbers_in(lines["vertices"], "<u2").reshape(-1, 3)
    assert 0.5 * MAX_POINTS < len(steps) < 1.2 * MAX_POINTS
    assert (np.diff(ends, axis=1) == 1).all()
    assert len(ends) == len(steps) - 2000  # every branch is a line of its own, with both its ends
    firsts = steps[np.setdiff1d(np.arange(len(steps)), ends[:, 1]), 0] / 65535 * 2
    np.testing.assert_allclose(firsts, points[::100], atol=1e-4)


def test_the_page_fits_a_phone(browser: Any, page: Path) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    wait_for(
        lambda: browser.execute_script("return document.querySelectorAll('.stack img').length")
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_labels_older_than_their_annotation_are_reported(own_tissue: Sample) -> None:
    truth = own_tissue.volume("truth", "nucleus").read(slice(None))
    write_annotation(own_tissue, "seen", [0, 9], [truth[0], truth[9]])
    with Stage(
        own_tissue,
        "made",
        Settings(),
        {},
        [own_tissue.image().like("labels/seen", np.uint8, Kind.LABELS, None)],
    ) as stage:
        stage.map(_zeros, own_tissue.image().blocks())
    assert describe(own_tissue)["older"] == []
    write_annotation(own_tissue, "seen", [0, 9, 12], [truth[z] for z in (0, 9, 12)], overwrite=True)
    assert describe(own_tissue)["older"] == ["labels/seen"]


def _zeros(block: ZBlock) -> BlockResult:
    return {"labels/seen": np.zeros((block.own.stop - block.own.start, 96, 128), np.uint8)}, {}
