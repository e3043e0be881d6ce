"""mesh-manifest: the list of an object's fragments."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import operator, option, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import can_write, existing
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.state import State

log = logging.getLogger("segflow")


def plan_manifest(plan: Plan, options: dict[str, Any]) -> None:
    """Check the volume and the prefix."""
    _prefix(options["prefix"], options["digits"], options["disbatch"])
    existing(plan, options["volume"])
    can_write(options["volume"])


def _prefix(prefix: str | None, digits: int, disbatch: bool) -> str:
    if prefix is not None and not (prefix.isascii() and prefix.isdigit()):
        raise UsageError(f"--prefix is '{prefix}'; give the first digits of ids, as 7 or 07")
    if not disbatch:
        return prefix or ""
    index = os.environ.get("DISBATCH_REPEAT_INDEX", "")
    if prefix is not None or not index.isdigit() or len(index) > digits:
        raise UsageError(
            f"--disbatch takes the prefix, of at most {digits} digits, from $DISBATCH_REPEAT_INDEX, "
            f"which is '{index}'; --prefix is not given with it"
        )
    return index if len(index) == digits else f"{index}:"


@operator("Tasks", uses="io", plan=plan_manifest, example="segflow mesh-manifest -v file://seg --prefix 7")
@volume_option("Volume that `mesh` wrote fragments into.")
@option("-p", "--prefix", default=None, metavar="DIGITS",
        help="Only ids that begin with these digits (7: 7, 70, 712, ...); default: all.")  # fmt: skip
@option("--digits", aliases=("-d",), type=click.IntRange(1), default=1,
        help="Digits of the prefixes of --disbatch; tasks 0 to 10^digits - 1 are all ids.")  # fmt: skip
@option("--disbatch/--no-disbatch", default=False, help="Take the prefix from $DISBATCH_REPEAT_INDEX.")
def mesh_manifest(
    *,
    volume: str,
    prefix: str | None = None,
    digits: int = 1,
    disbatch: bool = False,
    state: State | None = None,
) -> None:
    """List the fragments of every object, so that viewers show them; run it when all are meshed."""
    from segflow.errors import VolumeError
    from segflow.meshing.fragments import write_manifests
    from segflow.volumes import open_volume

    target: Any = open_volume(volume)
    folder = target.raw.get("mesh")
    if not folder:
        raise VolumeError(f"{target.path} has no meshes yet; make them with: segflow ... mesh -o {volume}")
    digit = _prefix(prefix, digits, disbatch)
    count = write_manifests(target.store, folder, digit)
    if not count and not digit:
        raise VolumeError(f"{target.path}/{folder} holds no fragments; run mesh first")
    log.info("%s/%s: %d manifests", target.path, folder, count)
    if not count:
        log.warning("no fragments of ids that begin with %s in %s/%s", digit, target.path, folder)
    elif state is not None:
        state.run.wrote(f"{target.path}/{folder}")
