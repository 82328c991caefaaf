"""The part of a file that is read, where a file holds several stacks or can be read in two ways."""

from typing import NamedTuple

from sparsem.io.settings import MinIsWhite, MrcBytes


class Selection(NamedTuple):
    """The stack to read, and how to read its numbers.

    Attributes:
        dataset: key of the array in a Zarr group, an HDF5 or a MATLAB file; number of the image in
            a TIFF.
        channel: number of the channel, for a stack with several.
        time: number of the time point, for a series of stacks.
        labels: the numbers are classes or objects and are read as they are stored; otherwise they
            are gray levels and are read as they are displayed.
        min_is_white: numbers to read from a "min is white" TIFF; None if not specified.
        mrc_bytes: signedness of the bytes of an MRC file; overrides the header.
    """

    dataset: str | None = None
    channel: int | None = None
    time: int | None = None
    labels: bool = False
    min_is_white: MinIsWhite | None = None
    mrc_bytes: MrcBytes | None = None

    @property
    def part(self) -> str:
        """Channel and time as text, for fingerprints; empty if neither was selected."""
        if self.channel is None and self.time is None:
            return ""
        return f"channel {self.channel}, time {self.time}"


WHOLE_FILE = Selection()  # for files that hold one stack
