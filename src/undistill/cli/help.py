"""Help in groups, ended by examples; and the old names of options, which are still read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

JOB, DATA, MODELS = "The job", "Data", "Models"
ACCESS, MORE, RUNNING = "Output access and budget", "Attackers and precision", "Running"
GROUPS = (JOB, DATA, MODELS, ACCESS, RUNNING)
OTHER = "Options"
LAST = ("--fresh", "--dry-run", "-q", "-v", "--help")
"""Options that come at the end of their group."""
WIDEST = 22
"""Characters of the first column; a longer option takes a line of its own."""
RANGE = re.compile(r"  \[\d*<?=?x[<>=\d.]+\]|; \d*<?=?x[<>=\d.]+(?=\])")
"""How Click writes the range of a number: `[x>=1]`, `[default: 3; x>=1]`."""
DEFAULT = re.compile(r"\[default: \((.*)\)\]")
"""How Typer writes a default in words: `[default: (all)]`."""
TYPE = re.compile(r"(?<=\S) <[^>]*>$")
"""What Typer puts behind a name that has no word for its value: `MODEL <str>`, `--time <str>`."""
BRACES = re.compile(r"^\{(.*)\}(?:\.\.\.)?$")
OLD = {
    "--also": "--extra-attack",
    "--answers": "--outputs",
    "--ask-test": "--query-test",
    "--bank": "--cache",
    "--bank-limit": "--cache-limit",
    "--behind": "--output-defense",
    "--called": "--name",
    "--card": "--threat-model",
    "--ledger": "--query-log",
    "--questions": "--queries",
    "--serve": "--access",
    "--unseen": "--assume-fresh",
}
"""Options that had another name; each is read where the new one exists."""
OLD_OF = {
    "protect": {"--with": "--defense"},
    "attack": {"--with": "--attack"},
    "demo": {"--seeds": "--teachers"},
}
"""Those that had it in one verb only."""


class Verb(TyperCommand):
    """A command that lists its options in groups and reads their old names, with a notice.

    `panels` gives the group of a parameter by its name, where that is another one than the option's own.
    """

    panels: ClassVar[Mapping[str, str]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, old names among them."""
        return super().parse_args(ctx, _renamed(self, args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the options group by group."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, text = record
                argument = parameter.param_type_name == "argument"
                word = "" if argument else f" {str(parameter.name).upper().replace('_', '-')}"
                rows.setdefault(self._group(parameter), []).append((TYPE.sub(word, name), text))
        _sections(formatter, rows, ("Arguments", JOB, OTHER, *GROUPS[1:]))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] MODEL`, without the braces that Typer puts around it."""
        return [BRACES.sub(r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def _group(self, parameter: Any) -> str:
        if parameter.param_type_name == "argument":
            return "Arguments"
        own = getattr(parameter, "rich_help_panel", None) or (RUNNING if parameter.name == "help" else OTHER)
        return self.panels.get(parameter.name, own)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, as they are written."""
        _examples(formatter, self.epilog)


class Verbs(TyperGroup):
    """The whole tool: commands in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands, then the options."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                group = getattr(command, "rich_help_panel", None) or OTHER
                rows.setdefault(group, []).append((name, command.get_short_help_str(200)))
        _sections(formatter, rows, ())
        options = [record for p in self.get_params(ctx) if (record := p.get_help_record(ctx)) is not None]
        _sections(formatter, {OTHER: options}, ())

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, as they are written."""
        _examples(formatter, self.epilog)


def examples(*lines: str) -> str:
    """Commands for the end of a help text."""
    return "\n".join(("Examples:", *(f"  {line}" for line in lines)))


def _sections(formatter: Any, rows: dict[str, list[tuple[str, str]]], order: Sequence[str]) -> None:
    """Each group with its heading, all in the same two columns."""
    column = max((len(name) for group in rows.values() for name, _ in group if len(name) <= WIDEST), default=0) + 4
    more = [name for name in rows if name not in order]
    for group in [*(name for name in order if name != RUNNING), *more, RUNNING]:
        if group in rows:
            formatter.write(f"\n{group}:\n")
            for name, text in sorted(rows[group], key=lambda row: row[0].startswith(LAST)):
                words = DEFAULT.sub(r"[default: \1]", RANGE.sub("", text))
                first = f"  {name}".ljust(column)
                if len(name) > WIDEST:
                    formatter.write(f"  {name}\n")
                    first = " " * column
                formatter.write(textwrap.fill(words, formatter.width, **_indents(first, column)).rstrip() + "\n")


def _indents(first: str, column: int) -> dict[str, Any]:
    return {"initial_indent": first, "subsequent_indent": " " * column, "break_on_hyphens": False}


def _examples(formatter: Any, text: str | None) -> None:
    if text:
        formatter.write_paragraph()
        formatter.write(textwrap.dedent(text) + "\n")


def _renamed(command: Any, args: list[str]) -> list[str]:
    """The arguments with options by their new names; a notice on stderr for each that had an old one, unless `-q` is there."""
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    old = {**OLD, **OLD_OF.get(command.name or "", {})}
    read, literal = [], False
    for word in args:
        name, equals, value = word.partition("=")
        literal = literal or word == "--"
        new = old.get(name, "")
        if not literal and name not in known and new in known:
            word = f"{new}{equals}{value}"
            if not {"-q", "--quiet"} & set(args):
                typer.echo(f"{name} is now called {new}", err=True)
        read.append(word)
    return read
