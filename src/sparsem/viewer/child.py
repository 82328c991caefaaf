"""A public function in a process of its own, for the window: ``python -m sparsem.viewer.child``.

The argument is JSON: ``function``, ``sample``, ``arguments``, ``settings`` and ``overwrite``. What
the function returns is printed as one line of JSON on standard output, progress on standard error.
"""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

LOG_EVERY_S = 0.5  # between two lines of progress, which the window shows
STOPPED = 130  # exit code of a run that was stopped by the user


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Call the function that a request names, and return what it returns as JSON."""
    from sparsem.store.sample import Sample
    from sparsem.workflow.execution import Execution

    sample = Sample.open(request["sample"])
    function = _function(request["function"])
    arguments = request.get("arguments", [])
    settings = request.get("settings", {})
    if request["function"] == "train_live":
        return _as_json(function(sample, *arguments, **settings))
    on = Execution(overwrite=bool(request.get("overwrite", False)))
    return _as_json(function(sample, *arguments, on=on, **settings))


def _function(name: str) -> Callable[..., Any]:
    """Return a public function by its name."""
    if name == "train_live":
        from sparsem.segment.live import train_live

        return train_live
    import sparsem

    function: Callable[..., Any] = getattr(sparsem, name)
    return function


def _as_json(result: Any) -> dict[str, Any]:
    """Return the fields of a result that are JSON."""
    if not is_dataclass(result) or isinstance(result, type):
        return {}
    fields = {key: value for key, value in vars(result).items() if key != "sample"}
    content: dict[str, Any] = json.loads(json.dumps(fields, default=_plain))
    return content


def _plain(value: Any) -> Any:
    """Return a value as plain JSON, or its text."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def run_child() -> None:
    """Run the request of the command line; exit with 2 if the user can correct what is wrong."""
    request = json.loads(sys.argv[1])
    # Libraries swallow an interruption while they are imported, so it is remembered.
    interruptions: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interruptions.append(number))
    from sparsem import progress
    from sparsem.errors import SparsemError

    progress.LOG_EVERY_S = LOG_EVERY_S
    _function(request["function"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if interruptions:
        sys.exit(STOPPED)
    try:
        result = answer(request)
    except SparsemError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    run_child()
