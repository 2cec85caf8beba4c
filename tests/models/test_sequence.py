"""The laws of the sequence model: padding is nothing, an absent modality is absent, and each dropout has its place."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cggm_med.errors import ConfigError, DataError
from cggm_med.models.sequence import (
    SequenceEncoder,
    SequenceModel,
    SequenceModelConfig,
    Transformer,
    positions,
    sequence_heads,
    settle_channels,
)
from cggm_med.types import Padded

CHANNELS = {"text": 5, "audio": 3, "vision": 2}
MODALITIES = tuple(CHANNELS)
LENGTHS = {"text": [4, 1, 3], "audio": [2, 5, 1], "vision": [3, 3, 3]}
NO_DROPOUT = {f"dropout_{where}": 0.0 for where in ("attention", "relu", "embedding", "residual", "output")}
CERTAIN = 1 - 1e-12  # a dropout that leaves nothing, as far as any test will see
SUBSETS = [kept for size in (1, 2) for kept in combinations(MODALITIES, size)]


def config(**settings):
    small = {"width": 12, "attention_heads": 3, "encoder_layers": 2, "fusion_layers": 2, "head_layers": 1}
    return SequenceModelConfig(**(small | NO_DROPOUT | settings))


# With an even number of attention heads torch computes evaluation by other kernels than training.
@pytest.fixture(params=[3, 2], ids=["odd heads", "even heads"])
def settings(request):
    return config(attention_heads=request.param)


@pytest.fixture
def model(settings):
    return SequenceModel(MODALITIES, CHANNELS, 4, settings).eval()


@pytest.fixture
def inputs():
    return {m: padded([torch.randn(n, CHANNELS[m]) for n in LENGTHS[m]]) for m in MODALITIES}


def padded(sequences, time=None, behind=0.0):
    """Sequences with ``behind`` behind each end; written out, so that it shares no code with what is tested."""
    time = time or max(len(x) for x in sequences)
    values = torch.full((len(sequences), time, sequences[0].shape[1]), float(behind))
    valid = torch.zeros(len(sequences), time, dtype=torch.bool)
    for row, x in enumerate(sequences):
        values[row, : len(x)], valid[row, : len(x)] = x, True
    return Padded(values, valid)


def sequences(x):
    return [values[valid] for values, valid in zip(*x, strict=True)]


def only(values, kept):
    return {m: values[m] for m in kept}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def outputs(model, heads, inputs):
    """Logits of the fusion and of each head."""
    features = model.encode(inputs)
    return {"fused": model(inputs), **{m: output.logits for m, output in heads(features).items()}}


@pytest.mark.parametrize("behind", [0.0, 1e3, -7.0])
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(model, settings, inputs, behind, training):
    """More of it, or anything finite in it; in training and in evaluation, for the fusion and for the heads."""
    heads = sequence_heads(model, 4, settings).train(training)
    model.train(training)
    longer = {m: padded(sequences(x), 9, behind) for m, x in inputs.items()}
    plain, other = outputs(model, heads, inputs), outputs(model, heads, longer)
    for who, logits in plain.items():
        close(other[who], logits)


def test_a_sample_alone_gives_what_it_gives_in_a_batch(model, settings, inputs):
    heads = sequence_heads(model, 4, settings).eval()
    together = outputs(model, heads, inputs)
    for row in range(3):
        alone = {m: padded([sequences(x)[row]]) for m, x in inputs.items()}
        for who, logits in outputs(model, heads, alone).items():
            close(logits[0], together[who][row])


def test_the_order_of_samples_is_kept(model, inputs):
    order = [2, 0, 1]
    close(model({m: Padded(x.values[order], x.valid[order]) for m, x in inputs.items()}), model(inputs)[order])


def test_nothing_is_learned_from_padding(model, inputs):
    for x in inputs.values():
        x.values.requires_grad_()
    model.train()(inputs).square().sum().backward()
    for x in inputs.values():
        assert (x.values.grad[~x.valid] == 0).all()
        assert (x.values.grad[x.valid] != 0).any(dim=1).all()


def test_features_are_zero_behind_the_end(model, inputs):
    for modality, features in model.encode(inputs).items():
        (tokens,) = features.maps
        assert tokens.shape == (3, 12, inputs[modality].values.shape[1])
        assert torch.equal(features.valid, inputs[modality].valid)
        assert (tokens.transpose(1, 2)[~features.valid] == 0).all()


@pytest.mark.parametrize("kept", SUBSETS)
def test_not_present_is_left_out(model, inputs, kept):
    features = model.encode(inputs)
    absent = torch.zeros(3, dtype=torch.bool)
    masked = {m: f if m in kept else f._replace(present=absent) for m, f in features.items()}
    close(model.fuse(masked)[0], model.fuse(only(features, kept))[0])
    close(model(only(inputs, kept)), model.head(model.fuse(only(features, kept))[0]))


def test_each_sample_has_its_own_modalities(model, inputs):
    """A sample with some of them gives what the whole batch gives with these, sample by sample."""
    present = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])  # (sample, modality)
    features = model.encode(inputs)
    masked = {m: f._replace(present=present[:, i]) for i, (m, f) in enumerate(features.items())}
    found = model.fuse(masked)[0]
    for row in range(3):
        kept = [m for i, m in enumerate(MODALITIES) if present[row, i]]
        close(found[row], model.fuse(only(features, kept))[0][row])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_may_not_be_seen_may_be_anything(model, inputs, value):
    features = model.encode(inputs)
    absent = torch.tensor([False, True, True])
    broken = torch.where(absent[:, None, None], features["text"].maps[0], value)
    masked = {**features, "text": features["text"]._replace(maps=(broken,), present=absent)}
    whole = {**features, "text": features["text"]._replace(present=absent)}
    close(model.fuse(masked)[0], model.fuse(whole)[0])


def test_a_sample_that_lacks_everything_says_the_same_whatever_it_is(model, inputs):
    features = model.encode(inputs)
    absent = torch.tensor([False, False, True])
    fused = model.fuse({m: f._replace(present=absent) for m, f in features.items()})[0]
    assert torch.isfinite(fused).all()
    close(fused[0], fused[1])
    assert not torch.allclose(fused[0], fused[2], atol=1e-3)


def test_a_sequence_without_a_step_is_no_nan(settings):
    encoder = SequenceEncoder(3, settings).eval()
    found = encoder(Padded(torch.randn(2, 4, 3), torch.tensor([[False] * 4, [True] * 4])))
    assert torch.isfinite(found).all()
    assert (found[0] == 0).all()


def test_the_order_of_steps_matters(model, inputs):
    turned = {m: padded([x.flip(0) for x in sequences(x)]) for m, x in inputs.items()}
    assert not torch.allclose(model(turned), model(inputs), atol=1e-3)


def test_something_has_to_be_fused(model):
    with pytest.raises(ValueError, match="give at least one of text, audio, vision"):
        model.fuse({})


def test_every_modality_has_parameters_of_its_own(model):
    shared = {id(p) for module in (model.fusion, model.head) for p in module.parameters()}
    own = [{id(p) for p in model.modality_parameters(m)} for m in MODALITIES]
    assert sum(map(len, own)) + len(shared) == len(list(model.parameters()))
    assert len(set.union(shared, *own)) == len(list(model.parameters()))


def written_out(transformer, tokens, valid, heads, attention=True, relu=True, residual=True):
    """Pre-norm layers from their weights alone; a part that is False says nothing, as if all of it were dropped."""
    state = dict(transformer.named_parameters())
    batch, time, width = tokens.shape

    def split(x):
        return x.view(batch, time, heads, width // heads).transpose(1, 2)

    for i in range(len(transformer.layers)):
        layer = {k.removeprefix(f"layers.{i}."): v for k, v in state.items() if k.startswith(f"layers.{i}.")}
        x = F.layer_norm(tokens, (width,), layer["norm1.weight"], layer["norm1.bias"])
        projected = x @ layer["self_attn.in_proj_weight"].T + layer["self_attn.in_proj_bias"]
        q, k, v = map(split, projected.chunk(3, dim=-1))
        weights = q @ k.transpose(2, 3) / math.sqrt(width // heads)
        weights = weights.masked_fill(~valid[:, None, None, :], -math.inf).softmax(-1) * attention
        mixed = (weights @ v).transpose(1, 2).reshape(batch, time, width)
        tokens = tokens + residual * F.linear(
            mixed, layer["self_attn.out_proj.weight"], layer["self_attn.out_proj.bias"]
        )
        x = F.layer_norm(tokens, (width,), layer["norm2.weight"], layer["norm2.bias"])
        inner = torch.relu(F.linear(x, layer["linear1.weight"], layer["linear1.bias"])) * relu
        tokens = tokens + residual * F.linear(inner, layer["linear2.weight"], layer["linear2.bias"])
    return F.layer_norm(tokens, (width,), state["norm.weight"], state["norm.bias"])


def with_biases(module):
    """Biases start as zeros, which would hide a part that is dropped to its bias."""
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.3)
    return module


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_layers_are_those_of_the_textbook(heads, training):
    """Independent authority: Vaswani et al. 2017 with the normalisation in front, written out."""
    transformer = with_biases(Transformer(2, config(attention_heads=heads))).train(training)
    x = padded([torch.randn(n, 12) for n in (5, 2, 4)])
    with torch.no_grad():
        found, expected = transformer(*x), written_out(transformer, *x, heads)
    close(found[x.valid], expected[x.valid])


@pytest.mark.parametrize("training", [False, True])
def test_where_no_token_is_valid_the_first_stands_in(settings, training):
    transformer = with_biases(Transformer(2, settings)).train(training)
    tokens, nothing, first = (
        torch.randn(2, 4, 12),
        torch.zeros(2, 4, dtype=torch.bool),
        torch.tensor([[True, False, False, False]] * 2),
    )
    close(transformer(tokens, nothing)[:, 0], transformer(tokens, first)[:, 0])
    assert not nothing.any()


@pytest.mark.parametrize("where", ["attention", "relu", "residual"])
def test_each_dropout_of_a_layer_acts_where_its_name_says(where):
    """Dropped entirely, a part leaves what is written out without it, and nothing else changes."""
    settings = config(**{f"dropout_{where}": CERTAIN})
    transformer = with_biases(Transformer(2, settings)).train()
    x = padded([torch.randn(n, 12) for n in (5, 2, 4)])
    with torch.no_grad():
        found, expected = transformer(*x), written_out(transformer, *x, 3, **{where: False})
        assert not torch.allclose(found, written_out(transformer, *x, 3), atol=1e-2)
    close(found[x.valid], expected[x.valid])


@pytest.mark.parametrize("where", ["attention", "relu", "embedding", "residual", "output"])
def test_dropout_keeps_what_is_expected_and_is_off_in_evaluation(where, inputs):
    """One at a time: without training the model is the one without dropout, with training it varies."""
    torch.manual_seed(1)
    plain = SequenceModel(MODALITIES, CHANNELS, 4, config()).eval()
    dropping = SequenceModel(MODALITIES, CHANNELS, 4, config(**{f"dropout_{where}": 0.3}))
    dropping.load_state_dict(plain.state_dict())
    close(dropping.eval()(inputs), plain(inputs))
    assert not torch.equal(dropping.train()(inputs), dropping(inputs))


def test_the_embedding_dropout_acts_on_tokens_with_their_positions(inputs):
    """Dropped entirely, nothing of the input is left, not even where it stood."""
    encoder = with_biases(SequenceEncoder(5, config(dropout_embedding=CERTAIN))).train()
    found = encoder(padded([torch.randn(4, 5)]))[0]
    with torch.no_grad():
        nothing = encoder.transformer(torch.zeros(1, 4, 12), torch.ones(1, 4, dtype=torch.bool))[0].T
    close(found, nothing)
    close(found, found[:, :1].expand(-1, 4))


def test_the_output_dropout_acts_inside_the_residual_block(inputs):
    model = with_biases(SequenceModel(MODALITIES, CHANNELS, 4, config(dropout_output=CERTAIN))).train()
    features = model.encode(inputs)
    dropped = model.fuse(features)[0]
    model.fusion.residual[2].p = 0.0
    kept = model.fuse(features)[0]
    first, last = model.fusion.residual[0], model.fusion.residual[3]
    found = dropped - last.bias
    close(kept, found + F.linear(torch.relu(F.linear(found, first.weight, first.bias)), last.weight, last.bias))


def test_the_encoder_is_projection_scale_and_positions(inputs):
    encoder = SequenceEncoder(5, config(encoder_layers=1)).eval()
    x = inputs["text"]
    with torch.no_grad():
        tokens = F.linear(x.values, encoder.project.weight, encoder.project.bias) * math.sqrt(12)
        tokens = tokens + torch.from_numpy(sinusoids(x.values.shape[1], 12)).float()
        expected = written_out(encoder.transformer, tokens, x.valid, 3) * x.valid[..., None]
        close(encoder(x), expected.transpose(1, 2))


def sinusoids(length, width):
    """PE(t, 2i) = sin(t / 10000^(2i / width)), PE(t, 2i + 1) = cos of the same (Vaswani et al., section 3.5)."""
    table = np.zeros((length, width))
    for t in range(length):
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            table[t, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    return table


@pytest.mark.parametrize(("length", "width"), [(1, 2), (50, 40), (600, 40), (7, 12)])
def test_positions_are_the_papers(length, width):
    np.testing.assert_allclose(positions(length, width), sinusoids(length, width), atol=1e-4)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_size_is_the_papers():
    """MOSI, 300/74/35 numbers a step, 5 and 3 layers: 0.38 M in the model and 0.12 M in the classifiers."""
    channels = {"text": 300, "audio": 74, "vision": 35}
    settings = SequenceModelConfig(encoder_layers=5, fusion_layers=3, head_layers=2)
    model = SequenceModel(list(channels), channels, 1, settings)
    heads = sequence_heads(model, 1, settings)
    d = 40
    layer = 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * 2 * d  # attention, feed-forward, two norms
    pooling = d + 2 * d + 2 * (d * d + d)  # class token, last norm, residual block
    encoders = sum(n * d + d + 5 * layer + 2 * d for n in channels.values())
    assert count(model) == encoders + 3 * layer + pooling + (d + 1) == 375_121
    assert count(heads) == 3 * (2 * layer + pooling + (d + 1)) == 128_643
    assert count(model) == pytest.approx(0.38e6, rel=0.05)
    # The release's residual blocks of classifiers use one layer twice.
    assert count(heads) - 3 * (d * d + d) == pytest.approx(0.12e6, rel=0.05)


def test_depths_are_those_of_the_settings():
    model = SequenceModel(MODALITIES, CHANNELS, 1, config(encoder_layers=4, fusion_layers=3))
    assert [len(e.transformer.layers) for e in model.encoders.values()] == [4, 4, 4]
    assert len(model.fusion.transformer.layers) == 3
    heads = sequence_heads(model, 1, config(head_layers=0))
    assert [len(head.pooling.transformer.layers) for head in heads.heads.values()] == [0, 0, 0]


def arrays(*shapes):
    return [{m: np.zeros(shape) for m, shape in zip(MODALITIES, sample, strict=False)} for sample in shapes]


def test_channels_come_from_the_data():
    settled = settle_channels(config(), ("text", "audio"), arrays([(4, 7), (2, 3)], [(1, 7), (9, 3)]))
    assert settled == replace(config(), channels=(7, 3))
    assert settle_channels(settled, ("text", "audio"), arrays([(5, 7), (5, 3)])) == settled


def test_channels_that_differ_are_refused():
    both = r"\{'text': 7, 'audio': 3\} and \{'text': 8, 'audio': 3\}"
    with pytest.raises(DataError, match=f"channels of a time step differ: {both}"):
        settle_channels(config(), ("text", "audio"), arrays([(4, 7), (2, 3)], [(4, 8), (2, 3)]))
    with pytest.raises(DataError, match=f"channels of a time step differ: {both}"):
        settle_channels(config(channels=(8, 3)), ("text", "audio"), arrays([(4, 7), (2, 3)]))


def test_a_network_for_other_modalities_is_refused():
    """Such as a run of three modalities that is evaluated with ``task.modalities=[text]``."""
    with pytest.raises(ConfigError, match=r"model\.channels is \(7, 3\), expected one number for text$"):
        settle_channels(config(channels=(7, 3)), ("text",), arrays([(4, 7)]))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("width", 10, "model.width is 10, expected an even multiple of attention_heads, 3"),
        ("width", 9, "model.width is 9, expected an even multiple"),
        ("width", 0, "at least 1"),
        ("encoder_layers", 0, "at least 1"),
        ("head_layers", -1, "at least 0"),
        ("dropout_relu", 1.0, "model.dropout_relu is 1.0, expected at least 0, below 1"),
        ("dropout_output", -0.1, "at least 0, below 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, value, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        config(**{setting: value})
