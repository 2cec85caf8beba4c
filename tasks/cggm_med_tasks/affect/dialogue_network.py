"""A network for emotions in conversations, which reads each utterance from its own modalities and its dialogue.

The backbone follows M3Net (Chen et al., CVPR 2023) and MMGCN (Hu et al., ACL 2021): a recurrent text encoder, linear
audio and visual encoders, and a fusion by a hypergraph and a graph whose nodes are the modalities of the utterances.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cggm_med.errors import MissingExtra
from cggm_med.models.base import MultimodalModel
from cggm_med.models.batch_norm import SharedBatchNorm
from cggm_med.models.heads import UnimodalHead
from cggm_med.types import Features, Outputs, Padded


class UtteranceEncoder(nn.Module, ABC):
    """Base of encoders of one modality's utterances; adds embeddings of the speaker and of the modality.

    The speaker travels at the end of each modality's channels, so that any subset of the modalities knows who speaks.

    Args:
        channels: length of an utterance's feature vector, without the speaker.
        speakers: length of the speaker's one-hot vector, which follows the features.
        width: channels of the result.
    """

    def __init__(self, channels: int, speakers: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.speakers = speakers
        self.speaker_embedding = nn.Linear(speakers, width, bias=False)
        self.modality_embedding = nn.Parameter(torch.zeros(width))

    @abstractmethod
    def content(self, x: Padded) -> Tensor:
        """``(dialogue, utterance, width)`` from the features alone, ``(dialogue, utterance, channels)``."""

    def forward(self, x: Padded) -> Tensor:
        """``(dialogue, width, utterance)``, zeros after the end, from ``(dialogue, utterance, channels + speakers)``.

        Raises:
            ValueError: if the input has another number of channels.
        """
        given = x.values.shape[-1]
        if given != self.channels + self.speakers:
            raise ValueError(
                f"an utterance has {given} channels, expected {self.channels} features and then {self.speakers} of its "
                f"speaker, {self.channels + self.speakers} in all"
            )
        valid = x.valid[..., None]
        # What stands after the end never counts, not even as the NaN of a gradient 0 * NaN.
        features, speaker = torch.where(valid, x.values, 0).split([self.channels, self.speakers], dim=-1)
        embeddings = self.speaker_embedding(speaker) + self.modality_embedding
        return torch.where(valid, self.content(Padded(features, x.valid)) + embeddings, 0).transpose(1, 2)


class LinearEncoder(UtteranceEncoder):
    """A linear layer on each utterance, for audio and video; the modality embedding is its bias.

    Arguments are those of the base class.

    Example:
        >>> audio = Padded(torch.randn(2, 5, 300 + 9), torch.ones(2, 5, dtype=torch.bool))
        >>> LinearEncoder(channels=300, speakers=9, width=16)(audio).shape
        torch.Size([2, 16, 5])
    """

    def __init__(self, channels: int, speakers: int, width: int) -> None:
        super().__init__(channels, speakers, width)
        self.linear = nn.Linear(channels, width, bias=False)

    def content(self, x: Padded) -> Tensor:
        """See the base class."""
        return self.linear(x.values)


class TextEncoder(UtteranceEncoder):
    """Several descriptions of a text, normalised and averaged, read in both directions along the dialogue.

    Batch normalisation takes its statistics over the utterances of all dialogues and not over the padding, so that they
    do not depend on how dialogues are grouped by length. They still depend on the batch: a batch that is computed in
    parts is normalised part by part.

    Args:
        channels: of all streams together; four times 1024 for the last four layers of RoBERTa.
        speakers: see the base class.
        width: see the base class; half of it for each direction.
        streams: equally long descriptions, one after the other.
        layers: of the recurrent network.

    Raises:
        ValueError: if the channels cannot be shared out among the streams, or the width between the directions.
    """

    def __init__(self, channels: int, speakers: int, width: int, streams: int = 1, layers: int = 2) -> None:
        super().__init__(channels, speakers, width)
        if channels % streams:
            raise ValueError(f"{channels} text channels are not a whole multiple of {streams} streams")
        if width % 2:
            raise ValueError(f"width is {width}, expected an even number: half of it for each direction")
        self.streams = streams
        self.norm = nn.BatchNorm1d(channels)
        self.linear = nn.Linear(channels // streams, width)
        self.gru = nn.GRU(width, width // 2, layers, batch_first=True, bidirectional=True)

    def content(self, x: Padded) -> Tensor:
        """See the base class."""
        utterances = self._normalise(x.values[x.valid]).unflatten(1, (self.streams, -1)).mean(1)
        utterances = self.linear(utterances)
        dialogues = utterances.new_zeros(*x.valid.shape, utterances.shape[1])
        dialogues[x.valid] = utterances
        packed = pack_padded_sequence(dialogues, x.valid.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.valid.shape[1])
        return read

    def _normalise(self, utterances: Tensor) -> Tensor:
        norm = self.norm
        if self.training and len(utterances) == 1 and not isinstance(norm, SharedBatchNorm):
            # A single utterance has no spread; torch refuses it. The running statistics stand in, as in evaluation.
            return F.batch_norm(utterances, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return norm(utterances)


class DialogueModel(MultimodalModel):
    """Encoders of utterances, fusion by a hypergraph and a graph, one linear layer for each utterance.

    Nodes are the present modalities of each utterance. The hypergraph has a hyperedge for each utterance, across its
    modalities, and one for each modality of a dialogue; the graph links the same nodes in pairs. The hypergraph
    convolution averages (Bai et al., 2021); the frequency-adaptive one (Bo et al., AAAI 2021) has signed weights, so
    that it can also sharpen what sets an utterance apart from its dialogue. Absent modalities have no node and leave
    zeros in the concatenation; as in ``LateFusionModel`` the others are scaled by (all modalities / present ones).

    Args:
        encoders: each maps ``Padded`` to ``(dialogue, width, utterance)``, such as ``LinearEncoder`` and
            ``TextEncoder``.
        width: channels of each encoder; each of the two graphs has half of it.
        classes: number of emotions.
        hypergraph_layers: convolutions of the hypergraph, at least one.
        graph_layers: convolutions of the graph.
        dropout: of the fused features.

    Raises:
        MissingExtra: if torch-geometric is not installed.
        ValueError: if the width is odd or there is no hypergraph convolution.

    Example:
        >>> encoders = {"text": TextEncoder(8, 2, width=4, streams=4), "audio": LinearEncoder(3, 2, width=4)}
        >>> model = DialogueModel(encoders, width=4, classes=6)
        >>> valid = torch.tensor([[True, True, True], [True, False, False]])
        >>> inputs = {"text": Padded(torch.randn(2, 3, 10), valid), "audio": Padded(torch.randn(2, 3, 5), valid)}
        >>> model(inputs).shape
        torch.Size([2, 6, 3])
    """

    head: nn.Conv1d

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        width: int,
        classes: int,
        hypergraph_layers: int = 1,
        graph_layers: int = 1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(tuple(encoders))
        if width % 2:
            raise ValueError(f"width is {width}, expected an even number: half of it for each graph")
        if hypergraph_layers < 1:
            raise ValueError(f"hypergraph_layers is {hypergraph_layers}, expected at least 1")
        hypergraph_convolution, graph_convolution = _convolutions()
        self.width = width
        half = width // 2
        self.encoders = nn.ModuleDict(dict(encoders))
        self.hypergraph = nn.ModuleList(
            hypergraph_convolution(half if layer else width, half) for layer in range(hypergraph_layers)
        )
        self.graph_input = nn.Linear(width, half)
        # Without self-loops, as in the paper: what is a node's own comes back in every layer (x_0).
        self.graph = nn.ModuleList(graph_convolution(half, add_self_loops=False) for _ in range(graph_layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv1d(width * len(self.modalities), classes, kernel_size=1)

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """The nodes of each utterance side by side, ``(dialogue, modalities x width, utterance)``.

        Raises:
            ValueError: if no modality is given.
        """
        given = [m for m in self.modalities if m in features]
        if not given:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))
        some = features[given[0]].maps[-1]
        absent = Features((torch.zeros_like(some),), present=some.new_zeros(len(some), dtype=torch.bool))
        each = [features.get(m, absent) for m in self.modalities]
        present = torch.stack([_present(f) for f in each], dim=1)
        maps = torch.stack([f.maps[-1] for f in each], dim=1).transpose(2, 3)
        # In half precision the sums over a long dialogue, and even its number of utterances, would be rounded.
        with torch.autocast(maps.device.type, enabled=False):
            nodes = self._convolve(maps[present].to(torch.promote_types(maps.dtype, torch.float32)), present)
        fused = nodes.new_zeros(*present.shape, nodes.shape[1])
        fused[present] = nodes
        scale = len(self.modalities) / present.sum(1, keepdim=True).clamp_min(1).to(fused.dtype)
        return (self.dropout(F.relu(fused.transpose(2, 3).flatten(1, 2) * scale)),)

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """The modality's nodes, ``(dialogue, width, utterance)``.

        They have heard from the others. Hence what a modality adds to the logits does not depend on it alone, and there
        are no ``linear_shares``.
        """
        return outputs.fused[0][:, self._slice(modality)]

    def head_weight(self, modality: str) -> Tensor:
        """The slice of the head's weight that reads this modality's nodes."""
        return self.head.weight[:, self._slice(modality)].flatten(1)

    def _slice(self, modality: str) -> slice:
        start = self.modalities.index(modality) * self.width
        return slice(start, start + self.width)

    def _convolve(self, nodes: Tensor, present: Tensor) -> Tensor:
        """``(node, width)`` from ``(node, width)``; ``present`` is ``(dialogue, modality, utterance)``."""
        dialogues, modalities, utterances = present.shape
        incidence, edges = hyperedges(present), graph_edges(present)
        averaged = nodes
        for layer in self.hypergraph:
            averaged = F.relu(layer(averaged, incidence, num_edges=dialogues * (utterances + modalities)))
        adapted = start = self.graph_input(nodes)
        for layer in self.graph:
            adapted = layer(adapted, start, edges)
        return torch.cat([averaged, adapted], dim=1)


class UtteranceHead(UnimodalHead):
    """A linear layer on each utterance of one modality.

    It reads what the fused head reads of the modality, but from before the fusion: as many channels, and after a ReLU.
    So their gradients can be compared, and a linear encoder is followed by something that is not linear.

    Args:
        width: channels of the encoder.
        classes: number of emotions.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.last = nn.Conv1d(width, classes, kernel_size=1)

    def hidden(self, features: Features) -> Tensor:
        """Features ``(dialogue, width, utterance)``."""
        return F.relu(features.maps[-1])


def hyperedges(present: Tensor) -> Tensor:
    """Which node lies in which hyperedge: one for each utterance, then one for each modality of each dialogue.

    Args:
        present: ``(dialogue, modality, utterance)`` booleans; nodes are numbered in this order.

    Returns:
        ``(2, 2 x node)``: nodes and their hyperedges.

    Example:
        >>> hyperedges(torch.tensor([[[True, True], [True, False]]]))  # utterances 0 and 1, modalities 2 and 3
        tensor([[0, 1, 2, 0, 1, 2],
                [0, 1, 0, 2, 2, 3]])
    """
    dialogues, modalities, utterances = present.shape
    dialogue, modality, utterance = present.nonzero().unbind(1)
    node = torch.arange(len(dialogue), device=present.device)
    of_utterance = dialogue * utterances + utterance
    of_modality = dialogues * utterances + dialogue * modalities + modality
    return torch.stack([node.repeat(2), torch.cat([of_utterance, of_modality])])


def graph_edges(present: Tensor) -> Tensor:
    """Edges between the modalities of an utterance and between the utterances of a modality, in both directions.

    Args:
        present: ``(dialogue, modality, utterance)`` booleans; nodes are numbered in this order.

    Returns:
        ``(2, edge)``: sources and targets.

    Example:
        >>> graph_edges(torch.tensor([[[True, True], [True, False]]]))
        tensor([[0, 1, 0, 2],
                [1, 0, 2, 0]])
    """
    number = torch.where(present, present.flatten().cumsum(0).view_as(present) - 1, -1)
    return torch.cat([_pairs(number.flatten(0, 1)), _pairs(number.transpose(1, 2).flatten(0, 1))], dim=1)


def _pairs(groups: Tensor) -> Tensor:
    """All ordered pairs of different members, ``(2, pair)``, from ``(group, member)`` with -1 where nobody is."""
    present = groups >= 0
    different = ~torch.eye(groups.shape[1], dtype=torch.bool, device=groups.device)
    group, source, target = (present[:, :, None] & present[:, None, :] & different).nonzero().unbind(1)
    return torch.stack([groups[group, source], groups[group, target]])


def _present(features: Features) -> Tensor:
    """Which utterances have this modality, ``(dialogue, utterance)``."""
    x = features.maps[-1]
    present = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool, device=x.device)
    if features.valid is not None:
        present = present & features.valid
    return present if features.present is None else present & features.present[:, None]


def _convolutions() -> tuple[Any, Any]:
    """The hypergraph and the graph convolution of torch-geometric."""
    try:
        with warnings.catch_warnings():
            # While it is imported, torch-geometric uses torch.jit.script, which newer torch versions deprecate.
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn import FAConv, HypergraphConv
    except ModuleNotFoundError as error:
        raise MissingExtra("the dialogue network", "torch-geometric", "dialogue") from error
    return HypergraphConv, FAConv
