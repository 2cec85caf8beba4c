"""Two processes with half of a batch each compute what one does with all of it: dropout, padding, normalisation."""

import pytest
import torch
from helpers.forked import together
from torch import nn

from cggm_med import distributed
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.models.batch_norm import SharedBatchNorm
from cggm_med.models.heads import UnimodalHeads, VectorHead
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.models.resnet import ConvEncoder
from cggm_med.models.sequence import SequenceModelConfig, sequence_heads, sequence_model
from cggm_med.objectives.balance_scores import true_class_sums
from cggm_med.objectives.targets import IGNORED
from cggm_med.objectives.utterance_loss import UtteranceLoss
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step, seed_network
from cggm_med.task.samples import pad
from cggm_med.testing.problems import CPU, make
from cggm_med.training.step import train_step
from cggm_med.training.whole_batch import draws_of_whole_batch
from cggm_med.types import Batch


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def transformers():
    """As of MOSI, IEMOCAP and Food-101: dropout of tokens, attention and vectors."""
    config = SequenceModelConfig(width=8, attention_heads=2, encoder_layers=1, fusion_layers=1, channels=(6, 6))
    model = sequence_model(config, ["text", "audio"], targets=3)
    samples = {"text": [noise(n, 6) for n in (3, 7, 2, 4)], "audio": [noise(n, 6) for n in (9, 2, 5, 3)]}
    return model, sequence_heads(model, 3, config), samples, torch.tensor([0, 1, 2, 1]), nn.CrossEntropyLoss()


def dialogues():
    """Of IEMOCAP and MELD: dropout, and batch normalisation of utterances, of which a process may have a single one."""
    pytest.importorskip("torch_geometric")
    from cggm_med_tasks.affect.dialogue_network import DialogueModel, LinearEncoder, TextEncoder, UtteranceHead

    encoders = {"text": TextEncoder(8, 2, width=4, streams=4), "audio": LinearEncoder(8, 2, width=4)}
    samples = {m: [noise(n, 10) for n in (3, 1, 6, 2)] for m in encoders}
    target = [torch.arange(len(x)) % 3 for x in samples["text"]]
    heads = UnimodalHeads({m: UtteranceHead(4, 3) for m in encoders})
    return DialogueModel(encoders, width=4, classes=3), heads, samples, target, UtteranceLoss(mean_length=3.0)


def images():
    """As of the digits and the clips: batch normalisation of images."""
    encoders = {m: ConvEncoder(channels=1, widths=(4, 6)) for m in ("image", "sound")}
    samples = {m: list(noise(4, 1, 8, 8 + i)) for i, m in enumerate(encoders)}
    heads = UnimodalHeads({m: VectorHead(6, 3) for m in encoders})
    model = LateFusionModel(encoders, dict.fromkeys(encoders, 6), 3)
    return model, heads, samples, torch.tensor([0, 1, 2, 1]), nn.CrossEntropyLoss()


def share(samples, target, rows):
    """The batch of a process, padded to the longest of its own samples."""
    inputs = {m: pad(x[rows]) if x[0].ndim == 2 else torch.stack(x[rows]) for m, x in samples.items()}
    target = target[rows]
    if isinstance(target, list):
        target = nn.utils.rnn.pad_sequence(target, batch_first=True, padding_value=IGNORED)
    return Batch(inputs, target, tuple(map(str, range(len(target)))))


def trained(network, parts):
    """All numbers after two steps of SGD; one draw more follows, which shows where the stream of numbers stands."""
    seed_network(0, CPU)
    model, heads, samples, target, criterion = network()
    strategy = make("uniform")
    strategy.setup(model, lambda: heads, true_class_sums, 5)
    SharedBatchNorm.take_over(model)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=0.1), CPU)
    batch = share(samples, target, slice(distributed.rank(), None, distributed.world_size()))
    model.train()
    for number in range(2):
        seed_network(number, CPU)
        settings = TrainConfig(accumulate=parts)
        train_step(model, strategy, optimizer, criterion, batch, Step(number, 2), clip_norm=10, settings=settings)
    return {**model.state_dict(), **strategy.state_dict(), "next": torch.rand(3)}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("network", [transformers, dialogues, images])
def test_two_processes_train_what_one_does(network, parts):
    expected = trained(network, parts)
    for found in together(2, trained, network, parts):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
            )


def drawn(p=0.5):
    """What dropout leaves of this process's two of four samples, in two ways to lie in memory."""
    seed_network(0, CPU)
    samples = 4 // distributed.world_size()
    with draws_of_whole_batch(samples, Step(0, 1)):
        flat = nn.functional.dropout(torch.ones(samples, 3), p)
        across = nn.functional.dropout(torch.ones(5, samples, 2).transpose(0, 1), p)
        fused, mask = torch.native_dropout(torch.ones(samples, 3), p, True)
        own = torch.rand(3)
        chances = torch.empty(samples, 9).bernoulli_(torch.full((samples, 9), p))
    return {"flat": flat, "across": across, "fused": fused, "mask": mask, "own": own, "chances": chances}


def test_a_process_draws_its_rows_of_the_whole_batch():
    whole = drawn()
    both = together(2, drawn)
    for rank, rows in enumerate(both):
        for name in ("flat", "across", "fused", "mask"):
            assert torch.equal(rows[name], whole[name][rank::2]), name
    for name in ("own", "chances"):  # what is not of a sample, or whose parameters are, each process draws by itself
        assert not torch.equal(both[0][name], both[1][name]), name
    assert whole["flat"].unique().tolist() == [0, 2]


def normalised():
    """Of 1, 2, 3, 6 over two processes: mean 3, variance 3.5; no sample in the second one's last call."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm1d(1, eps=0, momentum=1))
    SharedBatchNorm.take_over(norm)
    here = torch.tensor([[1.0], [2.0]] if distributed.rank() == 0 else [[3.0], [6.0]])
    both = norm(here).flatten()
    shared = norm[0].running_mean.item(), norm[0].running_var.item()
    first = norm(here if distributed.rank() == 0 else here[:0]).flatten()
    return both.detach(), shared, first.detach()


def test_normalisation_is_over_the_samples_of_all_processes():
    (one, shared, first), (two, also, none) = together(2, normalised)
    expected = (torch.tensor([1.0, 2.0, 3.0, 6.0]) - 3) / 3.5**0.5
    assert torch.allclose(torch.cat([one, two]), expected)
    assert shared == also == pytest.approx((3, 3.5 * 4 / 3))
    assert torch.allclose(first, torch.tensor([-1.0, 1.0]))
    assert none.numel() == 0


def test_one_process_keeps_its_own_normalisation():
    norm = nn.BatchNorm1d(1)
    SharedBatchNorm.take_over(norm)
    assert type(norm) is nn.BatchNorm1d
