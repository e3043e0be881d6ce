"""The best of many networks: checkpoints and model files, scored on the same volumes one after another."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.errors import ModelError, SegflowError, UsageError
from segflow.inference.header import warn_of_voxel_size
from segflow.inference.models import pick_device
from segflow.segmentation.curves import best
from segflow.training import checkpoint as files
from segflow.training.config import from_dict
from segflow.training.data import layout_of
from segflow.training.export import export
from segflow.training.modelfile import load_model
from segflow.training.networks import build
from segflow.training.sources import find_volumes, voxel_size_of
from segflow.training.validation import Answers, nearest_channels, predicted, scored, whole
from segflow.volumes.files import natural, replacing

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from segflow.training.schema import Config

log = logging.getLogger("segflow")

PATTERNS = ("checkpoint_*.pt", "model*.pt")
KEYS = {"voi": "voi", "are": "adapted_rand_error"}
MEANS = ("voi_split", "voi_merge", "voi", "adapted_rand_error")

Pair = tuple[Chunk, "NDArray[Any]"]


@dataclass
class Candidate:
    """A network that answers with affinities: ``channels`` are those of the x, y and z neighbours."""

    path: str
    net: nn.Module
    channels: list[int]
    patch_size: list[int]
    voxel_size: Sequence[float] | None
    iteration: int | None
    config: Config | None
    header: bool  # whether it is a model file already
    grey_levels: Any = None


def find_candidates(paths: Sequence[str]) -> list[str]:
    """Give the files that are meant: files, ``checkpoint_*.pt`` and ``model*.pt`` of folders, and globs.

    Raises:
        UsageError: a file is not there, or a folder or pattern holds none.
    """
    found: list[str] = []
    for path in paths:
        place = Path(path).expanduser()
        if place.is_dir():
            more = [str(p) for pattern in PATTERNS for p in place.glob(pattern)]
        elif has_magic(path) and not place.is_file():
            more = [p for p in glob(str(place)) if Path(p).is_file()]
        else:
            more = [str(place)] if place.is_file() else []
        if not more:
            what = f"holds no {' or '.join(PATTERNS)}" if place.is_dir() else "is no file"
            raise UsageError(
                f"--checkpoints {path} {what}; give files, a folder of segflow train, or a pattern"
            )
        found += sorted(more, key=natural)
    return list(dict.fromkeys(found))


def load_candidate(path: str) -> Candidate:
    """Read a checkpoint of segflow train, its averaged weights where there are some, or a model file.

    Raises:
        ModelError: it is broken, holds no configuration, or no affinities of the nearest neighbours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has one for TorchScript
        content = files.load(path)
    if "header" in content and "weights" in content:
        return _of_model_file(path)
    if not isinstance(content.get("config"), dict):
        raise ModelError(f"{path} is neither a checkpoint of segflow train nor a model file")
    config = from_dict(content["config"], path)
    layout = layout_of(config)
    net = build(config.model, sum(count for _, count in layout))
    files.load_exactly(net, files.weights_of(content, path), path, "the file is damaged; leave it out")
    return Candidate(
        path, net.eval(), _nearest(path, nearest_channels(config, layout)), config.model.patch_size,
        config.data.voxel_size, int(content.get("iteration", 0)), config, False, content.get("grey_levels"),
    )  # fmt: skip


def _of_model_file(path: str) -> Candidate:
    exported, header = load_model(path)
    offsets = [tuple(o) for o in header["offsets"] or ()][: header["outputs"]]
    channels = [offsets.index(o) for o in DEFAULT_OFFSETS] if set(DEFAULT_OFFSETS) <= set(offsets) else None
    record = header["record"]
    config = from_dict(record["config"], path) if isinstance(record.get("config"), dict) else None
    if header["architecture"].get("channels_in", 1) != 1:
        raise ModelError(f"{path} takes images of several channels")
    return Candidate(path, exported.net, _nearest(path, channels), header["patch_size"],
                     header["voxel_size"], record.get("iterations"), config, True)  # fmt: skip


def _nearest(path: str, channels: list[int] | None) -> list[int]:
    if channels is None:
        raise ModelError(f"{path} gives no affinities of the nearest x, y and z neighbours")
    return channels


def stored_volumes(candidate: Candidate) -> list[Pair]:
    """Read the validation volumes that a candidate's configuration names.

    Raises:
        UsageError: it names none. VolumeError: one cannot be read.
    """
    config = candidate.config
    volumes = find_volumes(config, validation=True) if config else []
    if config is None or not volumes:
        raise UsageError(
            f"{candidate.path} names no validation volumes (data.val_images); "
            "give image and labels of the chain: -i IMAGE -g LABELS"
        )
    size = voxel_size_of(config, volumes)
    return [(image.with_array(image.array, voxel_size=size), truth) for image, truth in map(whole, volumes)]


def score(
    candidate: Candidate, pairs: Sequence[Pair], thresholds: Sequence[Fraction], device: torch.device
) -> list[dict[str, float]]:
    """Give the scores at each threshold (MEANS and ``threshold``); volumes count by their voxels."""
    net = candidate.net.to(device)
    answers = Answers(net, candidate.channels, device, nullcontext, DEFAULT_OFFSETS)
    tables = []
    for image, truth in pairs:
        warn_of_voxel_size(image.voxel_size, candidate.voxel_size)
        tables.append(scored(predicted(image, answers, candidate.patch_size), truth, thresholds))
    sizes = [truth.size for _, truth in pairs]

    def mean(at: int, key: str) -> float:
        return sum(n * table[at][key] for n, table in zip(sizes, tables)) / sum(sizes)

    return [
        {"threshold": float(t), **{key: mean(at, key) for key in MEANS}} for at, t in enumerate(thresholds)
    ]


def select(
    paths: Sequence[str],
    pairs: Sequence[Pair] | None,
    thresholds: Sequence[Fraction],
    *,
    by: str = "voi",
    device: str | None = None,
    tell: Callable[[str], object] = log.info,
) -> list[dict[str, Any]]:
    """Score networks one after another on the same volumes; one is in memory at a time.

    Args:
        paths: checkpoints and model files.
        pairs: images and labels (zyx); None: the validation volumes that the first good file names.
        thresholds: of agglomeration, rising.
        by: voi (bits, split + merge) or are (adapted Rand error).
        device: of torch; by default CUDA where there is one.
        tell: is called with a line for each network.

    Returns:
        The best first: ``file``, ``iteration`` (None if unknown), the scores at its best threshold, and
        ``thresholds``, the scores at all. Files that cannot be scored are named in a warning.

    Raises:
        ModelError: none can be scored. UsageError: no volumes are named.
    """
    place = pick_device(device)
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    for path in paths:
        try:
            candidate = load_candidate(path)
        except SegflowError as error:
            faults.append(_fault(path, error))
            continue
        pairs = pairs or stored_volumes(candidate)
        try:
            rows = score(candidate, pairs, thresholds, place)
        except SegflowError as error:
            faults.append(_fault(path, error))
            continue
        least = best(rows, KEYS[by])
        found.append({"file": path, "iteration": candidate.iteration, **least, "thresholds": rows})
        tell(f"{path}: VOI {least['voi']:.4f}, adapted Rand error {least['adapted_rand_error']:.4f}")
        del candidate
    if not found:
        raise ModelError(f"none of {len(faults)} files can be scored; the first: {faults[0]}")
    return sorted(found, key=lambda row: row[KEYS[by]])


def _fault(path: str, error: SegflowError) -> str:
    text = str(error) if str(error).startswith(path) else f"{path}: {error}"
    log.warning("left out: %s", text)
    return text


def write_best(row: dict[str, Any], out: str | Path) -> None:
    """Write the network of a row of ``select`` as a model file; of a model file, the same bytes.

    Raises:
        ModelError: the file has changed meanwhile. VolumeError: the place cannot be written.
    """
    candidate = load_candidate(row["file"])
    config = candidate.config
    if candidate.header or config is None:
        with replacing(out) as beside:
            beside.write_bytes(Path(row["file"]).read_bytes())
        return
    chosen = {key: value for key, value in row.items() if key not in ("thresholds", "file")}
    selected = chosen | {"file": Path(row["file"]).name}
    export(out, candidate.net, config, candidate.iteration, candidate.grey_levels, selected=selected)
