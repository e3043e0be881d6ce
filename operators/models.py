"""models: the networks that are shipped."""

from __future__ import annotations

import click

from segflow.cli.operator import job, option


@job(example="segflow models affinity-snemi3d")
@click.argument("name", metavar="[NAME|FILE]", required=False)
@option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@option("--onnx", metavar="FILE.onnx", default=None, show_default=False,
        help="Write the model file NAME as ONNX.")  # fmt: skip
@option("--torch-export", metavar="FILE.pt2", default=None, show_default=False,
        help="Write the model file NAME as a program of torch.export.")  # fmt: skip
@option("--bioimageio", metavar="FILE.zip", default=None, show_default=False,
        help="Write the model file NAME as a bioimage.io package, and test it.")  # fmt: skip
@option("--sample", metavar="IMAGE", default=None, show_default=False,
        help="With --bioimageio: its middle becomes the test image; default: smooth noise.")  # fmt: skip
@option("--author", "authors", metavar="NAME", multiple=True, show_default=False,
        help="With --bioimageio: who made the network; may be given again.")  # fmt: skip
def models(
    name: str | None = None,
    *,
    as_json: bool = False,
    onnx: str | None = None,
    torch_export: str | None = None,
    bioimageio: str | None = None,
    sample: str | None = None,
    authors: tuple[str, ...] = (),
) -> None:
    """List the networks that are shipped, for inference --model.

    With NAME, one of them, or the model.pt of a training, tell all that is known of it.
    """
    import json

    from segflow.errors import UsageError
    from segflow.inference import catalogue
    from segflow.inference.models import shipped_names

    if (sample or authors) and not bioimageio:
        raise UsageError("--sample and --author belong to --bioimageio FILE.zip")
    if name is None:
        if onnx or torch_export or bioimageio:
            raise UsageError("--onnx, --torch-export and --bioimageio need the NAME or FILE of a network")
        every = {known: catalogue.about(known) for known in shipped_names()}
        lines = [catalogue.line(known, found) for known, found in every.items()]
        click.echo(json.dumps(every, indent=1) if as_json else "\n".join(lines))
        return
    found = catalogue.about(name)
    if onnx or torch_export or bioimageio:
        export(found["file"], onnx, torch_export)
        for file in filter(None, (onnx, torch_export)):
            click.echo(f"wrote {file}", err=True)
    if bioimageio:
        from segflow.training.package import export_bioimageio

        formats = export_bioimageio(found["file"], bioimageio, sample=sample, authors=authors)
        click.echo(f"wrote {bioimageio} with {formats}; it passes the test of bioimageio.core", err=True)
    if as_json or not (onnx or torch_export or bioimageio):
        click.echo(json.dumps(found, indent=1) if as_json else detail(name, found))


def detail(name: str, found: dict[str, object]) -> str:
    """Give what is known of a network, a line for each key; the record of its training as YAML."""
    import yaml

    lines = [f"{key}: {value}" for key, value in found.items() if not isinstance(value, dict)]
    nested = {k: v for k, v in found.items() if isinstance(v, dict) and k != "grey_levels"}  # --json has them
    tail = yaml.safe_dump(nested, sort_keys=False).rstrip() if nested else ""
    use = f"--model {name}" if found["file"] != name else f"--convnet-model {name}"
    return "\n".join(filter(None, [*lines, tail, f"use: segflow ... inference {use} ..."]))


def export(path: str, onnx: str | None, torch_export: str | None) -> None:
    """Write a model file in other formats."""
    from segflow.errors import UsageError
    from segflow.inference.header import header_of

    if header_of(path) is None:
        raise UsageError(f"{path} is a Python file; only the model.pt of segflow train can be exported")
    from segflow.training.modelfile import export_onnx, export_torch

    if onnx:
        export_onnx(path, onnx)
    if torch_export:
        export_torch(path, torch_export)
