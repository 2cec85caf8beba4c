"""The laws of fusions hold for the built-in one, and each of them fails for a fusion that breaks it."""

import pytest
import torch
from torch import nn

from cggm_med import Fusion, SegmentationModel, registry
from cggm_med.errors import PluginError
from cggm_med.models.fusion import MaskedFusion, PresenceFusion, PresenceResidualFusion
from cggm_med.testing import check_fusion
from cggm_med.types import Features


@pytest.mark.parametrize("name", registry.names(registry.FUSIONS))
def test_the_laws_hold(name):
    check_fusion(name)


class Plain(Fusion):
    """Keeps all laws by the base class's own way; those below break one each."""

    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        self.parts = nn.ModuleDict({m: nn.ModuleList(nn.Conv3d(c, c, 1) for c in channels) for m in modalities})

    def fuse(self, maps, present):
        count = self.count(present).view(-1, 1, 1, 1, 1)
        return tuple(
            sum(self.part(m, scale)(x[scale]) * self.weight(present[m]) for m, x in maps.items()) / count
            for scale in range(len(self.channels))
        )

    def part(self, modality, scale):
        return self.parts[modality][scale]

    def weight(self, present):
        return present.view(-1, 1, 1, 1, 1)

    def count(self, present):
        return sum(present.values()).clamp_min(1)


def test_the_plain_way_is_the_masked_mean():
    """What a fusion gets for nothing from the base class, compared with the built-in one, which does without it."""
    check_fusion(Plain)
    plain, masked = Plain(("a", "b"), (2,)), MaskedFusion(("a", "b"), (2,))
    masked.load_state_dict({k.replace("parts", "projections"): v for k, v in plain.state_dict().items()})
    maps = {m: Features((torch.randn(3, 2, 4, 4, 4),)) for m in "ab"}
    some = {"a": maps["a"]._replace(present=torch.tensor([True, False, False])), "b": maps["b"]}
    none = {m: f._replace(present=torch.tensor([True, False, True])) for m, f in some.items()}
    views = [maps, {"b": maps["b"]}, some, none]
    torch.testing.assert_close(plain(views), masked(views))
    assert not plain(views)[3][0][1].any()


class Stirred(PresenceFusion):
    """As after some training; at the start all effects are 0."""

    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        for effects in self.effects:
            nn.init.normal_(effects)


def test_the_laws_hold_once_absence_has_effects():
    check_fusion(Stirred)


def test_absence_has_no_effect_at_the_start_nor_where_nothing_is_absent():
    maps = {m: Features((torch.randn(3, 2, 4, 4, 4),)) for m in "ab"}
    masked, presence, stirred = (cls(("a", "b"), (2,)) for cls in (MaskedFusion, PresenceFusion, Stirred))
    for other in (presence, stirred):
        other.load_state_dict(masked.state_dict(), strict=False)
    some = {**maps, "a": maps["a"]._replace(present=torch.tensor([True, False, False]))}
    (expected,), (new,), (learned,) = (fusion([some])[0] for fusion in (masked, presence, stirred))
    assert torch.equal(new, expected)
    assert torch.equal(learned[0], expected[0])
    assert not torch.isclose(learned[1:], expected[1:]).any()


def test_effects_of_absence_by_hand():
    """Of maps of 5: without a, 5 * (1 + 0.5) + 3; without b, 5 * (1 - 0.2) + 1; without both, nothing."""
    fusion = PresenceResidualFusion(("a", "b"), (1,))
    for m in "ab":
        nn.init.ones_(fusion.projections[m][0].weight)
        nn.init.zeros_(fusion.projections[m][0].bias)
    fusion.effects[0].data = torch.tensor([[[0.5], [3.0]], [[-0.2], [1.0]]])
    five = Features((torch.full((1, 1, 1, 1, 1), 5.0),))
    nobody = five._replace(present=torch.tensor([False]))
    views = [{"a": five, "b": five}, {"b": five}, {"a": five, "b": nobody}, {"a": nobody, "b": nobody}]
    assert [fused.item() for (fused,) in fusion(views)] == [5.0, 10.5, 5.0, 0.0]
    assert fusion.over_heads


class OneChannel(Plain):
    def fuse(self, maps, present):
        return tuple(x[:, :1] for x in super().fuse(maps, present))


class ByTheOthers(Plain):
    def count(self, present):
        return sum(present.values()) - 1


class ByNobody(Plain):
    def count(self, present):
        return sum(present.values())


class Dropping(Plain):
    def fuse(self, maps, present):
        return tuple(nn.functional.dropout(x) for x in super().fuse(maps, present))


class ZerosForTheAbsent(Plain):
    def weight(self, present):
        return 1


class ByTheBatch(Plain):
    def weight(self, present):
        return present.float().mean()


class BatchNorm(Plain):
    shared = ("norms",)

    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        self.norms = nn.ModuleList(nn.BatchNorm3d(c) for c in channels)

    def fuse(self, maps, present):
        return tuple(norm(x) for norm, x in zip(self.norms, super().fuse(maps, present), strict=True))


class FirstGiven(Plain):
    def forward(self, views):
        firsts = [min(map(self.modalities.index, view)) == self.modalities.index(next(iter(view))) for view in views]
        return [tuple(x * (1 + f) for x in maps) for maps, f in zip(super().forward(views), firsts, strict=True)]


class AfterTheFirst(Plain):
    def forward(self, views):
        first, *others = super().forward(views)
        return [first, *(tuple(x + y for x, y in zip(maps, first, strict=True)) for maps in others)]


class InPlace(Plain):
    def fuse(self, maps, present):
        for m in maps:
            maps[m][0].relu_()
        return super().fuse(maps, present)


class AllInTurn(Plain):
    def fuse_in_turn(self, encoded):
        given = dict(encoded)
        return tuple(x * len(given) / len(self.modalities) for x in super().fuse_in_turn(given.items()))


class NothingIsFine(Plain):
    def forward(self, views):
        return [super(NothingIsFine, self).forward([view])[0] if view else () for view in views]


class InAList(Plain):
    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        self.parts = nn.ModuleList(self.parts.values())

    def part(self, modality, scale):
        return self.parts[self.modalities.index(modality)][scale]


class SaidToBeShared(InAList):
    shared = ("parts",)


class PartOfAnother(Plain):
    def part(self, modality, scale):
        return self.parts[self.modalities[self.modalities.index(modality) - 1]][scale]


class Twice(Plain):
    def modality_modules(self, modality):
        return [*super().modality_modules(modality), self.parts[self.modalities[0]]]


class Idle(Plain):
    shared = ("idle",)

    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        self.idle = nn.Linear(1, 1)


class HiddenState(Plain):
    def __init__(self, modalities, channels):
        super().__init__(modalities, channels)
        self.factor = float(torch.rand(()))

    def fuse(self, maps, present):
        return tuple(x * self.factor for x in super().fuse(maps, present))


class LooksAtTheMask(Plain):
    def fuse(self, maps, present):
        seen = [m for m, p in present.items() if p.any()] or list(maps)
        return super().fuse({m: maps[m] for m in seen}, {m: present[m] for m in seen})


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        (OneChannel, r"'fused maps are as large as a modality's': of 3 modalities expected maps \[\(2, 4, 4, 6, 8\)"),
        (ByTheOthers, "'fused maps are finite': a map is not finite when only flair is there"),
        (ByNobody, "'a sample without any modality does no harm': .* the gradient of parts"),
        (Dropping, "'in evaluation mode it repeats itself'"),
        (ZerosForTheAbsent, "'an absent modality was never loaded': flair marked absent"),
        (ByTheBatch, "'samples may differ in what they lack': when one of two samples lacks flair"),
        (BatchNorm, "'samples do not touch one another': in training mode"),
        (FirstGiven, "'the order of the modalities does not matter'"),
        (AfterTheFirst, "'views do not touch one another': several views at once are not the views one by one"),
        (InPlace, "'views do not touch one another': it changes the maps"),
        (AllInTurn, "'fused in turn is fused at once'"),
        (NothingIsFine, "'nothing to fuse is an error': a view without any modality is fused"),
        (InAList, "'every parameter has an owner': InAList does not say to which modality parts"),
        (Twice, r"'every parameter has an owner': parts\.flair\.0\.weight, .* belongs to flair and to t1"),
        (SaidToBeShared, r"'owners are those that train': parts\.0\.0\.bias, .* learns from flair only"),
        (PartOfAnother, r"'owners are those that train': parts\.flair\.0\.bias, .* learns without flair"),
        (Idle, r"'owners are those that train': no gradient reaches idle\.weight, idle\.bias"),
        (HiddenState, "'the state dictionary is all its state'"),
        (LooksAtTheMask, "'it has shapes on the meta device': "),
    ],
)
def test_each_law_can_fail(fusion, message):
    with pytest.raises(AssertionError, match=f"fusion {fusion.__name__} breaks the law {message}"):
        check_fusion(fusion)


def test_a_network_refuses_parameters_without_an_owner():
    with pytest.raises(
        PluginError, match=r"InAList does not say .* parts\.0\.0\.weight, .*keys a, b, or name it in 'sh"
    ):
        SegmentationModel(["a", "b"], 1, (2, 4), fusion=InAList)


@pytest.mark.parametrize("fusion", [Plain, BatchNorm])
def test_a_network_balances_what_belongs_to_a_modality(fusion):
    """Authority: autograd, as in the laws of the network; what is shared belongs to none."""
    model = SegmentationModel(["a", "b"], 1, (2, 4), fusion=fusion)
    image = torch.randn(1, 1, 8, 8, 8)
    model({"a": image}).sum().backward()
    without_gradient = {id(p) for p in model.parameters() if p.grad is None}
    assert without_gradient == {id(p) for p in model.modality_parameters("b")}
    assert any(p is model.fusion.parts["b"][0].weight for p in model.modality_parameters("b"))
