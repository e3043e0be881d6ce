"""check-model: a network on one patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option, triple
from segflow.cli.plan import Plan
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.inference.patches import Patch

Triple = tuple[int, int, int]


def _file(model: str) -> str:
    """Give the file of a network, or of a shipped network's name."""
    from pathlib import Path

    from segflow.errors import did_you_mean
    from segflow.inference.models import shipped, shipped_names

    if Path(model).is_file():
        return model
    if model in shipped_names():
        return shipped(model)
    near = did_you_mean(model, shipped_names())
    raise UsageError(
        f"--model {model} is no file and no shipped network{near}; shipped are: {', '.join(shipped_names())}"
    )


def _framework(model: str) -> str:
    return "onnx" if model.lower().endswith(".onnx") else "pytorch"


def plan(plan: Plan, options: dict[str, Any]) -> tuple[()]:
    """Check the files."""
    if not plan.made(options["model"]):
        from segflow.inference.backends import check_files

        file = _file(options["model"])
        check_files(_framework(file), file, options["weights"])
    return ()


def _patch(path: str, size: Triple | None) -> Patch:
    """Give the patch: as told, else the model file's, else 20 256 256."""
    from segflow.inference.header import default_patch, header_of
    from segflow.inference.patches import AUTO, Patch

    header = header_of(path, _framework(path)) if size is None else None
    size = size or (default_patch(header)[0] if header else AUTO[0])
    return Patch.of(size, overlap=(0, 0, 0))


@operator("Inference", uses="gpu", plan=plan,
          example="segflow read-tif -f image.tif -o image check-model -m model.pt -i image")  # fmt: skip
@option("-m", "--model", "--convnet-model", required=True, metavar="FILE|NAME",
        help="model.pt, a .onnx or Python file, or the name of a shipped network.")  # fmt: skip
@option("-w", "--weights", aliases=["--convnet-weight-path"], default=None, metavar="FILE",
        show_default=False, help="Weights of a Python file's network.")  # fmt: skip
@name_in(default=None, help="Image to take the patch from; default: a bundled one (30 6 6 nm, SNEMI3D).")
@triple("-s", "--patch-size", default=None, show_default=False, type=click.IntRange(1),
        help="Patch, voxels; default: that of the model file, else 20 256 256.")  # fmt: skip
@option("--device", default=None, metavar="DEVICE", show_default=False,
        help="cpu, cuda or cuda:N; default: CUDA where there is one.")  # fmt: skip
@option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@name_out(default="checked", help="Name for what was found, a dict.")
def check_model(
    *,
    model: str,
    weights: str | None = None,
    chunk: Chunk | None = None,
    patch_size: Triple | None = None,
    device: str | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Run a network on one patch: device, speed, memory, range, bfloat16, and whether the image fits.

    Ends with 1 if the network is broken: NaN, infinite values, or one value everywhere.
    """
    import json

    from segflow.inference import check, load_backend

    file = _file(model)
    patch = _patch(file, patch_size)
    channels = chunk.channels if chunk is not None else 1
    backend = load_backend(
        _framework(file), file, weights, patch=patch, channels=channels, device=device, dtype="float32"
    )
    image = chunk if chunk is not None else check.bundled(patch.size)
    found = check.check(backend, image, patch, path=model)
    click.echo(json.dumps(found, indent=1) if as_json else check.text(found))
    return found
