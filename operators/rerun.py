"""rerun: make a file again."""

from __future__ import annotations

import click

from segflow.cli.operator import job


@job(example="segflow rerun seg.h5")
@click.argument("path", metavar="FILE|VOLUME")
@click.pass_context
def rerun(ctx: click.Context, path: str) -> None:
    """Run again the line that made a file or volume, in this folder.

    Relative paths in the line are those of the folder it was first run in.
    """
    import logging
    import shlex

    from segflow.cli.main import group, run_tokens, setup_logging
    from segflow.provenance import find

    root = ctx.find_root()
    setup_logging(root.params)
    for record in find(path):
        logging.getLogger("segflow").info("segflow %s", shlex.join(record["chain"]))
        made = group.make_context("segflow", list(record["chain"]))
        for key in ("dry_run", "quiet", "verbose", "debug", "log_level"):
            made.params[key] = root.params[key]
        run_tokens(made, [*made._protected_args, *made.args])
