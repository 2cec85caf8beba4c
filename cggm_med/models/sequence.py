"""A network for sequences: one transformer encoder per modality, and one that fuses their tokens.

As in the CGGM paper (Guo et al., NeurIPS 2024, https://arxiv.org/abs/2411.01409, classification and regression tasks):
tokens are projected to a small width, each modality has its own encoder, the tokens of all modalities are concatenated
along time and fused by another. Unlike in the authors' code, padding is masked everywhere, and a separate class token,
not the first token of the concatenation, carries the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cggm_med.config import require
from cggm_med.errors import DataError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHead, UnimodalHeads
from cggm_med.types import Features, Padded


@dataclass(frozen=True)
class SequenceModelConfig:
    """The network of sequences.

    Attributes:
        channels: of each modality, in order: numbers per time step; default: those of the data.
        width: channels of a token.
        attention_heads: of each attention; divides ``width``.
        encoder_layers: of each modality's encoder.
        fusion_layers: of the transformer that fuses.
        head_layers: of each classifier head.
        dropout_attention: of attention weights.
        dropout_relu: inside the feed-forward part.
        dropout_embedding: of tokens before the first layer.
        dropout_residual: of the residual branches.
        dropout_output: before the last layer.
    """

    channels: tuple[int, ...] | None = None
    width: int = 40
    attention_heads: int = 5
    encoder_layers: int = 4
    fusion_layers: int = 2
    head_layers: int = 2
    dropout_attention: float = 0.2
    dropout_relu: float = 0.15
    dropout_embedding: float = 0.2
    dropout_residual: float = 0.15
    dropout_output: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "attention_heads", "encoder_layers", "fusion_layers"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(self.head_layers >= 0, "model.head_layers", self.head_layers, "at least 0")
        divides = self.width % self.attention_heads == 0 and self.width % 2 == 0
        require(divides, "model.width", self.width, f"an even multiple of attention_heads, {self.attention_heads}")
        for name in ("attention", "relu", "embedding", "residual", "output"):
            value = getattr(self, f"dropout_{name}")
            require(0 <= value < 1, f"model.dropout_{name}", value, "at least 0, below 1")


class Transformer(nn.Module):
    """Pre-norm transformer layers over tokens, some of which are padding.

    Args:
        layers: how many; with 0, tokens are only normalised.
        config: widths and dropouts.
    """

    def __init__(self, layers: int, config: SequenceModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens ``(batch, time, width)`` that have attended to the valid ones.

        Args:
            tokens: ``(batch, time, width)``.
            valid: ``(batch, time)`` booleans. In a sample without any, the first token counts as valid, to have
                something to attend to; the result is meaningless.
        """
        usable = valid.clone()
        usable[:, 0] |= ~valid.any(dim=1)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~usable)
        return self.norm(tokens)


class SequenceEncoder(nn.Module):
    """One modality's encoder.

    Args:
        channels: numbers per time step.
        config: of the network.
    """

    def __init__(self, channels: int, config: SequenceModelConfig) -> None:
        super().__init__()
        self.project = nn.Linear(channels, config.width)
        self.dropout = nn.Dropout(config.dropout_embedding)
        self.transformer = Transformer(config.encoder_layers, config)

    def forward(self, x: Padded) -> Tensor:
        """Features ``(batch, width, time)``, zeros after each end."""
        tokens: Tensor = self.project(x.values)
        width = tokens.shape[2]
        tokens = self.dropout(tokens * math.sqrt(width) + positions(tokens.shape[1], width).to(tokens))
        encoded = self.transformer(tokens, x.valid)
        return (encoded * x.valid[..., None]).transpose(1, 2)


class Pooling(nn.Module):
    """A class token that attends to all tokens, and a residual block: one vector per sample.

    Args:
        layers: of the transformer.
        config: of the network.
    """

    def __init__(self, layers: int, config: SequenceModelConfig) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(config.width) * 0.02)
        self.transformer = Transformer(layers, config)
        self.residual = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Dropout(config.dropout_output),
            nn.Linear(config.width, config.width),
        )

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """``(batch, width)`` from tokens ``(batch, time, width)`` and which of them are valid ``(batch, time)``."""
        token = self.token.expand(len(tokens), 1, -1).to(tokens.dtype)
        always = torch.ones_like(valid[:, :1])
        attended = self.transformer(torch.cat([token, tokens], dim=1), torch.cat([always, valid], dim=1))[:, 0]
        return attended + self.residual(attended)


class SequenceModel(MultimodalModel):
    """Transformer encoders, fused by another over the tokens of all modalities that are present.

    Args:
        modalities: names.
        channels: numbers per time step, by modality.
        targets: number of classes or values.
        config: widths, depths and dropouts.

    Example:
        >>> model = SequenceModel(["text", "audio"], {"text": 300, "audio": 74}, 1, SequenceModelConfig())
        >>> x = Padded(torch.randn(2, 7, 300), torch.ones(2, 7, dtype=torch.bool))
        >>> model({"text": x}).shape
        torch.Size([2, 1])
    """

    def __init__(
        self, modalities: Sequence[str], channels: Mapping[str, int], targets: int, config: SequenceModelConfig
    ) -> None:
        super().__init__(modalities)
        self.encoders = nn.ModuleDict({m: SequenceEncoder(channels[m], config) for m in self.modalities})
        self.fusion = Pooling(config.fusion_layers, config)
        self.head = nn.Linear(config.width, targets)

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """One vector per sample, ``(batch, width)``. A sample without any modality gets that of the class token alone.

        Raises:
            ValueError: if no modality is given.
        """
        given = [features[m] for m in self.modalities if m in features]
        if not given:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))
        tokens, valid = zip(*map(_tokens, given), strict=True)
        return (self.fusion(torch.cat(tokens, dim=1), torch.cat(valid, dim=1)),)


class SequenceHead(UnimodalHead):
    """A classifier head on one modality's tokens, built like the fusion.

    Args:
        targets: number of classes or values.
        config: of the network.
    """

    def __init__(self, targets: int, config: SequenceModelConfig) -> None:
        super().__init__()
        self.pooling = Pooling(config.head_layers, config)
        self.last = nn.Linear(config.width, targets)

    def hidden(self, features: Features) -> Tensor:
        """``(batch, width)``."""
        return self.pooling(*_tokens(features))


def settle_channels(
    config: SequenceModelConfig, modalities: Sequence[str], inputs: Iterable[Mapping[str, Any]]
) -> SequenceModelConfig:
    """The configuration with the channels of the data filled in.

    Args:
        config: of the network.
        modalities: names, in order.
        inputs: of each sample, arrays ``(time, channel)`` by modality.

    Raises:
        ConfigError: if the network was made for another number of modalities.
        DataError: if samples differ, or the network was made for other numbers of channels.
    """
    if config.channels is not None:
        names = ", ".join(modalities)
        require(len(config.channels) == len(modalities), "model.channels", config.channels, f"one number for {names}")
    variants = {tuple(sample[m].shape[1] for m in modalities) for sample in inputs}
    if config.channels is not None:
        variants.add(config.channels)
    if len(variants) > 1:
        kinds = " and ".join(str(dict(zip(modalities, channels, strict=True))) for channels in sorted(variants))
        raise DataError(f"channels of a time step differ: {kinds}; use features of one kind, as in training")
    return replace(config, channels=variants.pop())


def require_channels(
    config: SequenceModelConfig, modalities: Sequence[str], inputs: Iterable[Mapping[str, Any]]
) -> None:
    """Refuse samples, of any of the modalities, that a network was not made for; arguments as ``settle_channels``.

    Raises:
        DataError: names the modality and both numbers of channels.
    """
    made_for = dict(zip(modalities, config.channels or (), strict=True))
    for sample in inputs:
        for modality, array in sample.items():
            if array.shape[1] != made_for[modality]:
                raise DataError(
                    f"{modality} has {array.shape[1]} channels at a time step, the network was made for "
                    f"{made_for[modality]}; use features of one kind, as in training"
                )


def sequence_model(config: SequenceModelConfig, modalities: Sequence[str], targets: int) -> SequenceModel:
    """A ``SequenceModel``; the configuration must have its channels filled in."""
    assert config.channels is not None  # noqa: S101 - settled when the data were prepared
    return SequenceModel(modalities, dict(zip(modalities, config.channels, strict=True)), targets, config)


def sequence_heads(model: MultimodalModel, targets: int, config: SequenceModelConfig) -> UnimodalHeads:
    """A head for each modality of a ``SequenceModel``."""
    return UnimodalHeads({m: SequenceHead(targets, config) for m in model.modalities})


def positions(length: int, width: int) -> Tensor:
    """Sinusoidal positions ``(length, width)`` (Vaswani et al. 2017, section 3.5).

    Example:
        >>> positions(1, 4)
        tensor([[0., 1., 0., 1.]])
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _tokens(features: Features) -> tuple[Tensor, Tensor]:
    """Tokens ``(batch, time, width)``, zeros where they are not valid, and which are valid, ``(batch, time)``."""
    tokens = features.maps[-1].transpose(1, 2)
    valid = features.valid
    if valid is None:
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if features.present is not None:
        valid = valid & features.present[:, None]
    # Attention gives the others weight 0, but 0 times NaN is NaN.
    return torch.where(valid[..., None], tokens, 0), valid


def _layer(config: SequenceModelConfig) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        config.width,
        config.attention_heads,
        dim_feedforward=4 * config.width,
        dropout=config.dropout_residual,
        norm_first=True,
        batch_first=True,
    )
    layer.self_attn.dropout = config.dropout_attention
    layer.dropout.p = config.dropout_relu
    return layer
