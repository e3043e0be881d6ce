"""Networks of MONAI (https://monai.io) by name: ``monai:UNet``, ``monai:BasicUNet``, ``monai:DynUNet``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segflow.errors import UsageError, did_you_mean
from segflow.training.networks.parts import Grey, check_levels, one_of, pad_to, product, strides

PREFIX = "monai:"
MULTIPLE = 32  # what sizes are padded to, unless it is known or given
NORMS = {"bn": "BATCH", "gn": ("GROUP", {"num_groups": 8}), "in": "INSTANCE"}
ACTIVATIONS = {"relu": "RELU", "leaky_relu": ("LEAKYRELU", {"negative_slope": 0.2}), "elu": "ELU",
               "gelu": "GELU", "silu": "SWISH"}  # fmt: skip


class Monai(nn.Module):
    """A network of MONAI behind the normalisation of grey levels, for any input size.

    Args:
        name: its class in monai.networks.nets, without the prefix.
        widths, isotropic, norm, act: handed on where the class has such arguments (channels and
            strides of UNet, features of BasicUNet, norm, act).
        options: ``mean``, ``std``: of the grey levels; ``multiple`` (zyx): sizes are padded to it
            inside; all else goes to the class.

    Raises:
        UsageError: MONAI is not installed, has no such network, or refuses the options.
    """

    def __init__(
        self,
        name: str,
        channels_in: int,
        channels_out: int,
        *,
        widths: Sequence[int],
        isotropic: Sequence[bool],
        norm: str = "bn",
        act: str = "relu",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_levels(widths, isotropic=isotropic)
        one_of("model.norm", norm, list(NORMS))
        one_of("model.act", act, list(ACTIVATIONS))
        given = dict(options or {})
        self.grey = Grey(given.pop("mean", 0.5), given.pop("std", 0.2))
        multiple = given.pop("multiple", None)
        kind = find(name)
        into = strides(isotropic)
        known: dict[str, Any] = {
            "spatial_dims": 3, "in_channels": channels_in, "out_channels": channels_out,
            "channels": list(widths), "strides": into[1:],
            "features": [*widths, widths[0]] if len(widths) == 5 else None,
            "norm": NORMS.get(norm), "act": ACTIVATIONS.get(act),
        }  # fmt: skip
        takes = inspect.signature(kind).parameters
        self.net = make(kind, {k: v for k, v in known.items() if k in takes and v is not None}, given)
        whole = product(into) if "strides" in takes and "strides" not in given else (MULTIPLE,) * 3
        self.multiple = tuple(multiple or whole)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits; of several answers (deep supervision) the finest."""
        z, y, x_size = x.shape[2:]
        answer = self.net(pad_to(self.grey(x), self.multiple))
        if isinstance(answer, (list, tuple)):
            answer = answer[0]
        if isinstance(answer, Tensor) and answer.ndim == 6:
            answer = torch.unbind(answer, 1)[0]
        return answer[..., :z, :y, :x_size]


def make(kind: type[nn.Module], known: dict[str, Any], given: dict[str, Any]) -> nn.Module:
    """Make a network of the class ``kind``; what is ``given`` overrules what is ``known``.

    Raises:
        UsageError: the class has no such argument, or refuses its value.
    """
    takes = inspect.signature(kind).parameters
    for key in given:
        if key not in takes:
            hint = did_you_mean(key, list(takes))
            raise UsageError(
                f"model.options: monai:{kind.__name__} has no '{key}'{hint}; it has {', '.join(takes)}"
            )
    try:
        return kind(**known | given)
    except Exception as error:  # what a class of another library raises over its arguments
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"model: monai:{kind.__name__} cannot be made: {line}") from error


def find(name: str) -> type[nn.Module]:
    """Give the class ``name`` of monai.networks.nets.

    Raises:
        UsageError: MONAI is not installed, or has no such network.
    """
    try:
        from monai.networks import nets
    except ImportError:
        raise UsageError(
            f"model.name monai:{name} needs MONAI, which is not installed; pip install 'segflow[train]'"
        ) from None
    known = [n for n, v in vars(nets).items() if inspect.isclass(v) and issubclass(v, nn.Module)]
    if name not in known:
        raise UsageError(f"model.name: MONAI has no network '{name}'{did_you_mean(name, known)}")
    return getattr(nets, name)
