"""The command line as users see it: every command, its words, its exit codes, its JSON.

The README's commands.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from sparsem import __version__
from sparsem.annotation.writing import restore_annotation
from sparsem.cli.app import COMMANDS, GROUPS, app, run_command_line
from sparsem.errors import ResumeError, SparsemError
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.study.demo import demo
from sparsem.study.settings import read_study
from sparsem.study.study import run
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution
from tests.conftest import LABELED, files_in, random_model, truth_of, write_liver

ROOT = Path(__file__).resolve().parents[1]


def sparsem(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def outside(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """The installed program, in a process of its own."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "sparsem", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )


def entered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of the program's entry point, run in this process."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["sparsem", *words])
    with pytest.raises(SystemExit) as left:
        run_command_line()
    return left.value.code, *capsys.readouterr()


def test_help_lists_every_command_and_each_teaches() -> None:
    listing = sparsem("--help").output
    for name in COMMANDS:
        assert name in listing
        words = (name, *list(GROUPS.get(name, ()))[:1])
        text = sparsem(*words, "--help").output
        assert "--overwrite" in text
        assert "--json" in text
        if name not in ("demo", "info", "run"):
            assert "Example" in text, name
    assert sparsem("--version").output.strip() == __version__


ALL_HELP = """
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from sparsem.cli.app import COMMANDS, GROUPS, app

pages = StringIO()
commands = [[name, *rest] for name in COMMANDS for rest in [[], *map(list, zip(GROUPS.get(name, ())))]]
for words in commands:
    with redirect_stdout(pages), suppress(SystemExit):
        app([*words, "--help"])
print(pages.getvalue().count("Usage:") == len(commands))
print(*(name for name in ("torch", "zarr", "scipy", "cv2", "pyarrow", "distributed", "vtkmodules")
        if name in sys.modules))
"""


def test_help_loads_no_library_that_computes() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ALL_HELP], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.split() == ["True"]


def test_options_come_from_the_settings() -> None:
    text = re.sub(r"\s+", " ", sparsem("train", "--help").output)
    for name, field in TrainSettings.model_fields.items():
        option = {"structures": "structure", "from_model": "from"}.get(name, name)
        assert f"--{option.replace('_', '-')}" in text
        assert str(field.description).split(";")[0].split(":")[0] in text
    assert "number of weight updates [≥ 1] [default: 1000]" in text


def test_the_main_job_by_commands(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("raw.tif", tissue.image().read(slice(None)), photometric="minisblack")
    labels = np.stack(truth_of(tissue, "nucleolus", LABELED)).astype(np.uint16)
    tifffile.imwrite("labels.tif", labels, photometric="minisblack")
    tifffile.imwrite(
        "truth.tif", tissue.volume("truth", "nucleolus").read(slice(None)), photometric="minisblack"
    )
    small = "--width 4 --context-px 64 --input-px 32 --batch 2 --updates 8 --seed 3 --slices 0,9,18"
    steps = [
        (
            "import raw.tif s.zarr --voxel-nm 20 20 20 --block-depth 7",
            "Wrote s.zarr: 19 x 96 x 128 voxels of 20 x 20 x 20 nm",
        ),
        (
            "annotate import s.zarr nucleolus labels.tif --slices 0,9,18",
            "slices 0, 9, 18 (the first slice is 0), 1.8% to 6.2% of each",
        ),
        (
            f"train s.zarr --structure nucleolus --out m.safetensors {small}",
            "Wrote m.safetensors: nucleolus, trained on 3 slices",
        ),
        ("predict s.zarr m.safetensors", "Wrote s.zarr/labels/nucleolus"),
        (
            "score s.zarr nucleolus truth.tif --slices all",
            "nucleolus  unseen slices      3D Dice 0.",
        ),
        ("export s.zarr nucleolus out/nucleoli.tif", "Wrote out/nucleoli.tif"),
        ("info s.zarr", "annotated: nucleolus on 3 slices (0, 9, 18)"),
    ]
    for command, expected in steps:
        result = sparsem(*shlex.split(command), "--quiet")
        assert result.exit_code == 0, result.output
        assert expected in result.output
    assert (
        Path("m.safetensors").stat().st_mode == Path("raw.tif").stat().st_mode
    )  # all users who may read the stack may read the model
    sample = Sample.open("s.zarr")
    assert np.array_equal(
        tifffile.imread("out/nucleoli.tif"), sample.volume("labels", "nucleolus").read(slice(None))
    )
    table = sample.read_table("scores_nucleolus").to_pydict()
    assert [z for z, use in zip(table["z"], table["use"], strict=True) if use == "trained"] == list(
        LABELED
    )
    predicted = sample.computed("nucleolus").read(slice(None)) > 0  # without what was drawn
    true = tifffile.imread("truth.tif") > 0
    assert table["both_px"] == [int(n) for n in (predicted & true).sum(axis=(1, 2))]
    data = json.loads(
        sparsem(
            "score", "s.zarr", "nucleolus", "truth.tif", "--slices", "all", "--json", "--quiet"
        ).output
    )
    unlabeled = np.setdiff1d(np.arange(19), LABELED)
    dice = (
        2
        * (predicted & true)[unlabeled].sum()
        / (predicted[unlabeled].sum() + true[unlabeled].sum())
    )
    assert data["nucleolus"]["unseen"]["dice_3d"] == pytest.approx(dice)
    assert data["nucleolus"]["unseen"]["slices"] == 16
    assert json.loads(sparsem("info", "s.zarr", "--json").output)["shape"] == [19, 96, 128]


def test_suspicious_input_is_reported(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspicious input of five kinds.

    A voxel size that the file contradicts, missing slices, inverted masks, a replaced image, and
    a network that was trained on other gray levels.
    """
    monkeypatch.chdir(tmp_path)
    image, nuclei = (
        tissue.image().read(slice(None)),
        tissue.volume("truth", "nucleus").read(slice(None)) > 0,
    )
    tifffile.imwrite(
        "raw.tif",
        image,
        imagej=True,
        resolution=(0.05, 0.05),
        metadata={"spacing": 20, "unit": "nm", "axes": "ZYX"},
    )
    printed = sparsem("import", "raw.tif", "file.zarr", "--voxel-nm", "8000", "4000", "4000").stderr
    assert (
        "raw.tif states a voxel of 20 x 20 x 20 nm (z y x); the 8000 x 4000 x 4000 nm that were "
        "given are used" in printed
    )
    assert (
        "a voxel of 8000 x 4000 x 4000 nm (z y x) is unusual for electron microscopy; is it in nm?"
        in printed
    )
    Path("series").mkdir()
    Path("masks").mkdir()
    for z, plane in enumerate(image):
        if z not in (7, 8):
            tifffile.imwrite(f"series/s{z + 1:03d}.tif", plane)
    for z in LABELED:
        tifffile.imwrite(f"masks/s{z + 1:03d}.tif", np.where(nuclei[z], 0, 255).astype(np.uint8))
    printed = sparsem(
        "import", "series", "s.zarr", "--voxel-nm", "20", "20", "20", "--missing", "repeat"
    ).stderr
    assert "missing in the series, and replaced by a copy of the slice before: 8, 9" in printed
    assert "2, 4, 6" not in sparsem("annotate", "suggest", "s.zarr", "-n", "7", "--quiet").stdout
    suggested = sparsem("annotate", "suggest", "s.zarr", "-n", "17", "--quiet").stdout
    assert "slices 0, 1, 2, 3, 4, 5, 6, 9, 10" in suggested  # and not the copies
    assert "in file names 1, 2, 3, 4, 5, 6, 7, 10, 11" in suggested
    printed = sparsem("annotate", "import", "s.zarr", "nucleus", "masks").stdout
    assert "nucleus: slices 0, 9, 18 (the first slice is 0; in file names 1, 10, 19)" in printed
    assert "is the mask inverted?" in printed
    assert (
        "Slices were found by the numbers of the stack's files: 1 is slice 0. If masks count "
        "slices from 0, use --first-slice-number 0." in printed
    )
    random_model(Path("m.safetensors"), pixel_nm=20)
    assert "may find little" not in sparsem("predict", "s.zarr", "m.safetensors").stderr
    dark = np.array(image // 4 + 5, np.uint8)
    tifffile.imwrite("dark.tif", dark, photometric="minisblack")
    assert sparsem("import", "dark.tif", "dark.zarr", "--voxel-nm", "20", "20", "20").exit_code == 0
    assert (
        "m.safetensors was trained on 0.50 ± 0.15 and may find little"
        in sparsem("predict", "dark.zarr", "m.safetensors").stderr
    )
    assert sparsem("equalize", "s.zarr", "--quiet").exit_code == 0
    about = sparsem("info", "s.zarr").stdout
    assert "slices: 0 to 18, from files numbered 1 to 19" in about
    assert "slices that stand in for lost ones: 7, 8" in about
    assert (
        "images/equalized: 19 x 96 x 128, made from 'raw'; the newest: commands read it by default"
        in about
    )
    assert "replaced since" not in about
    assert (
        "equalize-equalized: already done, with the same settings"
        in sparsem("equalize", "s.zarr").stderr
    )
    again = sparsem(
        "import",
        "series",
        "s.zarr",
        "--voxel-nm",
        "20",
        "20",
        "20",
        "--missing",
        "repeat",
        "--block-depth",
        "5",
        "--overwrite",
    )
    assert again.exit_code == 0
    assert (
        "images/equalized was made on an image that was replaced since: compute it again"
        in sparsem("info", "s.zarr").stdout
    )


def test_numbers_of_labels_on_the_command_line(
    tissue: Sample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A negative number is the value of an option.

    What was read of labels, and what is drawn where, is reported.
    """
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tissue.path, "s.zarr")
    labels = np.zeros((3, 96, 128), np.int64)
    labels[:, :10] = -1
    labels[0, 20:40, 20:50] = 720575940621039145
    tifffile.imwrite("labels.tif", labels, photometric="minisblack")
    words = ["annotate", "import", "s.zarr", "lyso", "labels.tif", "--slices", "0,9,18"]
    code, _, sentence = entered(monkeypatch, capsys, *words)
    assert code == 2
    assert "give --ignore -1 if these pixels are unlabeled" in " ".join(sentence.split())
    printed = sparsem(*words, "--ignore", "-1").stdout
    assert (
        "0.0% to 5.5% of each, of what is labeled there; nothing is drawn on slices 9, 18"
        in printed
    )
    assert "Numbers beyond 32 bits were replaced; tables/annotation_ids_lyso holds both" in printed
    assert json.loads(sparsem(*words, "--ignore", "-1", "--json").stdout)["origin"] == {
        "0": "manual",
        "9": "manual",
        "18": "manual",
    }
    tifffile.imwrite("mask.tif", np.full((19, 96, 128), 2, np.uint8), photometric="minisblack")
    assert (
        "Wrote s.zarr/labels/er (a mask (value 2), on the image 'raw')"
        in sparsem("import", "mask.tif", "s.zarr", "--as-labels", "er").stdout
    )
    printed = sparsem(*words, "--ignore", "-1", "--origin", "corrected-prediction").stdout
    assert "Corrected predictions, on which scores are too high: slices 0, 9, 18" in printed
    assert sparsem("remove", "s.zarr", "annotations/lyso").exit_code == 0
    assert "annotation_ids_lyso" not in Sample.open("s.zarr").tables


def test_pieces_are_taken_away_but_not_what_others_stand_on(
    own_tissue: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own_tissue.path.parent)
    equalize(own_tissue)
    equalize(own_tissue, EqualizeSettings(method="clahe", image="equalized", out="clear"))
    before = files_in(own_tissue.path)
    refused = [
        (
            "images/equalized",
            "images/clear of own.zarr was made on images/equalized; remove it too, or keep both",
        ),
        (
            "images/clera",
            "own.zarr has no images/clera that can be removed; did you mean 'images/clear'?",
        ),
        ("images/../annotations/nucleus", "that can be removed"),
        ("raw", "that can be removed"),
        ("tables/phantom_slices", "that can be removed"),
    ]
    for piece, sentence in refused:
        code, _, message = entered(
            monkeypatch, capsys, "remove", "own.zarr", "annotations/nucleus", piece
        )
        assert code == 2
        assert sentence in message
        assert files_in(own_tissue.path) == before
    assert (
        sparsem(
            "remove",
            "own.zarr",
            "images/equalized",
            "images/clear",
            "annotations/nucleolus",
            "truth/cells",
        ).exit_code
        == 0
    )
    assert own_tissue.names("images") == []
    assert own_tissue.newest_image == "raw"
    assert own_tissue.names("annotations") == ["mitochondrion", "nucleus"]
    assert "cells" not in own_tissue.names("truth")
    left = files_in(own_tissue.path)
    assert not [
        name
        for name in left
        if "removed" in name or ("nucleolus" in name and name.startswith("annotations"))
    ]
    equalize(own_tissue)
    assert own_tissue.newest_image == "equalized"
    assert [
        name
        for name in before
        if name.startswith("images/equalized/") and files_in(own_tissue.path)[name] != before[name]
    ] == []
    for number in (1, 2):  # other labels under a name that is free again
        mask = np.zeros((19, 96, 128), np.uint8)
        mask[:, 10 * number : 40] = 1
        tifffile.imwrite(f"mask{number}.tif", mask, photometric="minisblack")
        assert (
            sparsem("import", f"mask{number}.tif", "own.zarr", "--as-labels", "vesicle").exit_code
            == 0
        )
        assert sparsem("remove", "own.zarr", "labels/vesicle").exit_code == 0
    left_by_a_kill = own_tissue.path / ".sparsem" / "work" / "annotation-nucleus-replaced"
    shutil.copytree(own_tissue.path / "annotations" / "nucleus", left_by_a_kill)
    assert sparsem("remove", "own.zarr", "annotations/nucleus").exit_code == 0
    restore_annotation(own_tissue, "nucleus")
    assert "nucleus" not in own_tissue.names("annotations")
    assert (
        sparsem(
            "import",
            "mask1.tif",
            "bare.zarr",
            "--as-labels",
            "vesicle",
            "--voxel-nm",
            "8",
            "8",
            "8",
        ).exit_code
        == 0
    )
    code, _, message = entered(monkeypatch, capsys, "remove", "bare.zarr", "labels/vesicle")
    assert code == 2
    assert "bare.zarr holds nothing else; remove its whole folder" in message
    assert sparsem("info", "bare.zarr").exit_code == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("info none.zarr", "Error: There is no sample at none.zarr"),
        ("import none.tif s.zarr", "Error: There is no file or folder none.tif."),
        ("import raw.tif s.zarr", "Error: raw.tif does not state its voxel size"),
        (
            "import raw.tif s.zarr --voxel-nm 0 5 5",
            "Error: A voxel size is three positive lengths in nm",
        ),
        (
            "import raw.tif s.zarr --voxel-nm 5 5 5 --block-depth 0",
            "Error: command line: 'block_depth' was given as 0: input should be greater",
        ),
        (
            "import raw.tif taken --voxel-nm 5 5 5",
            "Error: taken exists and is not a sparsem sample",
        ),
        ("phantom p.zarr --shape 0 64 64", "at least 1 slice of 32 x 32"),
        ("run none.toml", "Error: Cannot read the settings file"),
        ("run bad.toml", "Error: bad.toml: unknown key 'trian'; did you mean 'train'?"),
        ("run broken.toml", "broken.toml is not valid TOML"),
        ("export raw.tif nucleus x.tif", "is not a sparsem sample"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path,
    command: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite(
        tmp_path / "raw.tif", np.zeros((3, 40, 40), np.uint8), photometric="minisblack"
    )
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("precious")
    (tmp_path / "bad.toml").write_text(
        'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n[annotate.a]\nsource = "m"\n[trian]\nupdates = 3\n'
    )
    (tmp_path / "broken.toml").write_text("sample = \n")
    before = files_in(tmp_path)
    code, shown, message = entered(monkeypatch, capsys, *shlex.split(command))
    assert code == 2
    assert sentence in " ".join(message.split())
    assert shown == ""
    assert files_in(tmp_path) == before


def test_the_installed_program_ends_with_one_sentence(tmp_path: Path) -> None:
    result = outside("info", "none.zarr", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: There is no sample at none.zarr")
    assert result.stderr.count("\n") == 1


def test_an_unknown_command_or_option_exits_with_2() -> None:
    unknown = outside("inof", "x", folder=Path.cwd())
    assert unknown.returncode == 2
    assert "There is no command 'inof'; did you mean 'info'?" in unknown.stderr
    assert sparsem("info", "x", "--color").exit_code == 2


SMALL_DEMO = PhantomSettings(shape=(12, 96, 96), voxel_nm=(24, 24, 24), cells=2, seed=1)
SMALL_TRAINING = TrainSettings(
    structures=("nucleus", "nucleolus"), width=4, context_px=64, input_px=32, batch=2, updates=6
)


@pytest.mark.usefixtures("few_plots")
def test_the_demo_is_the_main_job_from_files_and_runs_again_in_no_time(tmp_path: Path) -> None:
    result = demo(tmp_path, SMALL_DEMO, SMALL_TRAINING, labeled=4)
    assert sorted(result.scores) == ["nucleolus", "nucleus"]
    for name in (
        "raw.tif",
        "study.toml",
        "overlays.png",
        "dice.png",
        "results/nucleus.tif",
        "masks/nucleolus/nucleolus_z0011.png",
    ):
        assert (tmp_path / name).stat().st_size > 0
    label_names = [
        f"{name}{step}"
        for name in ("nucleolus", "nucleus")
        for step in ("", "-constrained", "-objects")
    ]
    assert result.sample.names("labels") == label_names
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "nucleolus: every feature" in page
    assert "belong to other labels" not in page
    before = files_in(result.sample.path)
    again = run(tmp_path / "study.toml")
    assert again.scores == result.scores
    assert files_in(result.sample.path) == before
    study = read_study(tmp_path / "study.toml")
    assert study.train.updates == 6
    corrected = tmp_path / "results" / "nucleus.tif"
    corrected.write_bytes(corrected.read_bytes() + b"by hand")
    with pytest.raises(
        SparsemError,
        match=r"nucleus.tif was not written by this study, or was changed since; move it away",
    ):
        run(tmp_path / "study.toml")
    corrected.unlink()
    (tmp_path / "study.toml").write_text(
        (tmp_path / "study.toml").read_text().replace("updates = 6", "updates = 7")
    )
    with pytest.raises(SparsemError, match=r"trained with other settings \(updates: 6 -> 7\)"):
        run(tmp_path / "study.toml", on=HERE)


@pytest.mark.usefixtures("few_plots")
def test_the_demo_ends_with_cells(tmp_path: Path) -> None:
    training = changed(SMALL_TRAINING, {"structures": ("nucleus",), "cells": "cells"})
    result = demo(tmp_path, SMALL_DEMO, training, labeled=4)
    assert result.cells is not None
    assert result.cells.cells > 1
    assert (tmp_path / "cells.png").stat().st_size > 0
    assert (tmp_path / "results" / "cells.tif").exists()
    assert not (tmp_path / "results" / "cells-interior.tif").exists()
    exported = tifffile.imread(tmp_path / "results" / "cells.tif")
    labeled = cv2.imread(
        str(tmp_path / "masks" / "cells" / "cells_z0011.png"), cv2.IMREAD_UNCHANGED
    )
    assert labeled is not None
    assert np.array_equal(exported[11], labeled)
    scores = result.scores["cells"].of_cells()
    assert 0 < scores["dice_cells"] <= 1  # type: ignore[operator]
    again = run(tmp_path / "study.toml")
    assert again.cells == result.cells
    words = f"experiment cells {result.sample.path} {tmp_path}/phantom.zarr/truth/cells --method mask --method arrival --json --quiet"
    rows = json.loads(sparsem(*words.split()).output)
    assert list(rows) == ["mask", "arrival"]
    assert rows["arrival"]["dice_cells"] == pytest.approx(
        result.scores["cells"].of_cells("unseen")["dice_cells"], abs=0.05
    )
    table = sparsem(*words.replace(" --json", "").split()).output
    assert re.search(r"arrival +0\.\d{3}", table)


def test_a_study_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    good = 'sample = "s.zarr"\n[import]\nsource = "raw.tif"\n[annotate.nucleus]\nsource = "m"\n'
    for text, sentence in (
        ("[import]\nsource='a'\n[annotate.x]\nsource='b'\n", "the key 'sample' is required"),
        (good + "[train]\nupdate = 3\n", r"unknown key 'train.update'; did you mean 'updates'\?"),
        (
            good + "[predict]\noverlap = 0.9\n",
            "'predict.overlap' was given as 0.9: input should be less than or equal to 0.5",
        ),
        (
            good + '[score.mito]\ntruth = "t.tif"\n',
            r"\[score.mito\] has no structure to score; predicted are nucleus",
        ),
        (
            good + "[cells]\nmethod = 'mask'\n",
            r"\[cells\] and \[track\] need a network that knows cells; add cells = 'cells' to \[train\]",
        ),
        (
            good + "[cells]\ncells = 'b'\n[train]\ncells = 'a'\n",
            r"\[cells\] separates 'b', but \[train\] is trained on 'a'",
        ),
        (good + "[cells]\nmethod = 'guess'\n", "'cells.method' was given as 'guess'"),
        (
            good + '[annotate.b]\nsorce = "x"\n',
            r"unknown key 'annotate.b.sorce'; did you mean 'source'\?",
        ),
    ):
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises(SparsemError, match=sentence):
            read_study(tmp_path / "study.toml")


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_a_study_works_on_its_own_images_whatever_else_the_sample_holds(
    tissue: Sample, tmp_path: Path
) -> None:
    write_liver(tissue, tmp_path)
    words = [
        'sample = "s.zarr"',
        "[import]",
        'source = "liver.tif"',
        "voxel_nm = [20, 20, 20]",
        "[align]",
        "[equalize]",
    ]
    words += ["[denoise]", 'method = "nlm"', "[quality]"]
    words += [
        "[annotate.nucleus]",
        'source = "masks/nucleus"',
        "[train]",
        "updates = 4",
        "width = 4",
        "context_px = 64",
        "input_px = 32",
        "batch = 2",
    ]
    renderings = [
        "[export]",
        'onto = "raw"',
        "[render]",
        "width = 64",
        "height = 64",
        'out = "nuclei.png"',
    ]
    study = tmp_path / "study.toml"
    study.write_text("\n".join([*words, "folds = 3", *renderings]))
    first = run(study)
    assert (
        tifffile.imread(tmp_path / "results" / "nucleus.tif").shape
        == first.sample.image("raw").shape
    )
    drawn = cv2.imread(str(tmp_path / "nuclei.png"))
    assert drawn is not None
    assert drawn.shape == (64, 64, 3)
    assert first.sample.image("equalized").made_on == (
        "aligned",
        first.sample.image("aligned").fingerprint,
    )
    assert first.sample.image("denoised").made_on == (
        "equalized",
        first.sample.image("equalized").fingerprint,
    )
    assert first.sample.volume("labels", "nucleus").made_on == (
        "denoised",
        first.sample.image("denoised").fingerprint,
    )
    assert first.sample.read_table("quality_raw").num_rows == 19
    assert first.alignment is not None
    assert [len(validation.dice) for validation in first.validations] == [3]
    equalize(
        first.sample, EqualizeSettings(method="clahe", out="test", image="raw")
    )  # a user reviews another image
    before = files_in(tmp_path)
    run(study)
    assert files_in(tmp_path) == before
    study.write_text("\n".join(words[:4] + words[9:]))  # aligned already, says the user now
    with pytest.raises(ResumeError, match="Use --overwrite"):
        run(study)
    again = run(study, on=Execution(overwrite=True, quiet=True))
    assert again.sample.volume("labels", "nucleus").made_on == (
        "raw",
        again.sample.image("raw").fingerprint,
    )


@pytest.mark.xdist_group("careamics")  # one process loads it, which takes seconds
@pytest.mark.usefixtures("few_plots")
def test_the_readme_commands_run(
    tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ``sparsem`` line of the README runs as it stands, on a small stack of that name.

    Only the training is made smaller.
    """
    write_liver(tissue, tmp_path)
    cells = tissue.volume("truth", "cells").read(slice(None)).astype(np.uint16)
    (tmp_path / "corrected").mkdir()
    for z in (4, 9):
        tifffile.imwrite(
            tmp_path / "corrected" / f"cells_{z:04d}.tif",
            np.where(cells[z] > 0, cells[z] + (z == 9), 0).astype(np.uint16),
        )
    small = [
        "--width",
        "4",
        "--context-px",
        "64",
        "--input-px",
        "32",
        "--updates",
        "4",
        "--batch",
        "2",
    ]
    study = "\n".join(readme_blocks("toml")).replace(
        "updates = 1000", "updates = 4\nwidth = 4\ncontext_px = 64\ninput_px = 32\nbatch = 2"
    )
    assert "updates = 4" in study
    (tmp_path / "study.toml").write_text(study)
    monkeypatch.chdir(tmp_path)
    lines = [
        line
        for block in readme_blocks("bash")
        for line in block.splitlines()
        if line.startswith("sparsem ")
    ]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "demo":
            continue  # the demo has its own test
        boxes = (
            ["--input-px", "128", "--updates", "2", "--batch", "1"]
            if words[:2] == ["detect", "train"]
            else []
        )
        result = sparsem(
            *words,
            *boxes,
            *(small if words[0] == "train" else small[-4:] if words[0] == "denoise" else []),
        )
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"


def test_the_readme_python_runs(
    own_tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_liver(own_tissue, tmp_path)
    blocks = readme_blocks("python")
    assert blocks
    for block in blocks:
        assert "updates" not in block or "updates=1000" in block
        exec(block.replace("updates=1000", "updates=3, width=4, context_px=64, input_px=32"), {})


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"sparsem-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "sparsem/py.typed" in names
    assert all(name.startswith(("sparsem/", f"sparsem-{__version__}.dist-info/")) for name in names)
    expected = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "sparsem").rglob("*.py")
    }
    assert expected <= set(names)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = "import sparsem, sparsem.study.study; print(sparsem.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert str(tmp_path / "site") in result.stdout


def test_no_file_names_a_registry_or_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile(
        "|".join(
            ("pythonhoste" + "d", "pyp" + r"i\.org", "npm" + "js", r"/home/\w+", "file" + "://")
        )
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in (".png", ".jpg") and path.exists():
            assert not forbidden.search(path.read_text(encoding="utf-8")), name
