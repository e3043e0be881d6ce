"""run: a pipeline file."""

from __future__ import annotations

import click

from segflow.cli.operator import job, option


@job(example="segflow run pipeline.yaml --set VOLUME=file:///data/seg --set agglomerate.threshold=0.6")
@click.argument("file", metavar="FILE")
@option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", show_default=False,
    help="Value for ${KEY}, or step[n].option=value.",
)  # fmt: skip
@click.pass_context
def run(ctx: click.Context, file: str, settings: tuple[str, ...] = ()) -> None:
    """Run a pipeline file; the same as the shell line it was saved from.

    The file is what ``segflow --save FILE ...`` writes: ``steps:``, a list of
    ``operator: {option: value}``.
    """
    from segflow.cli.main import run_tokens
    from segflow.cli.pipeline_file import load

    words, group = load(file, settings)
    root = ctx.find_root()
    for key, value in group.items():
        root.params[key] = root.params.get(key) or value
    run_tokens(root, words)
