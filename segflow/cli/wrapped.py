"""What stands after ``--`` of a wrapper: a chain, or a job; parsed and checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from segflow.errors import SegflowError, UsageError

LEFT_OUT = ("dry_run", "save", "debug", "version", "help")  # group options that are the wrapper's own


@dataclass(frozen=True)
class Line:
    """A line that was checked.

    Attributes:
        words: all of it, with the options of the group, without ``segflow``.
        job: the name of the job that it is; None for a chain.
        params: the job's options.
        operators: the names of the chain's operators.
        doubt: what the check found, where that is no error (``lenient``).
        chain: the chain itself (segflow.cli.engine.Chain); None for a job.
    """

    words: list[str]
    job: str | None
    params: dict[str, Any]
    operators: tuple[str, ...]
    doubt: str = ""
    chain: Any = None


def check_line(ctx: click.Context, tokens: Sequence[str], *, lenient: bool = False) -> Line:
    """Parse and check the line after ``--``.

    Args:
        ctx: of the wrapper; options of its group that stood on the line are put before ``tokens``.
        tokens: a chain, ``run FILE``, or a job.
        lenient: what the files lack is no error: something else makes them first.

    Raises:
        UsageError: there is none, it cannot be parsed, or it cannot work.
    """
    from segflow.cli.main import GROUP_WORDS, _usage_line, group, make_chain, parse, words_of

    if not tokens:
        raise UsageError(
            f"give the line to run after --, as: segflow {ctx.info_name} -- fetch-task -q QUEUE ..."
        )
    root = ctx.find_root()
    words = [*words_of(root.command, root, leave_out=LEFT_OUT), *tokens]
    try:
        made = group.make_context("segflow", list(words))
        steps = parse(made, [*made._protected_args, *made.args])
        settings = dict(made.params)
        if isinstance(steps, click.Context) and steps.info_name == "run":
            from segflow.cli.pipeline_file import load

            inner, more = load(steps.params["file"], steps.params["settings"])
            settings |= {key: settings.get(key) or value for key, value in more.items() if key in GROUP_WORDS}
            steps = parse(made, inner)
    except click.UsageError as error:
        name = error.ctx.info_name if error.ctx and error.ctx.parent else None
        raise UsageError(f"after --: {f'{name}: ' if name else ''}{_usage_line(error)}") from error
    if isinstance(steps, click.Context):
        return _job(ctx, words, steps, lenient)
    doubt = ""
    chain = make_chain(steps, settings)
    try:
        for _ in chain.check():
            pass
    except UsageError as error:
        if not lenient:
            raise
        doubt = str(error)
    return Line(words, None, {}, tuple(step.name for step in steps), doubt, chain)


def _job(ctx: click.Context, words: list[str], made: click.Context, lenient: bool) -> Line:
    """Check a job: its options, its own line after --, and what its ``plan`` looks at."""
    params, doubt = dict(made.params), ""
    operators: tuple[str, ...] = ()
    if params.get("line"):
        inner = check_line(ctx, params["line"], lenient=lenient)
        operators, doubt = inner.operators, inner.doubt
    plan = made.command.operator.plan  # type: ignore[attr-defined]
    if plan is not None:
        try:
            plan(None, params)
        except SegflowError as error:
            doubt = f"{made.command.name}: {error}"
            if not lenient:
                raise UsageError(doubt) from error
    return Line(words, str(made.command.name), params, operators, doubt)
