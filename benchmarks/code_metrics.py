"""Readability of the source: density, long lines, ambiguous names, docstring fragments, words.

    python benchmarks/code_metrics.py [--source src/sparsem] [--by-room] [--list]

The script uses the standard library only, so that it runs on any checkout. The limits are in
``tests/test_house.py``.
"""

import argparse
import ast
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

MAX_LINE_LENGTH = 100

# First words of a docstring that is neither a sentence in the imperative nor a noun phrase.
FRAGMENT_STARTS = [
    "of",
    "what",
    "whether",
    "those",
    "which",
    "how",
    "where",
    "by",
    "from",
    "as",
    "with",
    "if",
    "when",
    "for",
    "in",
    "on",
    "to",
    "than",
    "that",
    "who",
    "whose",
    "it",
    "this",
    "may",
    "nothing",
    "also",
    "but",
    "not",
    "so",
    "and",
    "or",
    "is",
    "are",
    "was",
    "were",
    "has",
    "have",
]

# Words of the former vocabulary, which CONTRIBUTING.md replaces. Matched as whole words in prose
# and in names.
REPLACED_WORDS = [
    *("told", "tells", "tell", "nobody", "whoever", "believed", "doubtful", "learnt", "taught"),
    *("teach", "likeness", "beside", "besides", "picture", "pictures", "nameless", "speck"),
    *("specks", "unlabelled", "labelled", "labelling", "grey", "greys", "colour", "colours"),
    *("neighbour", "neighbours", "centre", "centres", "centred", "normalise", "equalise"),
    *("initialise", "modelling", "tumour", "micrometre", "micrometres", "nanometre"),
    *("nanometres", "behaviour"),
]

# Names of variables that do not describe their values.
EMPTY_NAMES = [
    "one",
    "found",
    "own",
    "some",
    "there",
    "here",
    "told",
    "beside",
    "other",
    "place",
    "kept",
    "unseen",
    "judged",
    "brought",
    "chosen",
    "settled",
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(source: Path) -> list[Path]:
    """Return the Python files below a folder, sorted."""
    return sorted(source.rglob("*.py"))


def code_lines(text: str) -> int:
    """Count the lines that are neither empty nor only a comment."""
    lines = [line.strip() for line in text.splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


def count_nodes(tree: ast.AST) -> int:
    """Count the syntax nodes of a tree, the tree itself included."""
    return sum(1 for _ in ast.walk(tree))


def functions_of(tree: ast.AST) -> list[Function]:
    """Return all functions and methods of a tree, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def is_compiled(function: Function) -> bool:
    """Return whether a function has the decorator ``compiled``."""
    return any("compiled" in ast.unparse(decorator) for decorator in function.decorator_list)


def quantile_of(sizes: list[int], quantile: float) -> int:
    """Return a quantile of sizes; 0 if there are none."""
    in_order = sorted(sizes) or [0]
    return in_order[int(quantile * (len(in_order) - 1))]


def public_names(tree: ast.Module) -> list[str]:
    """Return the names of the public functions and classes that a module defines."""
    definitions = [node for node in tree.body if isinstance(node, Function | ast.ClassDef)]
    return [node.name for node in definitions if not node.name.startswith("_")]


def docstring_fragments(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and first line of every docstring that is neither sentence nor noun phrase."""
    for node in ast.walk(tree):
        if not isinstance(node, Function | ast.ClassDef | ast.Module):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        first_line = docstring.strip().splitlines()[0] if docstring.strip() else ""
        first_word = re.match(r"[A-Za-z]+", first_line)
        if not first_word or first_word[0].lower() in FRAGMENT_STARTS:
            line_number = getattr(node, "lineno", 1)
            yield line_number, first_line


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every variable and parameter that is bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def words_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and word of every replaced word in a text, parts of snake_case names included."""
    pattern = re.compile(rf"(?<![a-z])({'|'.join(REPLACED_WORDS)})(?![a-z])", re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, match[0]


def import_seconds() -> float:
    """Return the minimum of five times of ``import sparsem``, less that of an empty interpreter."""

    def fastest(code: str) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return fastest("import sparsem") - fastest("pass")


class Metrics:
    """The counts over a set of files; compiled loops have a size of their own."""

    def __init__(self) -> None:
        self.code_lines = 0
        self.long_lines = 0
        self.nodes = 0
        self.function_nodes: list[int] = []
        self.loop_nodes: list[int] = []  # compiled loops, whose calls would cost time
        self.fragments: list[str] = []
        self.empty_names: list[str] = []
        self.words: list[str] = []
        self.defined_in: dict[str, list[str]] = defaultdict(list)

    def add(self, path: Path, shown: str) -> None:
        """Count one file; ``shown`` is its name in lists."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = text.splitlines()
        self.code_lines += code_lines(text)
        self.long_lines += sum(len(line) > MAX_LINE_LENGTH for line in text.splitlines())
        self.nodes += count_nodes(tree)
        for function in functions_of(tree):
            nodes = self.loop_nodes if is_compiled(function) else self.function_nodes
            nodes.append(count_nodes(function))
            if is_compiled(function):
                body = "\n".join(lines[function.lineno - 1 : function.end_lineno])
                self.code_lines -= code_lines(body)
                self.nodes -= nodes[-1]
        self.fragments += [f"{shown}:{line}: {start}" for line, start in docstring_fragments(tree)]
        self.empty_names += [
            f"{shown}:{line}: {name}" for line, name in bound_names(tree) if name in EMPTY_NAMES
        ]
        self.words += [f"{shown}:{line}: {word}" for line, word in words_in(text)]
        for name in public_names(tree):
            self.defined_in[name].append(shown)

    def ambiguous_names(self) -> dict[str, list[str]]:
        """Return the public names that more than one module defines, with these modules."""
        several = {name: files for name, files in self.defined_in.items() if len(files) > 1}
        return dict(sorted(several.items()))

    @property
    def nodes_per_line(self) -> float:
        """Syntax nodes a line of code."""
        return self.nodes / max(1, self.code_lines)

    def function_size(self, quantile: float) -> int:
        """Return a quantile of the syntax nodes of functions that are not compiled."""
        return quantile_of(self.function_nodes, quantile)

    def loop_size(self, quantile: float) -> int:
        """Return a quantile of the syntax nodes of compiled loops."""
        return quantile_of(self.loop_nodes, quantile)

    def rows(self) -> list[tuple[str, str]]:
        """Return (measure, value) for the table."""
        return [
            ("code lines", f"{self.code_lines}"),
            ("functions", f"{len(self.function_nodes)}"),
            ("syntax nodes a line", f"{self.nodes_per_line:.1f}"),
            ("syntax nodes a function, median", f"{self.function_size(0.5)}"),
            ("syntax nodes a function, 90th percentile", f"{self.function_size(0.9)}"),
            ("syntax nodes a compiled loop, 90th percentile", f"{self.loop_size(0.9)}"),
            (f"lines over {MAX_LINE_LENGTH} characters", f"{self.long_lines}"),
            ("public names in more than one module", f"{len(self.ambiguous_names())}"),
            ("docstring fragments", f"{len(self.fragments)}"),
            ("variables with empty names", f"{len(self.empty_names)}"),
            ("replaced words", f"{len(self.words)}"),
        ]


def main() -> None:
    """Print the table, and with ``--list`` every occurrence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--source", type=Path, default=Path("src/sparsem"))
    parser.add_argument(
        "--only", default="", help="only files whose path starts with this, such as cells/"
    )
    parser.add_argument("--by-room", action="store_true", help="print a row for each folder")
    parser.add_argument("--list", action="store_true", help="print every occurrence")
    parser.add_argument("--import-time", action="store_true", help="time 'import sparsem'")
    arguments = parser.parse_args()
    total = Metrics()
    rooms: dict[str, Metrics] = defaultdict(Metrics)
    root_modules = 0
    for path in source_files(arguments.source):
        relative = path.relative_to(arguments.source)
        if not relative.as_posix().startswith(arguments.only):
            continue
        root_modules += len(relative.parts) == 1
        total.add(path, relative.as_posix())
        rooms[relative.parts[0] if len(relative.parts) > 1 else "(root)"].add(path, str(relative))
    for name, value in [*total.rows(), ("root modules", str(root_modules))]:
        print(f"{name:45}{value:>10}")
    if arguments.import_time:
        print(f"{'import sparsem, s':45}{import_seconds():>10.2f}")
    if arguments.by_room:
        print(
            f"\n{'room':14}{'lines':>7}{'nodes/line':>11}{'median':>8}{'p90':>6}{'long':>6}", end=""
        )
        print(f"{'fragments':>10}{'names':>7}{'words':>7}")
        for room, metrics in sorted(rooms.items()):
            values = [value for _, value in metrics.rows()]
            print(f"{room:14}{values[0]:>7}{values[2]:>11}{values[3]:>8}{values[4]:>6}", end="")
            print(f"{values[5]:>6}{values[7]:>10}{values[8]:>7}{values[9]:>7}")
    if arguments.list:
        print_occurrences(total)


def print_occurrences(total: Metrics) -> None:
    """Print every occurrence that was counted."""
    for name, files in total.ambiguous_names().items():
        print(f"{name}: {', '.join(files)}")
    for title, occurrences in (
        ("Docstring fragments", total.fragments),
        ("Variables with empty names", total.empty_names),
    ):
        print(f"\n{title}")
        print("\n".join(occurrences))
    print("\nReplaced words")
    words = Counter(occurrence.rpartition(" ")[2].lower() for occurrence in total.words)
    for word, count in words.items():
        print(f"{word}: {count}")
    print("\n".join(total.words))


if __name__ == "__main__":
    main()
