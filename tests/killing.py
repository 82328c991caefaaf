"""Run a stage again and again, each time killed at a random moment, until it ends by itself.

    python tests/killing.py train|predict|import|align|equalize|cells|constrain|measure|phantom ARGUMENTS(JSON) KILLS SEED

The parent imports everything once and computes nothing; each child is a fork that gets SIGKILL. Prints how many died.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sparsem.cells.identify import TrackSettings, track
from sparsem.cells.segment import CellsSettings, cells
from sparsem.constrain import ConstrainSettings, constrain
from sparsem.execution import Execution
from sparsem.ingest import ImportSettings, import_stack
from sparsem.learn.supervised import TrainSettings
from sparsem.learn.train import train
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.tables import measure
from sparsem.phantom import PhantomSettings, phantom
from sparsem.predict import PredictSettings, predict
from sparsem.prepare.align import AlignSettings, align
from sparsem.prepare.equalize import EqualizeSettings, equalize
from sparsem.store.sample import Sample


def work(what: str, given: dict[str, Any]) -> None:
    on = Execution(workers=given.get("workers", 0), overwrite=given.get("overwrite", False), quiet=True)
    if what == "train":
        train([Sample.open(given["sample"])], given["out"], TrainSettings(**given["settings"]), on)
    elif what == "predict":
        predict(Sample.open(given["sample"]), given["model"], PredictSettings(**given["settings"]), on)
    elif what == "import":
        import_stack(given["source"], given["sample"], ImportSettings(**given["settings"]), on)
    elif what == "align":
        align(Sample.open(given["sample"]), AlignSettings(**given["settings"]), on)
    elif what == "equalize":
        equalize(Sample.open(given["sample"]), EqualizeSettings(**given["settings"]), on)
    elif what == "constrain":
        constrain(Sample.open(given["sample"]), ConstrainSettings(), on)
    elif what == "measure":
        measure(Sample.open(given["sample"]), MeasureSettings(**given["settings"]), on)
    elif what == "cells":
        cells(Sample.open(given["sample"]), CellsSettings(), on)
        track(Sample.open(given["sample"]), TrackSettings(), on)
    else:
        phantom(Path(given["sample"]), PhantomSettings(**given["settings"]), on)


def child(what: str, given: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work(what, given)
            code = 0
        finally:
            os._exit(code)
    return process


def main() -> None:
    what, given, kills, seed = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    moments = random.Random(seed)
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
