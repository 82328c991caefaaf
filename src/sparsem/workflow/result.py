"""The results of stages: what was written, and the numbers that were found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsem.errors import SampleError
from sparsem.store.sample import Sample


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a stage; each stage adds the numbers that it found.

    Attributes:
        sample: the sample that the stage worked on; None where there were several, or none.
        written: paths of the volumes and tables in the sample, such as ``labels/nucleus``, and of
            other files.
    """

    sample: Sample | None = None
    written: tuple[str, ...] = ()

    def table(self, name: str) -> Any:
        """Return a table of the sample, as a pandas.DataFrame.

        It is a pyarrow.Table where pandas is not installed.

        Raises:
            SampleError: the sample has no table of this name.
        """
        if self.sample is None:
            raise SampleError(
                "The result belongs to no single sample; open the sample to read its tables."
            )
        return self.sample.tables[name]


@dataclass(frozen=True)
class ImageResult(StageResult):
    """The result of a stage that writes an image.

    Attributes:
        image: name of the image in the sample.
    """

    image: str


@dataclass(frozen=True)
class FileResult(StageResult):
    """The result of a stage that writes a file outside of the sample.

    Attributes:
        file: path of the file.
    """

    file: Path
