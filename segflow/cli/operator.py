"""How a command is declared: ``@operator`` or ``@job`` above options above a plain function.

The decorators attach metadata only, so the function stays a typed plain call. An option made by
``name_in`` or ``name_out`` *is* the function's argument: its value on the command line is the name
of a chunk, and the engine passes the chunk.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

OVERRIDES = "[KEY=VALUE]..."  # metavar of the argument of commands that set keys

SECTIONS = (
    "Sources",
    "Reading",
    "Writing",
    "Image",
    "Inference",
    "Segmentation",
    "Volumes",
    "Tasks",
    "State",
    "Viewing",
    "Jobs",
    "Plugins",
)


class Option(click.Option):
    """A click option with hidden older spellings (``aliases``) and a default shown in the help."""

    def __init__(self, decls: Sequence[str], *, aliases: Sequence[str] = (), **attributes: Any) -> None:
        attributes.setdefault("show_default", True)
        if attributes.get("required"):
            attributes.pop("default", None)  # None counts as a value there
        super().__init__([*decls, *aliases], **attributes)
        self.aliases = tuple(aliases)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        every = self.opts
        self.opts = [o for o in every if o not in self.aliases]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = every


def option(*decls: str, aliases: Sequence[str] = (), **attributes: Any) -> Callable[[F], F]:
    """Declare an option: click's own words, plus ``aliases``, older spellings left out of the help."""
    return click.option(*decls, cls=Option, aliases=aliases, **attributes)


class NameOption(Option):
    """An option whose value names a chunk; ``role`` is ``in``, ``ins`` (a comma list) or ``out``."""

    def __init__(self, decls: Sequence[str], *, role: str, **attributes: Any) -> None:
        self.role = role
        attributes.setdefault("metavar", "NAMES" if role == "ins" else "NAME")
        super().__init__(decls, **attributes)


def name_in(
    argument: str = "chunk",
    *decls: str,
    default: str | None = "chunk",
    help: str = "Chunk to read.",
    aliases: Sequence[str] = ("--input-chunk-name", "--input-name"),
) -> Callable[[F], F]:
    """Declare an input chunk: by default ``-i/--input``; ``default=None`` makes it optional."""
    words = decls or ("-i", "--input")
    old = aliases if not decls else [a for a in aliases if a not in ("--input-chunk-name", "--input-name")]
    return click.option(*words, argument, cls=NameOption, role="in", default=default, help=help, aliases=old)


def names_in(argument: str = "chunks", *decls: str, default: str | None = "chunk", **attributes: Any) -> Any:
    """Declare several input chunks, a comma list; the function gets a dict name -> chunk."""
    words = decls or ("-i", "--inputs")
    attributes.setdefault("help", "Chunks to read, separated by commas.")
    return click.option(*words, argument, cls=NameOption, role="ins", default=default, **attributes)


def name_out(
    *decls: str, argument: str = "output", default: str | None = "chunk", help: str = "Chunk to write."
) -> Callable[[F], F]:
    """Declare the output chunk: by default ``-o/--output``; the engine stores the return value."""
    words = decls or ("-o", "--output")
    old = () if decls else ("--output-chunk-name", "--output-name")
    return click.option(*words, argument, cls=NameOption, role="out", default=default, help=help, aliases=old)


def triple(*decls: str, **attributes: Any) -> Callable[[F], F]:
    """Declare an option of three numbers, z y x (ints unless ``type`` says otherwise)."""
    attributes.setdefault("type", int)
    attributes.setdefault("metavar", "Z Y X")
    return option(*decls, nargs=3, **attributes)


def file_option(help: str = "File.", **attributes: Any) -> Callable[[F], F]:
    """Declare ``-f/--file-name``, passed as ``path``."""
    attributes.setdefault("required", True)
    return option("-f", "--file-name", "path", metavar="FILE", help=help, **attributes)


def volume_option(help: str, *, required: bool = True, **attributes: Any) -> Callable[[F], F]:
    """Declare ``-v/--volume-path``, passed as ``volume``."""
    return option(
        "-v", "--volume-path", "volume", metavar="VOLUME", required=required, help=help, **attributes
    )


def mip_option(help: str = "Mip to read; default: that of the task (--mip).") -> Callable[[F], F]:
    """Declare ``-m/--mip``, passed as ``mip``; None is the state's own."""
    return option("-m", "--mip", "mip", type=click.IntRange(0, 30), default=None, help=help)


@dataclass
class Operator:
    """What the engine knows of a command."""

    function: Callable[..., Any]
    section: str
    kind: str  # map, expand, stream or job
    uses: str = "cpu"  # io, cpu or gpu
    example: str = ""
    source: bool = False
    always: bool = False
    unknown_outputs: bool = False
    deletes: str | None = None
    group: int = 0
    finish: Callable[..., None] | None = None
    plan: Callable[..., Any] | None = None
    prepare: Callable[..., Any] | None = None
    takes: frozenset[str] = field(default_factory=frozenset)


def operator(
    section: str,
    *,
    kind: str = "map",
    uses: str = "cpu",
    example: str = "",
    finish: Callable[..., None] | None = None,
    plan: Callable[..., Any] | None = None,
    prepare: Callable[..., Any] | None = None,
    source: bool = False,
    always: bool = False,
    unknown_outputs: bool = False,
    deletes: str | None = None,
    group: int = 0,
) -> Callable[[F], F]:
    """Declare a chainable command.

    Args:
        section: its place in the help, one of SECTIONS.
        kind: ``map`` (chunks and options -> chunks), ``expand`` (``state`` and options -> states)
            or ``stream`` (``states`` and options -> states).
        uses: io, cpu or gpu; where it changes, ``--prefetch`` cuts the chain.
        example: an example line for its help.
        finish: ``finish(run, **options)`` is called once when the stream ends without error.
        plan: ``plan(plan, options)`` is called before the run; see segflow.cli.plan.Plan.
        prepare: ``prepare(**options)`` is called before the first state, to load what is costly.
        source: it gives tasks by itself, so what it makes is not known from what came before.
        always: it also acts on skipped states (it ends a task).
        unknown_outputs: what it stores cannot be known before the run (a user's plugin).
        deletes: the option that holds a comma list of chunk names it removes.
        group: 1 where it begins a group of blocks (the last state that it gives is its own, with
            ``ends`` set), -1 where it joins them.

    The function gets ``state`` (segflow.state.State) when it has an argument of that name.
    A map function returns a chunk for its ``name_out``, a tuple for several, or None. A stream
    function must hand on states whose ``ends`` is set; it may take ``level``, how many groups are
    open where it stands, and ``turn``: ``with turn(state) as mine`` times the work on a state, keeps
    its error in it, and says whether it is this step's turn.
    """
    if section not in SECTIONS:
        raise ValueError(f"no section '{section}'")

    def mark(function: F) -> F:
        function.__operator__ = Operator(  # type: ignore[attr-defined]
            function, section, kind, uses, example, source, always, unknown_outputs, deletes, group, finish,
            plan, prepare,
            frozenset(inspect.signature(function).parameters),
        )  # fmt: skip
        return function

    return mark


def job(
    section: str = "Jobs", *, example: str = "", plan: Callable[..., Any] | None = None
) -> Callable[[F], F]:
    """Declare a command that stands alone: a plain function of its options and arguments.

    ``plan(None, options)`` raises what is wrong with them, for a wrapper that runs it elsewhere.
    """
    return operator(section, kind="job", example=example, plan=plan)


class ChainCommand(click.Command):
    """A click command made from a declared function."""

    operator: Operator

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read also ``KEY -1`` where keys are set: click would take the number for an option."""
        if any(p.metavar == OVERRIDES for p in self.params if isinstance(p, click.Argument)):
            for i in range(len(args) - 1, 0, -1):
                if re.match(r"-\.?\d", args[i]) and re.fullmatch(r"\w+(\.\w+)+", args[i - 1]):
                    args[i - 1 : i + 1] = [f"{args[i - 1]}={args[i]}"]
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        found = super().get_help_option(ctx)
        if found is not None:
            found.help = "Show this and exit."
        return found


def command_of(function: Callable[..., Any], name: str) -> ChainCommand:
    """Make the click command ``name`` from a function that ``@operator`` or ``@job`` marked."""
    declared: Operator = function.__operator__  # type: ignore[attr-defined]
    parameters: list[click.Parameter] = list(reversed(getattr(function, "__click_params__", [])))
    if declared.kind != "job" and not any(p.name == "step_name" for p in parameters):
        parameters.append(
            Option(["--name", "step_name"], default=None, metavar="NAME", show_default=False,
                   help="Name of this step, for logs and --skip-to.")
        )  # fmt: skip
    doc = inspect.cleandoc(function.__doc__ or "").split("\nArgs:")[0].split("\n>>>")[0].strip()
    for stop in ("\nReturns:", "\nRaises:", "\nExample"):
        doc = doc.split(stop)[0].strip()
    command = ChainCommand(
        name,
        params=parameters,
        callback=function if declared.kind == "job" else None,
        help=doc,
        short_help=doc.split("\n")[0].rstrip("."),
        epilog=f"\b\nExample:\n  {declared.example}" if declared.example else None,
        context_settings={"max_content_width": 100, "token_normalize_func": normalize},
    )
    command.operator = declared
    return command


def normalize(token: str) -> str:
    """``_`` and ``-`` are the same in names."""
    return token.replace("_", "-")
