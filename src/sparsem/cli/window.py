"""The command that opens the window."""

import sparsem
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.workflow.execution import Execution


@command()
def open_command(path: SamplePath, *, on: Execution) -> Outcome:
    """Open a window to look at a sample, label it, train, and review results.

    sparsem open liver.zarr
    """
    sample = sparsem.Sample.open(path)
    from sparsem.viewer.window import open_window

    open_window(sample)
    return Outcome([f"Closed the window of {path}"], data={"sample": sample.path})
