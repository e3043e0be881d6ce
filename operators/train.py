"""train: an image and its labels to a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import OVERRIDES, job, option
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.training.schema import Config


@job(example="segflow train --config-base base.yaml --config-file net.yaml solver.iterations=20000")
@option("--config-base", metavar="FILE", default=None, help="YAML that is read first.")
@option("--config-file", metavar="FILE", default=None, help="YAML over it; of segflow or PyTC 1.x.")
@option("--checkpoint", metavar="FILE", default=None,
        help="Weights: a checkpoint of segflow or PyTC, or a model.pt. Where it holds optimiser and "
        "iteration the training goes on there, unless solver.restart is true.")  # fmt: skip
@option("--resume", is_flag=True, help="Go on from the newest checkpoint in output_path, if there is one.")
@option("--fine-tune", is_flag=True, help="Take from --checkpoint the weights that fit, and begin at 0.")
@option("--inference", is_flag=True, help="Predict the volumes of inference.images with --checkpoint.")
@option("--distributed", is_flag=True, help="This is one of the processes that torchrun started.")
@option("--manual-seed", type=click.IntRange(0), default=None, help="In place of system.seed.")
@option("--print-config", is_flag=True, help="Write all keys as commented YAML and exit.")
@option("--dry-run", is_flag=True, help="Show the configuration, the data found and the memory needed.")
@option("--local-rank", "--local-world-size", "_launcher", type=int, default=None, hidden=True)
@click.argument("overrides", nargs=-1, metavar=OVERRIDES, type=click.UNPROCESSED)
def train(
    config_base: str | None = None,
    config_file: str | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
    fine_tune: bool = False,
    inference: bool = False,
    distributed: bool = False,
    manual_seed: int | None = None,
    print_config: bool = False,
    dry_run: bool = False,
    _launcher: int | None = None,
    overrides: tuple[str, ...] = (),
) -> None:
    """Train an affinity network on images and labels, or go on with one.

    The base file, then the file, then KEY=VALUE (or KEY VALUE) set the keys: segflow's, which
    --print-config lists, or those of PyTorch Connectomics 1.x. output_path gets checkpoint_NNNNN.pt
    and, at the end, model.pt, which inference --convnet-model runs.
    """
    from segflow.training import config as configuration

    quiet = other_rank()
    config, warnings = configuration.load(config_base, config_file, overrides)
    if manual_seed is not None:
        config.system.seed = manual_seed
    if not quiet:
        tell(warnings)
    if print_config:
        click.echo(configuration.to_yaml(config))
        return
    if fine_tune and not checkpoint:
        raise UsageError("--fine-tune needs the weights to begin with: --checkpoint FILE")
    configuration.check(config, inference=inference)
    if dry_run:
        with before_the_run():
            click.echo(planned(config, inference, checkpoint))
        return
    if inference:
        from segflow.training.predict import predict

        predict(config, checkpoint)
        return
    check_distributed(distributed)
    from segflow.training.loop import fit
    from segflow.training.sources import find_volumes

    with before_the_run():
        volumes = find_volumes(config), find_volumes(config, validation=True)
    fit(config, volumes, checkpoint=checkpoint, resume=resume, fine_tune=fine_tune)


def planned(config: Config, inference: bool, checkpoint: str | None) -> str:
    """Give what the line would do."""
    if inference:
        from segflow.training import predict

        return predict.report(config, checkpoint)
    from segflow.training import plan

    return plan.report(config)


def other_rank() -> bool:
    """Whether this process is another's helper, which logs errors only."""
    import logging
    import os

    from segflow import progress

    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        return False
    logging.getLogger("segflow").setLevel(logging.ERROR)
    progress.mode = "silent"
    return True


def tell(warnings: list[str]) -> None:
    """Log what the configuration was warned of."""
    import logging

    for line in warnings:
        logging.getLogger("segflow").warning("%s", line)


def check_distributed(distributed: bool) -> None:
    """Raise UsageError where --distributed stands on a line that torchrun did not start."""
    from segflow.training.fabric import launched

    if distributed and not launched():
        raise UsageError(
            "--distributed is for processes that torchrun starts: python -m torch.distributed.run "
            "--nproc_per_node=N -m segflow train --distributed ...; without it all visible GPUs are used"
        )
