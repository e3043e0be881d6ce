"""verify: whether a volume is complete and as it was written."""

from __future__ import annotations

import click

from segflow.cli.operator import job, option


@job(example="segflow verify file:///data/seg --json faults.json")
@click.argument("path", metavar="VOLUME")
@option("-m", "--mip", "mips", type=click.IntRange(0, 30), multiple=True, default=None,
        show_default="all", help="Mip to look at; can be given several times.")  # fmt: skip
@option("--json", "json_path", metavar="FILE", default=None,
        help="Write the counts and every faulty block as JSON; - is stdout.")  # fmt: skip
@option("-n", "--num", type=click.IntRange(0), default=10, help="How many faulty blocks to print.")
@option("--fill-missing/--no-fill-missing", default=False,
        help="Blocks that nobody wrote are background (the writers skipped them), not faults.")  # fmt: skip
@option("--nproc", "threads", type=click.IntRange(0), default=0, aliases=("--parallel", "-p"),
        help="Blocks that are read at once; 0 is one a core, 16 from a bucket.")  # fmt: skip
@option("--use-https", is_flag=True, help="Read a bucket anonymously over https.")
def verify(
    path: str,
    *,
    mips: tuple[int, ...] = (),
    json_path: str | None = None,
    num: int = 10,
    fill_missing: bool = False,
    threads: int = 0,
    use_https: bool = False,
) -> None:
    """Prove a volume complete: every block stored, readable, of the right shape, as it was written.

    Reads all of it. Segflow's writers keep a checksum of every block of a precomputed volume; a block
    that has none (another program wrote it, zarr, n5, jpeg) is only read. The exit code is 1 if a
    block is missing, truncated, zeroed, stale (other voxels than were written last) or incomplete.
    """
    import json
    import sys

    from segflow.volumes import open_volume
    from segflow.volumes.files import replacing
    from segflow.volumes.verify import as_json, table
    from segflow.volumes.verify import verify as check

    volume = open_volume(path, use_https=use_https)
    found = check(volume, mips or None, fill_missing=fill_missing, threads=threads)
    text = json.dumps(as_json(found), indent=1)
    if json_path == "-":
        click.echo(text)
    elif json_path is not None:
        with replacing(json_path) as beside:
            beside.write_text(text + "\n")
    click.echo(table(found, num), err=json_path == "-")
    if found.faults:
        sys.exit(1)
