"""Rows of results, and the peak memory of the process."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


def save(name: str, row: Mapping[str, object]) -> None:
    """Print a row and append it to results/NAME.csv."""
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    path = RESULTS / f"{name}.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def peak_gb() -> float:
    """Return the peak memory of this program in GB.

    ``getrusage`` would also count what the process held before it became this program.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1e6
