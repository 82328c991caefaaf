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


def replace_characters(error: UnicodeError) -> tuple[str, int]:
    """Return plain characters for those that an encoding lacks, else escapes.

    It is an error handler of ``codecs``.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    replacement = "".join(PLAIN.get(character) or _escape(character) for character in characters)
    return replacement, error.end


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")


def accept_every_character() -> None:
    """Make standard output and standard error write every text, whatever their encoding.

    Help that is written into a file on Windows, and any path, may hold other characters.
    """
    codecs.register_error(HANDLER, replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)
