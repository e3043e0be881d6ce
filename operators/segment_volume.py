"""segment-volume: a volume of affinities to a volume of segments, block by block."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import click

from segflow.cli.files import before_the_run
from segflow.cli.jobs import provenance_of, segments_to, stale_option, tell, work_options
from segflow.cli.operator import job, option, triple
from segflow.errors import UsageError
from segflow.volumes.info import ENCODINGS

if TYPE_CHECKING:
    from segflow.blocks.ledger import Stage
    from segflow.blocks.segment_volume import Options, SegmentVolume

log = logging.getLogger("segflow")

Three = tuple[int, int, int]

WORK = ("work_dir", "join", "processes", "stale", "queue")  # who does it and where, not what


def plan_job(_plan: None, options: dict[str, Any]) -> None:
    """Check inputs, outputs and the work folder; nothing is made."""
    from segflow.blocks.inputs import work_dir_of
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.segment_volume import SegmentVolume

    told = {key: value for key, value in options.items() if key not in WORK}
    affs, out, work_dir = told.pop("affs"), told.pop("out"), options["work_dir"]
    if options["join"]:
        SegmentVolume.joined(WorkFolder(work_dir or needs_work_dir()))
        return
    made = make_options(*given(affs, out), **told)
    SegmentVolume(WorkFolder(work_dir or work_dir_of(made.folder)), made).stages()


@job(
    example="segflow segment-volume --affs affs --out seg --block-size 64 512 512 --threshold 0.7",
    plan=plan_job,
)
@option("--affs", metavar="VOLUME", default=None,
        help="Affinities: precomputed, zarr://, n5://, FILE.h5[:DATASET], npy; uint8 or float.")  # fmt: skip
@option("--out", metavar="VOLUME", default=None,
        help="Volume for the segments, made if it is not there. {threshold} in it is replaced; with several "
        "thresholds -T is added.")  # fmt: skip
@triple("--block-size", type=click.IntRange(1), default=(64, 512, 512), help="Of the blocks, voxels.")
@option("--threshold", "thresholds", metavar="T", multiple=True, default=("0.7",),
        help="Merge while 1 - mean affinity is below it; repeat it for several volumes.")  # fmt: skip
@option("-l", "--aff-threshold-low", type=click.FloatRange(0, 1), default=0.0001,
        help="Voxels whose best affinity is not above this become 0.")  # fmt: skip
@option("-h", "--aff-threshold-high", type=click.FloatRange(0, 1), default=0.9999,
        help="Affinities at or above this always join.")  # fmt: skip
@option("--mask", metavar="VOLUME", default=None,
        help="What is 0 there is not segmented; at the mip of the affinities, or coarser.")  # fmt: skip
@option("--fragments", metavar="VOLUME", default=None,
        help="Fragments made elsewhere, in place of the watershed's.")  # fmt: skip
@option("--merge-function", type=click.Choice(["mean", "quantile"]), default="mean",
        help="Score of two neighbours: mean affinity, or a quantile (whole graph in memory).")  # fmt: skip
@option("--quantile", type=click.IntRange(0, 99), default=50, help="Of --merge-function quantile, percent.")
@option("--join-small", type=click.IntRange(0), default=0,
        help="Last, segments of fewer voxels join the neighbour with the largest mean affinity.")  # fmt: skip
@option("--dust", type=click.IntRange(0), default=0, help="Last, segments of fewer voxels become 0.")
@option("--dataset-path", "dataset", default=None, help="Data set of --affs.")
@option("--mip", type=click.IntRange(0, 30), default=0, help="Mip of --affs.")
@option("--channel-order", type=click.Choice(["xyz", "zyx"]), default=None,
        help="Order of the channels where --affs does not say it; PyTC's is zyx.")  # fmt: skip
@triple("--voxel-size", type=click.FloatRange(0, min_open=True), default=None,
        help="Where --affs does not say it, nm.")  # fmt: skip
@option("--dtype", type=click.Choice(["uint32", "uint64"]), default=None,
        help="Of a new volume; default: uint64.")  # fmt: skip
@option("--encoding", type=click.Choice(ENCODINGS), default=None,
        help="Of a new precomputed volume; default: compressed_segmentation.")  # fmt: skip
@triple("--chunk-size", type=click.IntRange(1), default=(64, 64, 64), help="Of a new volume, voxels.")
@option("--queue", "queue", metavar="QUEUE", default=None,
        help="Put a message for each block into this queue, fq://FOLDER or sqs://NAME, and leave the work to "
        "others; with --join: be one of them, until the queue is empty.")  # fmt: skip
@work_options
@stale_option
@click.pass_context
def segment_volume(
    ctx: click.Context,
    affs: str | None = None,
    out: str | None = None,
    work_dir: str | None = None,
    join: bool = False,
    processes: int | None = None,
    stale: str = "fail",
    queue: str | None = None,
    **told: Any,
) -> None:
    """Segment affinities larger than memory: the answer of agglomerate --engine exact, whatever the blocks.

    Watershed and agglomeration run over all blocks in several processes. What is done is kept in a
    work folder beside the output: the same line again, after a kill, goes on. segflow status shows
    it, relabel-volume cuts it at other thresholds.
    """
    from segflow.blocks.inputs import work_dir_of
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.runner import drive
    from segflow.blocks.segment_volume import JOB, SegmentVolume
    from segflow.compiled import cores

    if join:
        join_in(work_dir or needs_work_dir(), queue)
        return
    options = make_options(*given(affs, out), **told)
    with before_the_run():
        folder = WorkFolder(work_dir or work_dir_of(options.folder))
        made = SegmentVolume(folder, options, provenance_of(ctx))
        stages = made.begin(stale)
    if queue is not None:
        leave_to(queue, made, stages)
        return
    drive(folder, stages, [JOB, "--work-dir", str(folder.path), "--join"], processes or cores())
    made.finish()
    for word in options.thresholds:
        tell(options.output(word), made.info.bounds.voxels)


def needs_work_dir() -> NoReturn:
    """Say that --join alone is not enough."""
    raise UsageError("--join needs the work folder: --work-dir DIR")


def given(affs: str | None, out: str | None) -> tuple[str, str]:
    """Give what is read, and the address of what is written."""
    if affs is None or out is None:
        raise UsageError("say which affinities and where the segments go: --affs VOLUME --out VOLUME")
    return affs, segments_to(out)


def join_in(work_dir: str, address: str | None) -> None:
    """Work on a job that another process began, block by block, or as the messages of a queue say."""
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.queued import work
    from segflow.blocks.runner import run_stages
    from segflow.blocks.segment_volume import SegmentVolume
    from segflow.tasks.queues import open_queue

    folder = WorkFolder(work_dir)
    with before_the_run():
        made = SegmentVolume.joined(folder)
        stages = made.stages()
        folder.join(stages)
        queue = open_queue(address) if address else None
    if queue is None:
        run_stages(folder, stages)
    elif not work(folder, stages, queue):
        return
    made.finish()


def leave_to(address: str, made: SegmentVolume, stages: list[Stage]) -> None:
    """Fill a queue with the blocks of a job, and print the line of its workers."""
    import shlex

    from segflow.blocks.queued import fill
    from segflow.tasks.queues import open_queue

    queue = open_queue(address, create=True)
    count = fill(made.work, stages, made.info.bounds, queue)
    log.info("put %d blocks into %s; each of its workers runs", count, queue.address)
    work_dir = str(made.work.path)
    click.echo(
        shlex.join(["segflow", "segment-volume", "--work-dir", work_dir, "--join", "--queue", queue.address])
    )


def make_options(
    affs: str,
    out: str,
    *,
    thresholds: tuple[str, ...],
    aff_threshold_low: float,
    aff_threshold_high: float,
    merge_function: str,
    quantile: int,
    **told: Any,
) -> Options:
    """Give the options of the job from those of the command line."""
    from segflow.blocks.inputs import absolute
    from segflow.blocks.segment_volume import Options, threshold_of

    if merge_function == "mean" and quantile != 50:
        raise UsageError("--quantile belongs to --merge-function quantile")
    told |= {name: absolute(told[name]) for name in ("mask", "fragments") if told[name]}
    named = {threshold_of(word): word for word in reversed(thresholds)}
    return Options(
        absolute(affs), out, thresholds=tuple(reversed(named.values())), low=aff_threshold_low,
        high=aff_threshold_high, quantile=quantile if merge_function == "quantile" else None, **told,
    )  # fmt: skip
