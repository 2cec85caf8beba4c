"""Networks of one modality each: trained as if alone, averaged by their probabilities."""

from dataclasses import replace

import pytest
import torch

from cggm_med.models.ensemble import Ensemble
from cggm_med.objectives.activation import (
    average_classes,
    average_exclusive,
    average_overlapping,
    average_values,
    exclusive,
    overlapping,
)
from cggm_med.testing.problems import PROBLEMS, lacking, make, same_bits, trained


def ensemble(problem, modalities):
    return Ensemble({m: problem.model((m,)) for m in modalities}, problem.average)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_each_network_is_trained_as_if_it_were_alone(kind):
    problem = PROBLEMS[kind]
    together = trained(make("unimodal_ensemble"), model=ensemble(problem, ("flair", "t1")), problem=problem)
    # The same samples: how well a modality shows the target follows from its place among those that are asked for.
    both = [problem.batch(number, ("flair", "t1")) for number in range(4)]
    batches = [replace(batch, inputs={"t1": batch.inputs["t1"]}) for batch in both]
    alone = trained(make("joint", heads=False), model=problem.model(("t1",)), problem=problem, batches=batches)
    # Not bit by bit: the norm that gradients are clipped by is summed in another order.
    torch.testing.assert_close(together.networks["t1"].state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-6)
    assert not same_bits(together.networks["t1"], problem.model(("t1",)))


def test_the_mean_is_that_of_probabilities():
    logits, half = 3 * torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(0)), torch.full((2, 4), 0.5)
    for average, probabilities in (
        (average_overlapping, overlapping),
        (average_exclusive, exclusive),
        (average_classes, lambda x: torch.softmax(x, dim=1)),
        (average_values, lambda x: x),
    ):
        expected = (probabilities(logits[0]) + probabilities(logits[1])) / 2
        torch.testing.assert_close(probabilities(average(logits, half)), expected)


def test_the_mean_by_hand():
    # Classes of odds 3 to 1 and 1 to 1: probabilities .75 and .5, mean .625, odds 5 to 3.
    logits = torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]]).log()
    mean = average_classes(logits, torch.full((2, 1), 0.5))
    assert (mean[0, 0] - mean[0, 1]).exp().item() == pytest.approx(5 / 3)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_sample_is_predicted_by_the_networks_of_what_it_has(kind):
    problem = PROBLEMS[kind]
    model = ensemble(problem, ("flair", "t1")).eval()
    batch = problem.batch(0, ("flair", "t1"))
    partial = lacking(batch, {"flair": [0]}, float("nan"))
    (outputs,) = model.predict([model.encode(partial.inputs, partial.present)])
    torch.testing.assert_close(outputs.logits[:1], model({"t1": batch.inputs["t1"]})[:1])
    torch.testing.assert_close(outputs.logits[1:], model(batch.inputs)[1:])


def test_a_network_of_other_modalities_is_refused():
    problem = PROBLEMS["classification"]
    with pytest.raises(ValueError, match="the network of t1 has the modalities flair"):
        Ensemble({"t1": problem.model(("flair",))}, problem.average)
