"""Links of the stage ``measure``: pieces of work that run in parallel and store arrays.

A pass over the objects is a function ``link_function(link, _previous, *arguments)``. It is run once
for every link, and returns arrays by name. No link of ``measure`` depends on a previous one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sparsem.workflow.stage import Stage, read_link


class LinkResults:
    """The arrays that the links of a pass returned.

    They are read on every access, because those of ten thousand links would fill the memory.

    Attributes:
        folder: folder of the links' files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arrays(self, link_name: str) -> dict[str, NDArray[Any]]:
        """Read all arrays that a link returned, by name."""
        return read_link(self.folder, link_name)

    def array(self, link_name: str, array_name: str) -> NDArray[Any]:
        """Read one of the arrays that a link returned."""
        return read_link(self.folder, link_name, [array_name])[array_name]


def run_links(
    stage: Stage, title: str, link_function: Any, links: Mapping[str, Any], *arguments: Any
) -> LinkResults:
    """Run a function on every link, in parallel.

    Args:
        stage: stage that the links belong to.
        title: what is measured, for the progress bar.
        link_function: module-level function of (link, None, *arguments) that returns arrays.
        links: picklable inputs of the function, by the name of the link.
        arguments: further arguments, the same for every link.
    """
    chains = {name: [link] for name, link in links.items()}
    folder = stage.chain(
        f"{stage.name}, {title}", link_function, chains, *arguments, in_one_file=True
    )
    return LinkResults(folder)
