"""Run a stage again and again, each time killed at a random moment, until it ends by itself.

    python tests/killing.py STAGE (of WORK, below) ARGUMENTS(JSON) KILLS SEED

The parent imports the stage once and computes nothing; each child is a fork that gets SIGKILL.
Prints how many died.
"""

import faulthandler
import json
import os
import random
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

# module, function, and its settings; a worker loads only what it needs, as it does for the program
WORK = {
    "train": ("sparsem.segment.network_training", "train_network", "TrainSettings"),
    "predict": ("sparsem.segment.predict", "predict", "PredictSettings"),
    "import": ("sparsem.io.ingest", "import_stack", "ImportSettings"),
    "align": ("sparsem.preprocess.align", "align", "AlignSettings"),
    "equalize": ("sparsem.preprocess.equalize", "equalize", "EqualizeSettings"),
    "denoise": ("sparsem.preprocess.denoise", "denoise", "DenoiseSettings"),
    "quality": ("sparsem.quality.quality", "quality", "QualitySettings"),
    "constrain": ("sparsem.labels.constrain", "constrain", "ConstrainSettings"),
    "detect": ("sparsem.detect.predict", "detect", "DetectSettings"),
    "masks": ("sparsem.detect.masks.masks", "box_masks", "MasksSettings"),
    "measure": ("sparsem.measure.measure", "measure", "MeasureSettings"),
    "cells": ("sparsem.cells.cells", "cells", "CellsSettings"),
    "track": ("sparsem.cells.track", "track", "TrackSettings"),
    "contacts": ("sparsem.measure.contacts", "contacts", "ContactSettings"),
    "objects": ("sparsem.labels.objects", "objects", "ObjectSettings"),
    "skeletons": ("sparsem.measure.skeletons", "skeletons", "SkeletonSettings"),
    "phantom": ("sparsem.phantom.phantom", "phantom", "PhantomSettings"),
}

HANGS_AFTER_S = 240
THREADS = Path("/proc/self/task")


def work(what: str, given: dict[str, Any]) -> None:
    on = Execution(
        workers=given.get("workers", 0), overwrite=given.get("overwrite", False), quiet=True
    )
    module, function, name = WORK[what]
    stage = getattr(import_module(module), function)
    settings = getattr(import_module(module), name)(**given.get("settings", {}))
    if what == "train":
        stage([Sample.open(given["sample"])], given["out"], settings, on=on)
    elif what in ("predict", "detect"):
        stage(Sample.open(given["sample"]), given["model"], settings, on=on)
    elif what == "import":
        stage(given["source"], given["sample"], settings, on=on)
    elif what == "contacts":
        stage(Sample.open(given["sample"]), given["first"], given["second"], settings, on=on)
    elif what in ("objects", "skeletons"):
        stage(Sample.open(given["sample"]), given["name"], settings, on=on)
    elif what == "phantom":
        stage(Path(given["sample"]), settings, on=on)
    else:
        stage(Sample.open(given["sample"]), settings, on=on)
    if what == "cells":
        work("track", {**given, "settings": {}})


def child(what: str, given: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        # A child that hangs says where, and lets the test fail instead of wait.
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        code = 1
        try:
            work(what, given)
            code = 0
        finally:
            os._exit(code)
    return process


def main() -> None:
    what, given, kills, seed = (
        sys.argv[1],
        json.loads(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    moments = random.Random(seed)
    import_module(WORK[what][0])  # before the clock runs
    if THREADS.exists():
        assert len(list(THREADS.iterdir())) == 1, "a fork copies the locks of other threads"
    died, longest = 0, float(given["seconds"])
    for _ in range(kills):
        process = child(what, given)
        time.sleep(moments.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        died += os.WIFSIGNALED(status)
    _, status = os.waitpid(child(what, given), 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    print(json.dumps({"died": died}))


if __name__ == "__main__":
    main()
