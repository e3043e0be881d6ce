"""Networks by name: sizes, gradients, what each voxel sees, parameter counts, refusals."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segflow.errors import UsageError
from segflow.inference.models import fold_norms
from segflow.training.networks import build, build_from, describe
from segflow.training.networks.parts import NORMS, pad_to

PYTC = [False, False, False, True, True]


def small(name="rsunet", **changes):
    given = {"name": name, "channels_out": 3, "widths": [4, 8, 8], "isotropic": [False, False, True]}
    return {**given, "norm": "bn", "act": "relu", **changes}


def made(name="rsunet", **changes):
    torch.manual_seed(0)
    return build_from(small(name, **changes)).eval()


@pytest.mark.parametrize(
    ("block", "widths", "count"),
    [
        ("residual", [32, 64, 96, 128, 160], 3_500_931),
        ("residual_se", [32, 64, 96, 128, 160], 3_544_451),
        ("residual", [28, 36, 48, 64, 80], 924_603),
    ],
)
def test_unet_3d_has_as_many_parameters_as_pytc(block, widths, count):
    with torch.device("meta"):
        net = build_from(
            small("unet_3d", widths=widths, isotropic=PYTC, norm="gn", act="elu", options={"block": block})
        )
    assert sum(p.numel() for p in net.parameters()) == count


def test_unet_3d_has_the_names_and_shapes_of_pytc():
    """The names are those in a checkpoint_*.pth.tar of PyTC 1.x, written out by hand."""
    net = made(
        "unet_3d", widths=[8, 16], isotropic=[False, True], norm="gn", options={"block": "residual_se"}
    )
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    wanted = {
        "conv_in.0.weight": (8, 1, 1, 5, 5),
        "conv_in.1.weight": (8,),
        "conv_in.1.bias": (8,),
        "conv_out.0.weight": (3, 8, 1, 5, 5),
        "conv_out.0.bias": (3,),
        "down_layers.0.1.0.weight": (8, 8, 1, 3, 3),
        "down_layers.0.2.conv.0.0.0.weight": (8, 8, 1, 3, 3),
        "down_layers.0.2.conv.0.1.1.bias": (8,),
        "down_layers.0.2.conv.1.fc.0.weight": (2, 8),
        "down_layers.0.2.conv.1.fc.2.weight": (8, 2),
        "down_layers.1.1.0.weight": (16, 8, 3, 3, 3),
        "up_layers.0.0.0.weight": (8, 16, 3, 3, 3),
        "up_layers.0.1.conv.0.0.0.weight": (8, 8, 1, 3, 3),
    }
    assert {k: shapes.get(k) for k in wanted} == wanted
    assert len(shapes) == 5 + 2 * 3 + 3 + 3 * (2 * 3 + 2)


@pytest.mark.parametrize("size", [(8, 32, 32), (5, 33, 31), (1, 17, 18)])
@pytest.mark.parametrize("name", ["rsunet", "unet_3d", "monai:UNet"])
def test_the_answer_has_the_size_of_the_image(name, size):
    if name.startswith("monai"):
        pytest.importorskip("monai")
    with torch.inference_mode():
        answer = made(name)(torch.rand(2, 1, *size))
    assert answer.shape == (2, 3, *size)
    assert answer.dtype == torch.float32
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"block": "light", "thin_top": True, "bottom": 2, "stem": [1, 3, 3], "head": [1, 5, 5]}],
)
@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_reaches_every_parameter_of_rsunet(norm, options):
    net = made(norm=norm, act="elu", options=options).train()
    net(torch.rand(2, 1, 4, 16, 16)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("block", ["residual", "residual_pa", "residual_se", "residual_se_pa"])
@pytest.mark.parametrize("norm", ["gn", "none"])
def test_the_gradient_reaches_every_parameter_of_unet_3d(norm, block):
    net = made("unet_3d", norm=norm, act="elu", options={"block": block}).train()
    net(torch.rand(2, 1, 5, 17, 17)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def seen(net, size=(17, 65, 65)):
    """Give how many planes, rows and columns of the image the middle voxel of the answer depends on."""
    image = torch.rand(1, 1, *size, requires_grad=True)
    net(image)[0, :, size[0] // 2, size[1] // 2, size[2] // 2].sum().backward()
    touched = image.grad[0, 0].abs() > 0
    return tuple(int(touched.any(dim=[d for d in range(3) if d != axis]).sum()) for axis in range(3))


def test_isotropy_of_each_level_shows_in_what_a_voxel_sees():
    flat = seen(made(widths=[4, 4], isotropic=[False, False], act="elu"))
    assert flat[0] == 1
    assert flat[1] == flat[2] > 5
    top = seen(made(widths=[4, 4], isotropic=[True, False], act="elu"))
    # two blocks of three convolutions 3 3 3 at full resolution: six planes to each side
    assert top[0] == 13
    assert top[1:] == flat[1:]
    deep = seen(made(widths=[4, 4], isotropic=[False, True], act="elu"))
    assert deep[0] >= 12  # three at half resolution: 2 * (2 * 3 + 1), cut by the middle's place
    assert deep[1:] == flat[1:]
    kernels = seen(made(widths=[4, 4], isotropic=[False, False], kernels=[[1, 3, 3], [3, 3, 3]], act="elu"))
    assert kernels[0] == 7  # three convolutions 3 3 3 that are reached by stride 1 2 2
    light = seen(made(widths=[4], isotropic=[True], act="elu", options={"block": "light"}))
    assert light == (3, 9, 9)  # stem 1 5 5, then 1 3 3, then 3 3 3


@pytest.mark.parametrize("name", ["rsunet", "unet_3d"])
def test_strides_of_each_level(name):
    net = made(name)
    first = [m.stride for m in net.modules() if isinstance(m, nn.Conv3d) and set(m.stride) != {1}]
    assert first == [(1, 2, 2), (2, 2, 2)]


def test_norms_of_rsunet_fold_into_its_convolutions():
    net = made(options={"thin_top": True})
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    folded = fold_norms(net, torch.rand(1, 1, 4, 16, 16))
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm3d)]
    image = torch.rand(1, 1, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), net(image), rtol=1e-3, atol=1e-4)


def test_the_last_sum_is_float32_under_autocast():
    for name in ("rsunet", "unet_3d"):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert made(name)(torch.rand(1, 1, 4, 16, 16)).dtype == torch.float32


def test_grey_levels_are_normalised_inside():
    net = made("unet_3d", norm="none", options={"mean": 0.25, "std": 0.125})
    plain = made("unet_3d", norm="none", options={"mean": 0.0, "std": 1.0})
    image = torch.rand(1, 1, 4, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(net(image), plain((image - 0.25) / 0.125))


def test_padding_repeats_the_last_planes():
    image = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    padded = pad_to(image, (1, 2, 4))
    np.testing.assert_array_equal(padded[0, 0, 0], [[0, 1, 2, 2], [3, 4, 5, 5]])
    assert pad_to(image, (1, 2, 3)) is image


def test_a_configuration_builds_what_its_description_builds():
    model = SimpleNamespace(
        name="rsunet", widths=[4, 8], isotropic=[False, True], kernels=[], norm="gn", act="silu",
        patch_size=[8, 32, 32], options={"stem": (1, 3, 3)},
    )  # fmt: skip
    described = describe(model, 5)
    assert described["channels_out"] == 5
    assert described["options"] == {"stem": [1, 3, 3]}
    net, again = build(model, 5), build_from(described)
    again.load_state_dict(net.state_dict())
    image = torch.rand(1, 1, 4, 16, 16)
    assert torch.equal(net(image), again(image))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "rsunett"}, "did you mean 'rsunet'"),
        ({"norm": "bnn"}, "did you mean 'bn'"),
        ({"act": "rellu"}, "did you mean 'relu'"),
        ({"isotropic": [True]}, "model.isotropic has 1 entries"),
        ({"widths": []}, "model.widths is empty"),
        ({"widths": [4, 0, 8]}, "model.widths"),
        ({"kernels": [[1, 3, 3], [1, 2, 3], [3, 3, 3]]}, "odd"),
        ({"options": {"blok": "light"}}, "did you mean 'block'"),
        ({"options": {"block": "lihgt"}}, "did you mean 'light'"),
        ({"name": "unet_3d", "kernels": [[3, 3, 3]] * 3}, "model.kernels does not go with"),
        ({"name": "unet_3d", "options": {"pad_mode": "edge"}}, "pad_mode"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(changes, text):
    with pytest.raises(UsageError) as raised:
        made(**{"name": "rsunet"} | changes)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_networks_of_monai():
    pytest.importorskip("monai")
    net = made("monai:UNet", norm="in", act="leaky_relu", options={"num_res_units": 1}).train()
    net(torch.rand(2, 1, 4, 16, 16)).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(UsageError, match="MONAI has no network 'UNeet'"):
        made("monai:UNeet")
    with pytest.raises(UsageError, match="has no 'units'"):
        made("monai:UNet", options={"units": 1})
    with pytest.raises(UsageError, match="cannot be made"):
        made("monai:UNet", options={"channels": [4]})


def test_without_monai_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(UsageError, match=r"segflow\[train\]"):
        made("monai:UNet")
