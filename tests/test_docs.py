"""The pages of the documentation.

Every command runs as it stands, every link has a target, and every command has its page.
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from sparsem.boxes.geometry import boxes_of_labels
from sparsem.cli.app import COMMANDS, GROUPS, app
from sparsem.store.sample import Sample
from tests.conftest import write_liver

DOCS = Path(__file__).resolve().parents[1] / "docs"
# The pages of the stages, in the order in which their examples build on each other.
PAGES = re.findall(r"\| \[\w+\]\((\w+\.md)\) \|", (DOCS / "index.md").read_text(encoding="utf-8"))
SMALL_BOXES = ["--input-px", "128", "--updates", "3", "--batch", "1"]
SMALL = ["--width", "4", "--context-px", "64", "--input-px", "32", "--updates", "4", "--batch", "2"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL
    )


def run_page(page: str) -> int:
    """Run every ``sparsem`` line of a page, word for word but for smaller trainings.

    How many there were.
    """
    for text in blocks(page, "toml"):
        Path("study.toml").write_text(
            text.replace(
                "updates = 1000",
                "updates = 4\nwidth = 4\ncontext_px = 64\ninput_px = 32\nbatch = 2",
            ).replace("updates = 300", "updates = 3\ninput_px = 128\nbatch = 1")
        )
    lines = [
        line
        for text in blocks(page, "bash")
        for line in text.splitlines()
        if line.startswith("sparsem ")
    ]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        small = (
            SMALL
            if words[0] == "train"
            or words[:2] in (["experiment", "slices"], ["experiment", "models"])
            else []
        )
        small = ["--updates", "4", "--batch", "2"] if words[0] == "denoise" else small
        small = SMALL_BOXES if words[:2] == ["detect", "train"] else small
        result = CliRunner().invoke(app, [*words, *small])
        assert result.exit_code == 0, f"{page}: {line}\n{result.output}\n{result.exception}"
    return len(lines)


def write_protocols(tissue: Sample, folder: Path) -> None:
    """Write images of the same tissue, prepared by two methods."""
    random = np.random.default_rng(0)
    for protocol, noise in (("bench", 12), ("asp", 4)):
        (folder / protocol).mkdir()
        for position, z in enumerate((2, 8, 14)):
            noisy = tissue.image().read(slice(z, z + 1))[0] + random.normal(
                0, noise, tissue.image().shape[1:]
            )
            tifffile.imwrite(
                folder / protocol / f"{position}.tif",
                np.clip(noisy, 1, 255).astype(np.uint8),
                photometric="minisblack",
            )


def write_boxes(tissue: Sample, folder: Path) -> None:
    """Boxes around the mitochondria of all slices, and what is known of the sample."""
    rows = ["z,class,x0,y0,x1,y1"]
    for z in range(tissue.image().shape[0]):
        labels = tissue.volume("truth", "mitochondrion").read(slice(z, z + 1))[0]
        rows += [
            f"{z},mitochondrion,{','.join(f'{coordinate:g}' for coordinate in corners)}"
            for corners in boxes_of_labels(labels)[1]
        ]
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    (folder / "samples.csv").write_text("sample,subtype,tissue,grade\ncounted,TNBC,liver,3\n")


@pytest.mark.xdist_group("careamics")  # one process loads it, which takes seconds
@pytest.mark.usefixtures("few_plots")
def test_the_pages_run_one_after_the_other(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_liver(tissue, tmp_path)
    write_protocols(tissue, tmp_path)
    write_boxes(tissue, tmp_path)
    assert len(PAGES) >= 14
    for page in PAGES:
        if page == "compare.md":  # by then the sample is measured
            for group in ("control", "treated"):
                shutil.copytree("liver.zarr", f"{group}/{group}.zarr")
        assert run_page(page) >= 1, page


@pytest.mark.usefixtures("few_plots")
def test_the_page_from_a_microscope_to_a_result_runs(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_liver(tissue, tmp_path)
    (tmp_path / "corrected").mkdir()
    mask = next((tmp_path / "masks" / "mitochondrion").iterdir())
    (tmp_path / "corrected" / "mito_0004.tif").write_bytes(mask.read_bytes())
    assert run_page("from-a-microscope-to-a-result.md") >= 12


def test_every_command_has_its_page_and_every_link_leads_somewhere() -> None:
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    for name in COMMANDS:
        if name not in ("demo", "phantom"):
            verbs = [
                f"sparsem {name} {verb}".removesuffix("sample") for verb in GROUPS.get(name, {})
            ] or [f"sparsem {name} "]
            assert all(verb in text for verb in verbs), name
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
