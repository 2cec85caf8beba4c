"""Gradients averaged over processes: in buckets as at once, sent early, and never a stale one."""

import pytest
import torch
from helpers.forked import together
from torch import nn

from cggm_med import distributed
from cggm_med.errors import ConfigError
from cggm_med.optim.exchange import GradientExchange


def network():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)])


def loss(layers, *, lacking=False):
    """Of other samples in each process; the second one may do without a layer."""
    x = torch.full((2, 4), 1.0 + distributed.rank())
    for i, layer in enumerate(layers):
        if not (lacking and distributed.rank() and i == 2):
            x = layer(x).tanh()
    return x.sum()


def gradients(layers):
    return [p.grad for p in layers.parameters()]


def exchanged(how, **options):
    """The gradients after an exchange in buckets of one parameter, or at once."""
    layers = network()
    many = GradientExchange(layers.parameters(), bucket_bytes=1, **options)
    loss(layers).backward()  # the first part of the batch
    if how == "lacking":
        layers.zero_grad()
    with many.sending():
        loss(layers, lacking=how == "lacking").backward()
        if how == "twice":
            loss(layers).backward()
        if how == "in place":
            layers[4].weight.grad.mul_(2)
    if how == "own":  # a strategy that averages by itself, and leaves the buckets on their way
        distributed.average(gradients(layers))
        with many.sending():
            loss(layers).backward()
    many.finish(some_lack=how == "lacking")
    return gradients(layers)


def both_ways(how):
    return [exchanged(how, overlap=overlap) for overlap in (True, False)]


@pytest.mark.parametrize("how", ["once", "lacking", "twice", "in place", "own"])
def test_buckets_give_the_bits_of_one_exchange(how):
    for in_buckets, at_once in (results := together(2, both_ways, how)):
        assert all(map(torch.equal, in_buckets, at_once))
    assert all(map(torch.equal, results[0][0], results[1][0]))


def means():
    """Of x * weight, whose gradient is x: 1 in one process and 2 in the other."""
    weight = nn.Parameter(torch.tensor([5.0]))
    averaged = GradientExchange([weight])
    with averaged.sending():
        (weight * (1.0 + distributed.rank())).backward()
    averaged.finish()
    return weight.grad


def test_the_mean_of_one_and_two():
    assert together(2, means) == [torch.tensor([1.5])] * 2


def sent_before_the_end():
    """How many of five buckets are on their way when the first layer's gradient is still unknown."""
    layers = network()
    many, seen = GradientExchange(layers.parameters(), bucket_bytes=4 * 20), []
    layers[1].register_full_backward_pre_hook(lambda *_: seen.append(len(many._sent)))
    with many.sending():
        loss(layers).backward()
    many.finish()
    return seen


def test_gradients_leave_while_the_backward_pass_runs():
    assert together(2, sent_before_the_end) == [[3], [3]]


def changed_too_late():
    layers = network()
    many = GradientExchange(layers.parameters())
    with many.sending():
        loss(layers).backward()
    layers[0].bias.grad.mul_(2)
    with pytest.raises(ConfigError, match="train.exchange=flat"):
        many.finish()


def test_a_gradient_that_changes_between_backward_and_combine_is_refused():
    together(2, changed_too_late)


def rounded(overlap):
    weight = nn.Parameter(torch.zeros(2))
    averaged = GradientExchange([weight], overlap=overlap, sent_as=torch.bfloat16)
    with averaged.sending():
        (weight @ torch.tensor([1 + 2**-7 + 2**-12, 3.0 * distributed.rank()])).backward()
    averaged.finish()
    return weight.grad


@pytest.mark.parametrize("overlap", [True, False])
def test_in_bfloat16_eight_bits_of_a_gradient_are_kept(overlap):
    assert all(torch.equal(x, torch.tensor([1 + 2**-7, 1.5])) for x in together(2, rounded, overlap))
