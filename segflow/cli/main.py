"""The command line: one click group whose commands chain."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from segflow import __version__
from segflow.cli import registry
from segflow.cli.engine import Chain, Step, failed_error
from segflow.cli.operator import SECTIONS, ChainCommand, NameOption, Option, normalize
from segflow.errors import SegflowError, Terminated, UsageError, did_you_mean
from segflow.secrets import hide
from segflow.state import Run

log = logging.getLogger("segflow")

HUNG = 75  # exit code of a worker whose task hangs; segflow worker and Kubernetes start it again
GROUP_WORDS = ("mip", "on_error", "prefetch")  # group options that belong to the chain itself


class Group(click.Group):
    """The group: finds commands by file name, lists them by section, parses a chain of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return registry.names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        word, _ = registry.resolve(name)
        return registry.load(word) if word in registry.names() else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {section: [] for section in (*SECTIONS, "Broken")}
        for name in registry.names():
            try:
                command = registry.load(name)
            except SegflowError as error:
                rows["Broken"].append((name, str(error)))
                continue
            rows[command.operator.section].append((name, command.short_help or ""))
        for section, lines in rows.items():
            if lines:
                with formatter.section(section):
                    formatter.write_dl(lines)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        tokens = [*ctx._protected_args, *ctx.args]
        if not tokens:
            raise click.UsageError("name an operator; 'segflow --help' lists them", ctx)
        return run_tokens(ctx, tokens)


def find(ctx: click.Context, tokens: list[str]) -> tuple[str, ChainCommand, list[str]]:
    """Give the command that ``tokens`` begin with, and the rest of them."""
    name = tokens[0]
    word, _ = registry.resolve(name)
    if word not in registry.names():
        near = did_you_mean(name, registry.spellings())
        kind = "option" if name.startswith("-") else "command"
        raise click.UsageError(f"no such {kind} '{name}'{near}; 'segflow --help' lists them", ctx)
    return name, registry.load(word), tokens[1:]


def parse(ctx: click.Context, tokens: list[str]) -> list[Step] | click.Context:
    """Give the steps of a chain, or the context of a command that stands alone.

    Raises:
        click.UsageError: unknown commands or options, or a job inside a longer line.
    """
    steps: list[Step] = []
    while tokens:
        name, command, rest = find(ctx, tokens)
        if command.operator.kind == "job":
            if steps:
                raise click.UsageError(f"{name} stands alone; it cannot follow another operator", ctx)
            return command.make_context(name, rest, parent=ctx)
        made = command.make_context(
            name, rest, parent=ctx, allow_extra_args=True, allow_interspersed_args=False,
            default_map=registry.resolve(name)[1],
        )  # fmt: skip
        tokens = [*made._protected_args, *made.args]
        steps.append(_step(len(steps) + 1, command, made))
    return steps


def _step(number: int, command: ChainCommand, made: click.Context) -> Step:
    names = [p for p in command.params if isinstance(p, NameOption)]
    name = str(command.name)
    title = made.params.get("step_name") or name
    return Step(
        number, name, command.operator, dict(made.params), names, title, [name, *words_of(command, made)]
    )


def words_of(command: click.Command, made: click.Context, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Give the options that stood on the line as canonical words."""
    words: list[str] = []
    for parameter in command.params:
        key = str(parameter.name)
        if (
            key in leave_out
            or key not in made.params
            or made.get_parameter_source(key) != ParameterSource.COMMANDLINE
        ):
            continue
        value = made.params[key]
        word = long_name(parameter)
        if getattr(parameter, "is_flag", False):
            words.append(word if value else (parameter.secondary_opts or [word])[0])
            continue
        for item in value if parameter.multiple else [value]:  # type: ignore[attr-defined]
            words += [word, *map(_text, item if isinstance(item, (tuple, list)) else [item])]
    return words


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def long_name(parameter: click.Parameter) -> str:
    """Give the option's first long spelling that is not an old one."""
    old = parameter.aliases if isinstance(parameter, Option) else ()
    words = [o for o in parameter.opts if o not in old]
    return next((w for w in words if w.startswith("--")), words[0])


def run_tokens(ctx: click.Context, tokens: list[str]) -> Any:
    """Parse, check and run a line: what the group does, and ``run FILE``, ``rerun``, ``segment``."""
    settings = ctx.find_root().params
    setup_logging(settings)
    parsed = parse(ctx.find_root(), tokens)
    if isinstance(parsed, click.Context):
        with parsed:
            try:
                return parsed.command.invoke(parsed)
            except Exception as error:
                error.segflow_job = parsed.command.name  # type: ignore[attr-defined]
                raise
    chain = make_chain(parsed, settings)
    if settings.get("save"):
        from segflow.cli.pipeline_file import save

        save(settings["save"], chain)
    if settings.get("dry_run"):
        from segflow.cli.report import show_plan

        click.echo(show_plan(chain.check(), chain))
        return None
    from segflow.cli.report import closing

    began = time.monotonic()
    chain.at_end = lambda: closing(chain.run, began)
    chain.run.hung = lambda: os._exit(HUNG)
    if chain.run.has_lease and "SEGFLOW_DRIVER" in os.environ:
        from segflow.blocks.workers import driver_of_this

        driver_of_this(signal.SIGTERM)
    try:
        for state in chain.states():
            del state
    except Terminated:
        if not chain.run.has_lease:
            raise
        log.info("ended by SIGTERM; unfinished tasks were given back")
        _leave()
    if chain.run.failed:
        raise failed_error(chain.run)
    return None


def make_chain(steps: list[Step], settings: dict[str, Any]) -> Chain:
    """Give the chain of ``steps`` with the group's settings."""
    run = Run(mip=settings.get("mip") or 0, log_dir=settings.get("log_dir"))
    run.debug = bool(settings.get("debug"))
    for key in GROUP_WORDS:
        if settings.get(key):
            run.chain += [f"--{key.replace('_', '-')}", str(settings[key])]
    run.chain += [word for step in steps for word in step.words]
    return Chain(steps, run, on_error=settings.get("on_error"), prefetch=settings.get("prefetch"))


def chain_from_tokens(tokens: list[str], known: tuple[str, ...] = (), **settings: Any) -> Chain:
    """Give the checked chain of a line, for use from Python.

    Raises:
        UsageError: the line cannot be parsed or cannot work.
    """
    try:
        ctx = group.make_context("segflow", list(tokens), resilient_parsing=False)
        steps = parse(ctx, [*ctx._protected_args, *ctx.args])
    except click.UsageError as error:
        raise UsageError(_usage_line(error)) from error
    if isinstance(steps, click.Context):
        raise UsageError(f"{steps.info_name} stands alone and does not chain")
    chain = make_chain(steps, {**ctx.params, **settings})
    for _ in chain.check(known):
        pass
    return chain


def setup_logging(settings: dict[str, Any]) -> None:
    """Send the log to stderr at the wanted level, and choose how progress is shown."""
    from segflow import progress

    quiet, verbose = settings.get("quiet"), settings.get("verbose")
    level = settings.get("log_level") or ("error" if quiet else "debug" if verbose else "info")
    if not log.handlers:
        log.addHandler(_Stderr())
        log.propagate = False
    log.setLevel(level.upper())
    loud = log.isEnabledFor(logging.INFO)
    progress.mode = ("bar" if sys.stderr.isatty() else "log") if loud else "silent"


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = "segflow: warning: " if record.levelno == logging.WARNING else ""
        click.echo(prefix + hide(record.getMessage()), err=True)


@click.command(
    cls=Group,
    chain=True,
    help="Turn electron-microscopy volumes into segmented neurons: operators chain on one line.\n\n"
    "\b\nExample:\n  segflow create-chunk -o image neuroglancer -c image\n\n"
    "'segflow COMMAND --help' explains a command.",
    context_settings={
        "token_normalize_func": normalize,
        "max_content_width": 100,
        "help_option_names": ["--help"],
    },
    no_args_is_help=False,
    subcommand_metavar="COMMAND [OPTIONS] [COMMAND [OPTIONS]] ...",
)
@click.option("--mip", type=click.IntRange(0, 30), default=0, show_default=True, help="Mip of task boxes.")
@click.option("--dry-run/--real-run", default=False, help="Check the chain, print its plan, do nothing.")
@click.option("--verbose", is_flag=True, help="Log the time of every step.")
@click.option("--quiet", is_flag=True, help="Log errors only.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default=None,
    help="What is logged.",
)  # fmt: skip
@click.option(
    "--log-dir", type=click.Path(file_okay=False), default=None, help="Folder for a JSON timing log a task."
)
@click.option("--save", type=click.Path(dir_okay=False), default=None, help="Write the chain as a YAML file.")
@click.option(
    "--on-error", type=click.Choice(["stop", "continue"]), default=None,
    help="What a failed task does to the others.  [default: stop; with fetch-task: continue]",
)  # fmt: skip
@click.option(
    "--prefetch", type=click.IntRange(0), default=None,
    help="Tasks read ahead in a thread.  [default: 0; with fetch-task: 1]",
)  # fmt: skip
@click.version_option(__version__, prog_name="segflow")
def group(**_settings: Any) -> None:
    """Stand for the group; Group.invoke does the work."""


def _usage_line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split()).rstrip(".")


def _fail(text: str, code: int) -> NoReturn:
    click.echo(hide(text), err=True)
    sys.exit(code)


def _leave() -> NoReturn:
    """End a worker at once and well: threads that still read or compute could crash an orderly end."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _is_worker(words: list[str]) -> bool:
    """Whether a line takes tasks itself, by all that is known before it is parsed."""
    own = words[: words.index("--")] if "--" in words else words
    return any(registry.resolve(word)[0] in ("fetch-task", "worker") for word in own)


def _terminated(*_: Any) -> NoReturn:
    raise Terminated


def _traceback(*error: Any) -> None:
    """Print a traceback as Python does, without secrets."""
    import traceback

    click.echo(hide("".join(traceback.format_exception(*error))), err=True, nl=False)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for a failed run, 2 for usage, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # too late to change how it ended
    debug = "--debug" in (sys.argv if args is None else args)
    try:
        group.main(args, prog_name="segflow", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        name = error.ctx.info_name if error.ctx and error.ctx.parent else None
        _fail(f"segflow{' ' + name if name else ''}: {_usage_line(error)}", 2)
    except click.ClickException as error:
        _fail(f"segflow: {_usage_line(error)}", error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        ended = Terminated in (type(error), type(error.__cause__))
        if ended and _is_worker(sys.argv[1:] if args is None else args):
            _leave()  # before it held anything
        _fail("segflow: interrupted; nothing half-written was left", 130)
    except Exception as error:
        if debug:
            sys.excepthook = _traceback
            raise
        from segflow.cli.report import explain

        _fail(explain(error), getattr(error, "exit_code", 1))
    sys.exit(0)
