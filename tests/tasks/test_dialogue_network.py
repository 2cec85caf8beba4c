"""The laws of the dialogue network: padding and absent modalities leave no trace, and nothing accumulates."""

import copy
import sys
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cggm_med.errors import MissingExtra
from cggm_med.objectives.targets import IGNORED
from cggm_med.objectives.utterance_loss import UtteranceLoss
from cggm_med.types import Features, Padded
from cggm_med_tasks.affect.dialogue_network import (
    DialogueModel,
    LinearEncoder,
    TextEncoder,
    UtteranceHead,
    graph_edges,
    hyperedges,
)

CHANNELS = {"audio": 5, "text": 12, "visual": 7}
MODALITIES = tuple(CHANNELS)
SPEAKERS, WIDTH, CLASSES = 2, 8, 6
LENGTHS = (4, 1, 6, 3)
SUBSETS = [tuple(m for m, kept in zip(MODALITIES, row, strict=True) if kept) for row in product((0, 1), repeat=3)][1:]


def make_model(modalities=MODALITIES, **settings):
    encoders = {
        m: TextEncoder(CHANNELS[m], SPEAKERS, WIDTH, streams=4)
        if m == "text"
        else LinearEncoder(CHANNELS[m], SPEAKERS, WIDTH)
        for m in modalities
    }
    return DialogueModel(encoders, WIDTH, CLASSES, **settings)


def make_valid(lengths=LENGTHS):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def make_inputs(lengths=LENGTHS):
    valid = make_valid(lengths)
    speaker = F.one_hot(torch.randint(SPEAKERS, valid.shape), SPEAKERS)
    values = {m: torch.cat([torch.randn(*valid.shape, size), speaker], dim=-1) for m, size in CHANNELS.items()}
    return {m: Padded(torch.where(valid[..., None], x, 0), valid) for m, x in values.items()}


@pytest.fixture
def model():
    return make_model(hypergraph_layers=2, graph_layers=2).eval()


@pytest.fixture
def inputs():
    return make_inputs()


def only(values, kept):
    return {m: values[m] for m in kept}


def longer(inputs, more, filler):
    return {
        m: Padded(F.pad(x.values, (0, 0, 0, more), value=filler), F.pad(x.valid, (0, more))) for m, x in inputs.items()
    }


def gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Padding and dialogues


@pytest.mark.parametrize("filler", [0.0, 1e3, float("nan")])
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_behind_the_end_reaches_neither_logits_nor_gradients(inputs, filler, training):
    """Batch normalisation included, in training and in evaluation."""
    model = make_model(dropout=0.0).train(training)
    found = []
    for given in (inputs, longer(inputs, 3, filler)):
        garbage = {m: x._replace(values=torch.where(x.valid[..., None], x.values, filler)) for m, x in given.items()}
        again = copy.deepcopy(model)
        logits = again(garbage)[..., : max(LENGTHS)]
        found.append((logits, gradients(again, torch.where(make_valid()[:, None], logits, 0)), again.state_dict()))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert torch.isfinite(found[1][0]).all()
    assert len(found[0][1]) == len(list(model.parameters()))
    torch.testing.assert_close(found[0][1:], found[1][1:])


def test_a_dialogue_does_not_know_the_others(model, inputs):
    logits = model(inputs)
    assert logits.shape == (len(LENGTHS), CLASSES, max(LENGTHS))
    for i, length in enumerate(LENGTHS):
        alone = {m: Padded(x.values[i : i + 1, :length], x.valid[i : i + 1, :length]) for m, x in inputs.items()}
        torch.testing.assert_close(model(alone), logits[i : i + 1, :, :length])


def test_permuted_dialogues_have_permuted_logits(inputs):
    """Also while batch normalisation takes its statistics."""
    model = make_model(dropout=0.0)
    order = torch.tensor([2, 0, 3, 1])
    permuted = {m: Padded(x.values[order], x.valid[order]) for m, x in inputs.items()}
    torch.testing.assert_close(model(permuted), model(inputs)[order])


def test_every_utterance_knows_its_dialogue(model, inputs):
    """Another first utterance, in one modality, changes the last one's logits, in this dialogue alone."""
    changed = dict(inputs)
    values = inputs["audio"].values.clone()
    values[0, 0, 0] += 1
    changed["audio"] = Padded(values, inputs["audio"].valid)
    differs = (model(changed) != model(inputs)).any(1)
    assert differs.tolist() == [[i == 0 and t < 4 for t in range(6)] for i in range(4)]


def test_dialogues_of_one_utterance(model):
    logits = model(make_inputs((1, 1, 1)))
    assert logits.shape == (3, CLASSES, 1)
    assert torch.isfinite(logits).all()


def test_every_modality_knows_the_speaker(model, inputs):
    swapped = {
        m: Padded(torch.cat([x.values[..., :-SPEAKERS], x.values[..., -SPEAKERS:].flip(-1)], -1), x.valid)
        for m, x in inputs.items()
    }
    for m in MODALITIES:
        assert not torch.allclose(model(only(swapped, (m,)))[0], model(only(inputs, (m,)))[0])


# Modalities


@pytest.mark.parametrize("kept", SUBSETS)
def test_absent_is_absent_however_it_is_said(model, inputs, kept):
    """Not given; marked absent in every dialogue, with anything in its place; features left out of the fusion."""
    expected = model(only(inputs, kept))
    features = model.encode(inputs)
    nobody = torch.zeros(len(LENGTHS), dtype=torch.bool)
    marked = {m: f if m in kept else f._replace(present=nobody) for m, f in features.items()}
    nothing = {
        m: f if m in kept else f._replace(maps=(torch.full_like(f.maps[0], float("nan")),)) for m, f in marked.items()
    }
    for view in (only(features, kept), marked, nothing):
        assert torch.equal(model.head(model.fuse(view)[0]), expected)
    assert torch.isfinite(expected).all()


def test_dialogues_may_lack_different_modalities(model, inputs):
    present = {
        "audio": torch.tensor([True, False, True, False]),
        "text": torch.tensor([True, True, False, False]),
        "visual": torch.tensor([True, True, True, True]),
    }
    features = {m: f._replace(present=present[m]) for m, f in model.encode(inputs).items()}
    logits = model.head(model.fuse(features)[0])
    for i in range(len(LENGTHS)):
        alone = {m: Padded(*(x[i : i + 1] for x in inputs[m])) for m in MODALITIES if present[m][i]}
        torch.testing.assert_close(logits[i : i + 1], model(alone))


def test_a_batch_that_lacks_everything_gets_the_bias(model, inputs):
    nobody = torch.zeros(len(LENGTHS), dtype=torch.bool)
    features = {m: f._replace(present=nobody) for m, f in model.encode(inputs).items()}
    logits = model.head(model.fuse(features)[0])
    assert torch.equal(logits, model.head.bias[None, :, None].expand_as(logits))


def test_nothing_accumulates_over_coalitions(model, inputs):
    """All eight, twice and in the other order; the features stay what they were."""
    features = model.encode(inputs)
    before = copy.deepcopy({m: f.maps[0].detach() for m, f in features.items()})
    views = [only(features, kept) for kept in SUBSETS]
    nobody = torch.zeros(len(LENGTHS), dtype=torch.bool)
    views.append({m: f._replace(present=nobody) for m, f in features.items()})
    first, second = [x.logits for x in model.predict(views)], [x.logits for x in model.predict(views[::-1])]
    assert all(torch.equal(a, b) for a, b in zip(first, second[::-1], strict=True))
    assert all(torch.equal(features[m].maps[0], before[m]) for m in MODALITIES)
    assert len({round(x.detach().double().sum().item(), 9) for x in first}) == len(views)


def test_the_order_in_which_modalities_are_given_does_not_matter(model, inputs):
    assert torch.equal(model(dict(reversed(inputs.items()))), model(inputs))


def test_a_modality_trains_its_encoder_and_nothing_else(inputs):
    model = make_model(dropout=0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    for m in MODALITIES:
        own = {names[id(p)] for p in model.modality_parameters(m)}
        assert own == {name for name in names.values() if name.startswith(f"encoders.{m}.")}
        touched = {name for name, g in gradients(model, model(only(inputs, (m,)))).items() if g.any()}
        assert {name for name in touched if name.startswith("encoders.")} == own
        shared = {name for name in names.values() if not name.startswith("encoders.")}
        assert touched - own == shared


def test_one_modality_is_enough():
    model = make_model(("text",)).eval()
    assert model({"text": make_inputs()["text"]}).shape == (4, CLASSES, 6)


# The text encoder against torch on sequences without padding


def test_batch_normalisation_takes_its_statistics_over_utterances_alone(inputs):
    encoder, text = TextEncoder(CHANNELS["text"], SPEAKERS, WIDTH, streams=4), inputs["text"]
    reference = nn.BatchNorm1d(CHANNELS["text"])
    packed = torch.cat([x[:length, :-SPEAKERS] for x, length in zip(text.values, LENGTHS, strict=True)])
    for _ in range(2):
        encoder(text)
        expected = reference(packed)
    torch.testing.assert_close(encoder.norm.state_dict(), reference.state_dict())
    again = (packed - packed.mean(0)) / (packed.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(expected, again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("streams", [1, 4])
def test_the_text_encoder_is_normalisation_mean_linear_layer_and_recurrent_network(inputs, streams):
    """Dialogue by dialogue, without padding or packing."""
    encoder = TextEncoder(CHANNELS["text"], SPEAKERS, WIDTH, streams=streams)
    nn.init.normal_(encoder.modality_embedding)
    for _ in range(3):
        encoder(inputs["text"])
    maps = encoder.eval()(inputs["text"])
    for i, length in enumerate(LENGTHS):
        x, speaker = inputs["text"].values[i, :length].split([CHANNELS["text"], SPEAKERS], dim=-1)
        mean = sum(encoder.norm(x).chunk(streams, dim=-1)) / streams
        read = encoder.gru(encoder.linear(mean)[None])[0][0]
        said = read + speaker @ encoder.speaker_embedding.weight.T + encoder.modality_embedding
        torch.testing.assert_close(maps[i, :, :length], said.T)
        assert not maps[i, :, length:].any()


def test_a_linear_encoder_by_hand():
    """Features 2 and 3 with weights 10 and 1, the second speaker with 0.5, the modality with 0.25: 23.75."""
    encoder = LinearEncoder(channels=2, speakers=2, width=1)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.tensor([[10.0, 1.0]]))
        encoder.speaker_embedding.weight.copy_(torch.tensor([[100.0, 0.5]]))
        encoder.modality_embedding.fill_(0.25)
    x = Padded(torch.tensor([[[2.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]]), torch.tensor([[True, False]]))
    assert encoder(x).tolist() == [[[23.75, 0.0]]]


def test_a_lone_utterance_can_be_trained_on():
    """It is normalised by the running statistics, which it leaves alone, as in evaluation."""
    encoder, text = TextEncoder(CHANNELS["text"], SPEAKERS, WIDTH, streams=4), make_inputs((1,))["text"]
    encoder(make_inputs()["text"])
    before = copy.deepcopy(encoder.norm.state_dict())
    trained = encoder(text)
    torch.testing.assert_close(encoder.norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(trained, encoder.eval()(text))


# The fusion against dense matrices


def by_hand(model, features):
    """The fused features of one dialogue with everything, in NumPy, from incidence and adjacency matrices."""
    maps = [features[m].maps[0][0].T.double().numpy() for m in MODALITIES]
    utterances, modalities = len(maps[0]), len(maps)
    names = [(m, t) for m in range(modalities) for t in range(utterances)]
    x = np.concatenate(maps)

    H = np.zeros((len(names), utterances + modalities))
    A = np.zeros((len(names), len(names)))
    for i, (m, t) in enumerate(names):
        H[i, t] = H[i, utterances + m] = 1
        for j, (n, s) in enumerate(names):
            A[i, j] = i != j and (m == n or t == s)

    D, B = np.diag(1 / H.sum(1)), np.diag(1 / H.sum(0))
    averaged = x
    for layer in model.hypergraph:
        theta, bias = layer.lin.weight.double().numpy().T, layer.bias.double().numpy()
        averaged = np.maximum(D @ H @ B @ H.T @ averaged @ theta + bias, 0)

    weight, bias = (p.double().numpy() for p in model.graph_input.parameters())
    start = adapted = x @ weight.T + bias
    norm = A / np.sqrt(np.outer(A.sum(1), A.sum(1)))
    for layer in model.graph:
        of_source, of_target = (adapted @ a.weight.double().numpy().T for a in (layer.att_l, layer.att_r))
        adapted = (norm * np.tanh(of_target + of_source.T)) @ adapted + layer.eps * start

    nodes = np.maximum(np.concatenate([averaged, adapted], axis=1), 0).reshape(modalities, utterances, -1)
    return nodes.transpose(0, 2, 1).reshape(-1, utterances)


@torch.no_grad()
def test_the_fusion_against_incidence_and_adjacency_matrices(model):
    """``D^-1 H B^-1 H^T X Theta`` and ``tanh(a [x_i, x_j]) / sqrt(d_i d_j)``, two layers each."""
    for layer in model.hypergraph:
        nn.init.normal_(layer.bias)
    features = model.encode(make_inputs((5,)))
    np.testing.assert_allclose(model.fuse(features)[0][0].numpy(), by_hand(model, features), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_hypergraph_by_hand():
    """Audio says 1 and 3, text 5: edges average 3 (first utterance), 3 (second), 2 (audio) and 5 (text).

    Nodes average their edges: audio (3 + 2) / 2 and (3 + 2) / 2, text (3 + 5) / 2. The first utterance has both
    modalities, the second one of two, which counts twice.
    """
    encoders = {m: nn.Identity() for m in ("audio", "text")}
    model = DialogueModel(encoders, width=2, classes=1, graph_layers=0).eval()
    nn.init.constant_(model.hypergraph[0].lin.weight, 0.5)
    features = {
        "audio": Features((torch.tensor([[[1.0, 3.0]] * 2]),), valid=torch.tensor([[True, True]])),
        "text": Features((torch.tensor([[[5.0, 9.0]] * 2]),), valid=torch.tensor([[True, False]])),
    }
    fused = model.fuse(features)[0]
    assert fused[0, 0].tolist() == [2.5, 5.0]
    assert fused[0, 2].tolist() == [4.0, 0.0]


def test_hyperedges_and_edges_by_brute_force():
    there = torch.rand(3, 3, 4) > 0.3
    nodes = there.nonzero().tolist()
    edges = {
        (i, j)
        for i, (b, m, t) in enumerate(nodes)
        for j, (c, n, s) in enumerate(nodes)
        if i != j and b == c and (m == n or t == s)
    }
    found = list(zip(*graph_edges(there).tolist(), strict=True))
    assert len(found) == len(edges)
    assert set(found) == edges

    members = {}
    for node, edge in zip(*hyperedges(there).tolist(), strict=True):
        members.setdefault(edge, []).append(node)
    groups = {}
    for i, (b, m, t) in enumerate(nodes):
        groups.setdefault(("utterance", b, t), []).append(i)
        groups.setdefault(("modality", b, m), []).append(i)
    assert sorted(members.values()) == sorted(groups.values())


# Heads, precision, state, errors


def test_a_head_is_a_linear_layer_on_what_is_positive(model, inputs):
    head = UtteranceHead(WIDTH, CLASSES)
    features = model.encode(inputs)["audio"]
    own = head(features)
    hidden = features.maps[0][2, :, 3].clamp_min(0)
    assert torch.equal(own.hidden[2, :, 3], hidden)
    torch.testing.assert_close(own.logits[2, :, 3], head.last.weight[:, :, 0] @ hidden + head.last.bias)


@pytest.mark.parametrize("kept", SUBSETS)
def test_slices_of_the_fused_head_reproduce_its_logits_and_match_the_unimodal_heads(model, inputs, kept):
    outputs = model.predict([model.encode(only(inputs, kept))])[0]
    head = UtteranceHead(WIDTH, CLASSES)
    total = model.head.bias[None, :, None]
    for m in MODALITIES:
        x, weight = model.head_input(m, outputs), model.head_weight(m)
        assert x.shape == (len(LENGTHS), WIDTH, max(LENGTHS))
        assert weight.shape == head.last.weight.flatten(1).shape
        assert bool(x.any()) == (m in kept)
        total = total + torch.einsum("kc,dcu->dku", weight, x)
    torch.testing.assert_close(total, outputs.logits)
    assert model.linear_shares(outputs.features) is None


@torch.no_grad()
def test_as_many_modalities_share_the_size_of_all(inputs):
    """Alike modalities, one to three of them: with equal weights of the head the logits are the same."""
    encoder = LinearEncoder(CHANNELS["audio"], SPEAKERS, WIDTH)
    model = DialogueModel(dict.fromkeys(MODALITIES, encoder), WIDTH, CLASSES, graph_layers=0).eval()
    third = model.head.weight[:, :WIDTH]
    model.head.weight.copy_(third.repeat(1, 3, 1))
    alike = dict.fromkeys(MODALITIES, inputs["audio"])
    for kept in SUBSETS:
        torch.testing.assert_close(model(only(alike, kept)), model(alike))


def test_bfloat16_autocast_trains_and_stays_near_float32(inputs):
    model = make_model(dropout=0.0)
    expected = model(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)
    found = gradients(model, logits)
    assert len(found) == len(list(model.parameters()))
    assert all(torch.isfinite(g).all() for g in found.values())


def test_the_graphs_are_summed_in_float32_even_under_autocast(model, inputs):
    features = model.encode(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = model.fuse(features)[0]
    assert torch.equal(fused, model.fuse(features)[0])


def test_float64_is_kept(inputs):
    model = make_model().double().eval()
    doubled = {m: Padded(x.values.double(), x.valid) for m, x in inputs.items()}
    assert model(doubled).dtype == torch.float64
    torch.testing.assert_close(model(doubled).float(), model.float()(inputs))


def test_the_state_holds_all_that_was_learned(inputs):
    model, other = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(inputs).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(other.eval()(inputs), model.eval()(inputs))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), model(inputs))


def test_it_learns_who_follows_whom():
    """The emotion is the word of the utterance before, drawn anew in each step: nothing can be learned by heart."""
    model = DialogueModel({"text": TextEncoder(CLASSES, SPEAKERS, width=16)}, 16, CLASSES, dropout=0.0)
    criterion = UtteranceLoss(mean_length=5.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    valid = make_valid((6, 3, 5, 6) * 4)

    def draw():
        word = torch.randint(CLASSES, valid.shape)
        values = torch.cat([F.one_hot(word, CLASSES), F.one_hot(word % SPEAKERS, SPEAKERS)], dim=-1)
        target = torch.where(valid, word.roll(1, dims=1), IGNORED)
        target[:, 0] = IGNORED
        return {"text": Padded(values * valid[..., None].float(), valid)}, target

    for _ in range(150):
        optimizer.zero_grad()
        inputs, target = draw()
        criterion(model(inputs), target).backward()
        optimizer.step()
    inputs, target = draw()
    right = model.eval()(inputs).argmax(1) == target
    assert right[target != IGNORED].float().mean() > 0.95


def test_no_modality_and_wrong_sizes_are_errors(model, inputs):
    with pytest.raises(ValueError, match="no modality to fuse: give at least one of audio, text, visual"):
        model({})
    with pytest.raises(ValueError, match="has 14 channels, expected 5 features and then 2 of its speaker, 7 in all"):
        model({"audio": inputs["text"]})
    with pytest.raises(ValueError, match="10 text channels are not a whole multiple of 4 streams"):
        TextEncoder(10, SPEAKERS, WIDTH, streams=4)
    with pytest.raises(ValueError, match="width is 7, expected an even number"):
        TextEncoder(12, SPEAKERS, 7)
    with pytest.raises(ValueError, match="width is 7, expected an even number"):
        DialogueModel({"text": nn.Identity()}, 7, CLASSES)
    with pytest.raises(ValueError, match="hypergraph_layers is 0, expected at least 1"):
        make_model(hypergraph_layers=0)


def test_without_torch_geometric_the_error_says_what_mends_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(MissingExtra, match=r"needs torch-geometric: pip install 'cggm-med\[dialogue\]'"):
        make_model()
