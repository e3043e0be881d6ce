"""provenance: how a file was made."""

from __future__ import annotations

import click

from segflow.cli.operator import job, option


@job(example="segflow provenance file:///data/seg")
@click.argument("path", metavar="FILE|VOLUME")
@option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
def provenance(path: str, as_json: bool = False) -> None:
    """Show how a file or volume was made, as a line that can be run again."""
    import shlex

    from segflow.provenance import dump, find

    for record in find(path):
        if as_json:
            click.echo(dump(record), nl=False)
            continue
        click.echo(shlex.join(["segflow", *record["chain"]]))
        for key, value in record.items():
            if key != "chain":
                click.echo(f"# {key}: {value}")
