"""Losses of training: their formulas by hand, their masks, their messages."""

from __future__ import annotations

import json
from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.errors import ChunkError, UsageError
from segflow.training.losses import class_weights, make_loss

NAMES = ["bce", "dice", "focal", "mse"]


def volume(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 1, -1)


def sigmoid(x):
    return 1 / (1 + exp(-x))


def value(term, logits, target, known=None):
    known = torch.ones_like(target) if known is None else known
    loss = make_loss([[term]], [("affinity", target.shape[1])])
    total, parts = loss(logits, target, known)
    assert parts[f"affinity/{term['name']}"] * term.get("weight", 1) == pytest.approx(float(total), rel=1e-6)
    return float(total)


def test_bce_is_divided_by_the_count():
    logits, target = volume(0, 2, -1), volume(1, 1, 0)
    expected = (log(2) - log(sigmoid(2)) - log(1 - sigmoid(-1))) / 3
    assert value({"name": "bce"}, logits, target) == pytest.approx(expected)
    assert value({"name": "bce", "weight": 0.5}, logits, target) == pytest.approx(expected / 2)
    balanced = (log(2) - log(sigmoid(2)) - 2 * log(1 - sigmoid(-1))) / 3
    assert value({"name": "bce", "balance": True}, logits, target) == pytest.approx(balanced)


def test_dice_is_smoothed_by_100_and_of_each_sample():
    logits = torch.tensor([[0.0, 1.0], [2.0, -3.0]]).reshape(2, 1, 1, 1, 2)
    target = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 1, 1, 1, 2)
    one = 1 - (2 * 0.5 + 100) / (0.5 + sigmoid(1) + 1 + 100)
    both = sigmoid(2) + sigmoid(-3)
    two = 1 - (2 * both + 100) / (both + 2 + 100)
    assert value({"name": "dice"}, logits, target) == pytest.approx((one + two) / 2, abs=1e-6)


def test_focal_has_the_alpha_of_the_paper():
    p = sigmoid(1)
    for truth, expected in ((1, 0.25 * (1 - p) ** 2 * -log(p)), (0, 0.75 * p**2 * -log(1 - p))):
        assert value({"name": "focal"}, volume(1), volume(truth)) == pytest.approx(expected, rel=1e-5)


def test_mse_is_divided_by_the_count_of_all_channels():
    logits, target = torch.zeros(2, 3, 1, 1, 4), torch.ones(2, 3, 1, 1, 4)
    assert value({"name": "mse"}, logits, target) == pytest.approx(0.25)


@pytest.mark.parametrize(("ones", "weight"), [(917, 917 / 83), (83, 917 / 83), (990, 19), (10, 19), (500, 1)])
def test_the_rarer_class_weighs_more_up_to_the_cap(ones, weight):
    target = volume(*[1] * ones, *[0] * (1000 - ones))
    weights = class_weights(target, torch.ones_like(target)).flatten()
    rare, common = (weights[-1], weights[0]) if ones >= 500 else (weights[0], weights[-1])
    assert float(rare) == pytest.approx(weight, rel=1e-5)
    assert float(common) == 1


def test_balance_is_of_each_sample_over_all_channels_and_of_what_is_known():
    target = torch.zeros(2, 2, 1, 1, 4)
    target[0, 0, 0, 0, :3] = target[0, 1, 0, 0, :3] = 1
    target[1, 1] = 1
    known = torch.ones_like(target)
    known[1, 1] = 0
    weights = class_weights(target, known)
    assert weights[0].flatten().tolist() == [1, 1, 1, 3, 1, 1, 1, 3]
    assert weights[1].flatten().tolist() == [1] * 4 + [0] * 4, "a sample of one known class weighs 1"
    assert float(class_weights(target[:1], known[:1], 2.0).max()) == pytest.approx(2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("balance", [False, True])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_is_unknown_changes_no_loss_and_gets_no_gradient(name, balance, seed):
    torch.manual_seed(seed)
    shape = (2, 3, 2, 4, 5)
    logits = torch.randn(shape, requires_grad=True)
    target, known = (torch.rand(shape) > 0.4).float(), (torch.rand(shape) > 0.3).float()
    loss = make_loss([[{"name": name, "balance": balance}]], [("affinity", 3)])
    total, _ = loss(logits, target, known)
    (gradient,) = torch.autograd.grad(total, logits)
    assert (gradient[known == 0] == 0).all()
    assert (gradient[known == 1] != 0).any()
    noise = torch.randn(shape) * (1 - known)
    other, _ = loss(logits + 5 * noise, (target + 3 * noise).clamp(0, 1), known)
    assert float(other.detach()) == pytest.approx(float(total.detach()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_unknown_does_not_thin_the_loss(name):
    """A crop half unknown has the loss of its known half."""
    torch.manual_seed(0)
    logits, target = torch.randn(1, 2, 1, 4, 4), (torch.rand(1, 2, 1, 4, 4) > 0.5).float()
    doubled = [torch.cat([t, torch.rand(t.shape)], dim=3) for t in (logits, target)]
    known = torch.cat([torch.ones_like(target), torch.zeros_like(target)], dim=3)
    assert value({"name": name}, *doubled, known) == pytest.approx(value({"name": name}, logits, target))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_known_is_a_loss_of_zero_with_a_gradient(name):
    logits = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    nothing = torch.zeros_like(logits)
    total, _ = make_loss([[{"name": name}]], [("affinity", 1)])(logits, nothing, nothing)
    total.backward()
    assert float(total.detach()) == pytest.approx(0, abs=1e-7)
    assert (logits.grad == 0).all()


def test_heads_are_split_and_named_in_order():
    layout = [("affinity", 3), ("lsd", 10), ("affinity", 1)]
    terms = [
        [{"name": "bce"}, {"name": "dice", "weight": 0.5}],
        [{"name": "mse", "weight": 2}],
        [{"name": "bce"}],
    ]
    logits = torch.zeros(1, 14, 1, 2, 2)
    target = torch.zeros_like(logits)
    target[:, 3:13] = 1
    total, parts = make_loss(terms, layout)(logits, target, torch.ones_like(logits))
    assert list(parts) == ["affinity/bce", "affinity/dice", "lsd/mse", "affinity_2/bce"]
    assert parts["lsd/mse"] == pytest.approx(0.25)
    expected = log(2) + 0.5 * parts["affinity/dice"] + 2 * 0.25 + log(2)
    assert float(total) == pytest.approx(expected)
    assert set(json.loads(json.dumps(dict(parts)))) == set(parts)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_answers_are_summed_in_float32(name):
    torch.manual_seed(1)
    logits, target = torch.randn(1, 1, 8, 32, 32).bfloat16(), (torch.rand(1, 1, 8, 32, 32) > 0.5).float()
    term = {"name": name, "balance": True}
    total, _ = make_loss([[term]], [("affinity", 1)])(logits, target, torch.ones_like(target))
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(value(term, logits.float(), target))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([], "0 lists, but target.heads has 1"),
        ([[]], "loss is empty"),
        ([[{"name": "dise"}]], "did you mean 'dice'"),
        ([[{"name": "bce", "wieght": 1}]], "did you mean 'weight'"),
        ([[{"name": "bce", "weight": -1}]], "at least 0"),
        ([[{"name": "bce", "cap": 0.5}]], "at least 1"),
        ([[{"name": "focal", "alpha": 2}]], "from 0 to 1"),
        ([[{"name": "bce", "weight": "much"}]], "is a number"),
    ],
)
def test_bad_settings(terms, words):
    with pytest.raises(UsageError, match=words):
        make_loss(terms, [("affinity", 3)])


def test_shapes_that_do_not_fit():
    loss = make_loss([[{"name": "bce"}]], [("affinity", 3)])
    good = torch.zeros(1, 3, 2, 2, 2)
    with pytest.raises(ChunkError, match="have 3 channels"):
        loss(good[:, :2], good, good)
    with pytest.raises(ChunkError, match="differ in shape"):
        loss(good, good[..., :1], good)
