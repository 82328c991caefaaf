"""Output for terminals, files and pipes that cannot show every character."""

import codecs
import io
import sys

PLAIN = {
    "≥": ">=",
    "≤": "<=",
    "µ": "u",
    "μ": "u",
    "²": "2",
    "³": "3",
    "×": "x",
    "±": "+-",
    "°": " deg",
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "é": "e",
    "ü": "ue",
    "ö": "oe",
    "ä": "ae",
}
HANDLER = "sparsem-plain"


def replaced(error: UnicodeError) -> tuple[str, int]:
    """Return plain characters for those that an encoding lacks, and escapes for what has none (an error handler of ``codecs``)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(
        PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode("ascii")
        for one in characters
    ), error.end


def accept_every_character() -> None:
    """Make standard output and standard error write every text, whatever their encoding: help into a file on Windows, any path."""
    codecs.register_error(HANDLER, replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)
