"""inference: a network over an image."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option, triple
from segflow.cli.parameters import NumbersOrWord, triple_or_word
from segflow.cli.plan import Plan, Spec
from segflow.errors import ChunkError, UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.inference.backends import Backend
    from segflow.inference.patches import Patch
    from segflow.state import State

Triple = tuple[int, int, int]
OVERLAP = (4, 64, 64)
LAYOUT = ("mask_output_chunk", "patch_num", "patch_grid", "pad")


def _files(options: dict[str, Any]) -> tuple[str | None, str | None]:
    """Give the model file and the weights that the options name."""
    model, weights = options["convnet_model"], options["convnet_weight_path"]
    if options["model"] is None:
        return model, weights
    if model is not None:
        raise UsageError("give --model (a shipped network) or --convnet-model (a file), not both")
    from segflow.inference.models import shipped

    return shipped(options["model"]), weights


def _header(options: dict[str, Any]) -> dict[str, Any] | None:
    """Give the header of the model file, if the network is one of ``segflow train``, or ONNX of one."""
    from segflow.errors import ModelError
    from segflow.inference.header import header_of

    try:
        return header_of(_files(options)[0], options["framework"])
    except ModelError:  # said when the network is loaded
        return None


def _patch(options: dict[str, Any], shape: tuple[int, ...] | None = None) -> Patch:
    """Give the patch of the options, else of the model file; for ``auto`` the first that fits ``shape``."""
    from segflow.inference.header import default_patch
    from segflow.inference.patches import AUTO, Patch, fitting

    size, output, overlap = (options[k] for k in ("patch_size", "output_patch_size", "patch_overlap"))
    header = _header(options) if size is None else None
    if size is None:
        size, usual = default_patch(header) if header else (AUTO[0], OVERLAP)
        overlap = overlap or usual
    overlap = overlap or OVERLAP
    if size != "auto":
        return Patch.of(size, output, overlap)
    if output or options["patch_num"] or options["patch_grid"] == "volume":
        raise UsageError("--patch-size auto excludes --output-patch-size, --patch-num, --patch-grid volume")
    if options["framework"] in ("universal", "general"):
        raise UsageError(f"--patch-size auto does not go with --framework {options['framework']}")
    return fitting(shape[-3:] if shape else AUTO[0], overlap)[0]


def plan(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the files and the options, and lay out the patches as far as the chunk is known."""
    from segflow.geometry import Box
    from segflow.inference.backends import check_files
    from segflow.inference.patches import layout

    _check_adapt(options)
    if options["augment_mode"] != "mean" and not options["augment"]:
        mode = options["augment_mode"]
        logging.getLogger("segflow").warning("--augment-mode %s does nothing without --augment", mode)
    model, weights = _files(options)
    if not any(path and plan.made(path) for path in (model, weights)):
        check_files(options["framework"], model, weights)
    spec = plan.spec(options["chunk"])
    given = options["num_input_channels"]
    have = None if spec.shape is None else spec.shape[0] if len(spec.shape) == 4 else 1
    if None not in (given, have) and given != have:
        raise UsageError(f"--num-input-channels is {given}, and the chunk has {have}")
    patch = _patch(options, spec.shape)
    found = Spec(None, options["output_dtype"], None, spec.voxel_size)
    if spec.shape is None or options["patch_grid"] == "volume" or options["adapt"] or options["adapt_levels"]:
        return found
    try:
        box = Box.of(spec.voxel_offset or (0, 0, 0), spec.shape[-3:])
        kept = {key: options[key] for key in LAYOUT}
        output = layout(box, patch, crop_margin=options["output_crop_margin"], **kept).output
    except ChunkError as error:
        raise UsageError(str(error)) from None
    found = found.change(voxel_offset=output.start if spec.voxel_offset else None)
    channels = _channels(options, have)
    if channels is None:
        return found
    header = _header(options)
    known = header["offsets"] is not None if header else channels == 3
    kind = "affinity_map" if known and channels > 1 else "probability_map"
    return found.change(shape=(channels, *output.shape) if channels > 1 else output.shape, layer_type=kind)


def _channels(options: dict[str, Any], have: int | None) -> int | None:
    """Give the number of channels that comes out, as far as it is known without the network."""
    if options["mask_myelin_threshold"] is not None:
        return 3
    if options["num_output_channels"]:
        return int(options["num_output_channels"])
    if options["framework"] == "identity":
        return have
    header = _header(options)
    return int(header["outputs"]) if header else 3 if options["model"] else None


@lru_cache(maxsize=2)
def _load(_stamps: tuple[int, ...], **options: Any) -> Backend:
    from segflow.inference import load_backend

    return load_backend(**options)


def _backend(options: dict[str, Any], patch: Patch, channels: int) -> Backend:
    """Load the network; the same files and options give what is loaded already."""
    from pathlib import Path

    model, weights = _files(options)
    stamps = [Path(f).stat().st_mtime_ns for f in (model, weights) if f and Path(f).is_file()]
    keys = ("framework", "device", "dtype")
    return _load(
        tuple(stamps), model=model, weights=weights, patch=patch, channels=channels,
        output_channels=options["num_output_channels"], **{key: options[key] for key in keys},
    )  # fmt: skip


def _check_fit(backend: Backend, chunk: Chunk) -> None:
    """Warn once for a network whose training had other voxels or grey levels than this image."""
    from segflow.inference.adapt import Training, warn

    if not getattr(backend, "warned", False):
        backend.warned = warn(chunk, Training.of(backend))  # type: ignore[attr-defined]


def _check_adapt(options: dict[str, Any]) -> None:
    """Raise UsageError for what --adapt does not go with."""
    between = options["adapt_levels"]
    if between is not None and not between[0] < between[1]:
        raise UsageError(f"--adapt-levels {between[0]:g} {between[1]:g}: LOW must be less than HIGH")
    if not (options["adapt"] or between):
        return
    if options["framework"] not in ("pytorch", "onnx"):
        raise UsageError(f"--adapt does not go with --framework {options['framework']}")
    if options["patch_grid"] == "volume" and not between:
        raise UsageError(
            "--adapt takes the grey levels of each chunk, so blocks would differ at their joints; with "
            "--patch-grid volume give --adapt-levels LOW HIGH"
        )


def _adapted(
    options: dict[str, Any], backend: Backend, chunk: Chunk
) -> tuple[Chunk, Callable[[Chunk], Chunk]]:
    """Give the image as the network's training was, and what brings an answer back."""
    from segflow.inference.adapt import Training, adapt

    _check_adapt(options)
    found, back = adapt(chunk, Training.of(backend), options["adapt_levels"])
    if found.bbox != chunk.bbox and options["patch_grid"] == "volume":
        raise UsageError(
            "--adapt resamples each chunk by itself, which --patch-grid volume excludes; "
            "resample the volume first, or use --patch-grid chunk"
        )
    return found, back


def prepare(**options: Any) -> Backend | None:
    """Load and check the network before the first chunk is read, unless the chain makes its files."""
    from pathlib import Path

    if not all(Path(file).is_file() for file in _files(options) if file):
        return None
    return _backend(options, _patch(options), options["num_input_channels"] or 1)


@operator(
    "Inference",
    uses="gpu",
    plan=plan,
    prepare=prepare,
    example="segflow read-tif -f image.tif -o image inference --model affinity-snemi3d "
    "--mask-output-chunk -i image -o affs write-h5 -i affs -f affs.h5",
)
@name_in(help="Image: zyx, or czyx for several input channels; integers are divided by their maximum.")
@option("-m", "--convnet-model", default=None, metavar="FILE", show_default=False,
        help="The network: model.pt of segflow train, a Python file, TorchScript, or ONNX with -f onnx.",
        )  # fmt: skip
@option("-w", "--convnet-weight-path", default=None, metavar="FILE", show_default=False,
        help="Weights of a Python file's network: a state_dict, saved by torch.save, or a model.pt.",
        )  # fmt: skip
@option("--model", default=None, metavar="NAME", show_default=False,
        help="Shipped network, instead of --convnet-model: affinity-snemi3d.")  # fmt: skip
@triple_or_word("-s", "--patch-size", word="auto", aliases=["--input-patch-size"], default=None,
                show_default=False,
                help="Input patch, voxels; auto times two; default: that of a model.pt, else 20 256 256.",
                )  # fmt: skip
@triple("-z", "--output-patch-size", default=None, show_default=False,
        help="Output patch, voxels; default: the input patch.")  # fmt: skip
@triple("-v", "--patch-overlap", aliases=["--output-patch-overlap"], default=None,
        show_default=False, help="Overlap of output patches, voxels; default: 4 64 64, or a quarter of the "
        "patch that a model.pt names.")  # fmt: skip
@triple("--output-crop-margin", default=None, show_default=False,
        help="Border to cut off, voxels; default: the overlap; none with --mask-output-chunk.")  # fmt: skip
@triple("-n", "--patch-num", default=None, show_default=False,
        help="Number of patches, checked against the chunk.")  # fmt: skip
@option("--num-input-channels", type=click.IntRange(1), default=None, show_default=False,
        help="Channels of the image; default: what it has.")  # fmt: skip
@option("-c", "--num-output-channels", type=click.IntRange(1), default=None, show_default=False,
        help="Channels to keep; default: all that the network gives.")  # fmt: skip
@option("-d", "--dtype", type=click.Choice(["float32", "bfloat16", "float16", "auto"]), default="auto",
        help="What it computes with; auto: bfloat16 where that is fast and the answer stays.")  # fmt: skip
@option("-f", "--framework", type=click.Choice(["pytorch", "onnx", "universal", "general", "identity"]),
        default="pytorch", help="What runs the network.")  # fmt: skip
@option("-b", "--batch-size", type=NumbersOrWord(1, "auto"), default=1,
        help="Patches at once; auto halves it when memory runs out.")  # fmt: skip
@option("--bump", type=click.Choice(["wu", "gaussian", "flat"]), default="wu",
        help="Weights of a patch's voxels where patches overlap.")  # fmt: skip
@option("--mask-output-chunk/--no-mask-output-chunk", default=False,
        help="Keep the chunk's border, where fewer patches meet.")  # fmt: skip
@option("-y", "--mask-myelin-threshold", type=float, default=None, show_default=False,
        help="Set the first three channels to 0 where the fourth is below this, and drop it.")  # fmt: skip
@option("--augment/--no-augment", default=False,
        help="Combine answers for 16 poses of each patch (flips, y and x exchanged).")  # fmt: skip
@option("--augment-mode", type=click.Choice(["mean", "min", "max"]), default="mean",
        help="How --augment combines them.")  # fmt: skip
@option("--device", default=None, metavar="DEVICE", show_default=False,
        help="cpu, cuda or cuda:N; default: CUDA where there is one.")  # fmt: skip
@option("--output-dtype", type=click.Choice(["float32", "uint8"]), default="float32",
        help="uint8 stores round(255 a).")  # fmt: skip
@option("--patch-grid", type=click.Choice(["chunk", "volume"]), default="chunk",
        help="Where patches are counted from; with volume a block gives what the whole gives.")  # fmt: skip
@option("--pad", type=click.Choice(["reflect"]), default=None, show_default=False,
        help="Let the chunk be smaller than a patch: it is mirrored.")  # fmt: skip
@option("--adapt/--no-adapt", default=False,
        help="Map the grey levels, and resample to the voxel size, of the network's training.")  # fmt: skip
@option("--adapt-levels", nargs=2, type=float, default=None, metavar="LOW HIGH", show_default=False,
        help="--adapt, by two grey levels of the image (its 3 and 97 %), alike for all chunks.")  # fmt: skip
@name_out(help="Map to write: zyx for one channel, else czyx.")
def inference(
    chunk: Chunk,
    *,
    convnet_model: str | None = None,
    convnet_weight_path: str | None = None,
    model: str | None = None,
    patch_size: Triple | str | None = None,
    output_patch_size: Triple | None = None,
    patch_overlap: Triple | None = None,
    output_crop_margin: Triple | None = None,
    patch_num: Triple | None = None,
    num_input_channels: int | None = None,
    num_output_channels: int | None = None,
    dtype: str = "float32",
    framework: str = "pytorch",
    batch_size: int | str = 1,
    bump: str = "wu",
    mask_output_chunk: bool = False,
    mask_myelin_threshold: float | None = None,
    augment: bool = False,
    augment_mode: str = "mean",
    device: str | None = None,
    output_dtype: str = "float32",
    patch_grid: str = "chunk",
    pad: str | None = None,
    adapt: bool = False,
    adapt_levels: tuple[float, float] | None = None,
    state: State | None = None,
) -> Chunk:
    """Run a network over an image in overlapping patches and blend its answers.

    The chunk may have any size from one patch on. All-zero patches are not computed. A model file
    defines InstantiatedModel and, if it likes, pre_process, post_process, load_model and OFFSETS: those
    of its affinities (z, y, x), by which --augment brings them back; () says that it gives none. Three
    channels without it are taken for affinities in x, y, z.
    """
    options = dict(locals())
    from segflow.inference import best_patch, infer

    if num_input_channels not in (None, chunk.channels):
        raise ChunkError(f"--num-input-channels is {num_input_channels}, and the chunk has {chunk.channels}")
    patch = _patch(options, chunk.shape)
    backend = _backend(options, patch, chunk.channels)
    back = None
    if adapt or adapt_levels:
        chunk, back = _adapted(options, backend, chunk)
        if patch_size == "auto":
            patch = _patch(options, chunk.shape)
            backend = _backend(options, patch, chunk.channels)
    else:
        _check_fit(backend, chunk)
    placed = {key: options[key] for key in LAYOUT} | {"crop_margin": output_crop_margin}
    if patch_size == "auto":
        patch = best_patch(chunk, backend, patch_overlap or OVERLAP, **placed)
    if state is not None:
        state.run.device = backend.device
        if backend.files:
            state.run.facts.setdefault("weights", {}).update(backend.files)
    answer = infer(
        chunk, backend, patch=patch, bump=bump, batch_size=batch_size, channels=num_output_channels,
        myelin_threshold=mask_myelin_threshold, output_dtype=output_dtype,
        augment=augment_mode if augment else None, **placed,
    )  # fmt: skip
    return back(answer) if back else answer
