"""relabel-volume: a segmented volume at another threshold."""

from __future__ import annotations

import click

from segflow.cli.files import before_the_run
from segflow.cli.jobs import provenance_of, segments_to, stale_option, tell, work_options
from segflow.cli.operator import job, option


@job(example="segflow relabel-volume --of seg --threshold 0.5 --out seg-0.5")
@option("--of", metavar="VOLUME|WORK_DIR", default=None,
        help="What segment-volume wrote, or its work folder.")  # fmt: skip
@option("--threshold", metavar="T", required=True,
        help="Not above the largest one of segment-volume.")  # fmt: skip
@option("--out", metavar="VOLUME", required=True, help="Volume for the segments.")
@work_options
@stale_option
@click.pass_context
def relabel_volume(
    ctx: click.Context,
    threshold: str,
    out: str,
    of: str | None = None,
    work_dir: str | None = None,
    join: bool = False,
    processes: int | None = None,
    stale: str = "fail",
) -> None:
    """Cut what segment-volume merged at another threshold: only the last step is computed.

    The answer is that of segment-volume at this threshold.
    """
    from segflow.blocks.inputs import find_work_dir
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.runner import drive, run_stages
    from segflow.blocks.segment_volume import Relabel
    from segflow.compiled import cores
    from segflow.errors import UsageError

    with before_the_run():
        if (of or work_dir) is None:
            raise UsageError("say what is relabelled: --of VOLUME, or --work-dir DIR")
        folder = WorkFolder(work_dir or find_work_dir(str(of)))
        to = segments_to(out)
        made = Relabel(folder, threshold, to, provenance_of(ctx))
        stages = made.stages() if join else made.begin(stale)
        if join:
            folder.join(stages)
    if join:
        run_stages(folder, stages)
        return
    line = [
        "relabel-volume",
        "--work-dir",
        str(folder.path),
        "--threshold",
        threshold,
        "--out",
        to,
        "--join",
    ]
    drive(folder, stages, line, processes or cores())
    made.finish()
    tell(to, made.info.bounds.voxels)
