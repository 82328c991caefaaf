"""Help pages: options in groups, and examples on lines of their own that can be copied."""

from typing import Any

from typer.core import TyperCommand

OPTIONS = "Options"


class Command(TyperCommand):
    """A command whose help keeps the lines of examples, and lists options by group."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write paragraphs, wrapped, and then the lines of examples as they are."""
        examples = []
        for paragraph in (self.help or "").split("\n\n"):
            lines = [line.strip() for line in paragraph.splitlines()]
            examples += [line for line in lines if _is_example(line)]
            text = " ".join(line for line in lines if not _is_example(line))
            if text:
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(text)
        if examples:
            with formatter.section("Examples"):
                for line in examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group of options.

        Groups appear in the order of their first option.
        """
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                title = "Arguments"
            else:
                title = getattr(parameter, "rich_help_panel", None) or OPTIONS
            sections.setdefault(title, []).append(record)
        for title in sorted(sections, key=_section_rank):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def _is_example(line: str) -> bool:
    return line.startswith("sparsem ")


def _section_rank(title: str) -> int:
    """Return the position of a section: arguments first, common options last."""
    order = {"Arguments": 0, OPTIONS: 1, "Common options": 3}
    return order.get(title, 2)
