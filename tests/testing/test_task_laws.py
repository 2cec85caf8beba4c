"""Each law of ``check_task`` can fail: a task that breaks it, and it alone, is told so."""

import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from cggm_med import distributed
from cggm_med.data.splits import Splits
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.scaffold.packages import CLASSIFICATION
from cggm_med.testing import check_task
from cggm_med.testing.tasks import task_laws

sys.path.insert(0, str(CLASSIFICATION.template))
from newclassification_task.task import NewclassificationTask

sys.path.remove(str(CLASSIFICATION.template))


class Right(NewclassificationTask):
    """The template."""


class Silent(Right):
    """Does not say what it does."""

    description = ""


class Shuffles(Right):
    """Finds its cases in another order each time."""

    found_before = 0

    def read(self, path, say):
        samples = super().read(path, say)
        Shuffles.found_before += 1
        turn = self.found_before % len(samples.samples)
        return type(samples)((*samples.samples[turn:], *samples.samples[:turn]))


class SplitsPersons(Right):
    """Trains on and tests the same person."""

    def default_splits(self):
        splits = super().default_splits()
        return Splits(splits.train[1:], splits.validation, (*splits.test, splits.train[0]))


class Incomplete(Right):
    """Says nothing about the contents of one case."""

    def contents(self):
        return dict(list(super().contents().items())[1:])


class Blind(Right):
    """Takes the name of a case for its contents."""

    def digest(self, sample):
        return sample.id


class Draws(Right):
    """Augments from the global stream of random numbers."""

    def load(self, sample, random):
        scale = 1 if random is None else 1 + 0.1 * torch.rand(())
        return {m: x * scale for m, x in super().load(sample, random).items()}


class Alone(Right):
    """Gives each of several processes everything."""

    def batches(self, first_step, pin_memory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 1)
            patch.setattr(distributed, "rank", lambda: 0)
            return super().batches(first_step, pin_memory)


class DrawsByProcess(Right):
    """Augments otherwise in another process."""

    def load(self, sample, random):
        return {m: x + distributed.rank() for m, x in super().load(sample, random).items()}


class Noisy(LateFusionModel):
    """Adds noise that is drawn across the samples."""

    def fuse(self, features):
        (fused,) = super().fuse(features)
        return (fused + torch.rand(fused.shape[::-1]).T * self.training,)


class DrawsAcross(Right):
    """Its network draws in another order than sample by sample."""

    def model(self):
        return with_network(self, Noisy)


class LeavesItToWorkers(Right):
    """Loads something else in another process."""

    def load(self, sample, random):
        return {m: x + (get_worker_info() is not None) for m, x in super().load(sample, random).items()}


class NeedsAll(LateFusionModel):
    def fuse(self, features):
        if len(features) < len(self.modalities):
            raise KeyError("image")
        return super().fuse(features)


class Counts(LateFusionModel):
    steps = 0

    def fuse(self, features):
        self.steps += self.training
        return tuple(x * (1 + 0.01 * self.steps * self.training) for x in super().fuse(features))


def with_network(task, kind):
    model = super(Right, task).model()
    model.__class__ = kind
    return model


class Demanding(Right):
    """Its network needs every modality."""

    def model(self):
        return with_network(self, NeedsAll)


class Headless(Right):
    """Has no classifier head for one modality."""

    def unimodal_heads(self, model):
        heads = super().unimodal_heads(model).heads
        return UnimodalHeads({m: heads[m] for m in list(heads)[:1]})


class Stubborn(Right):
    """Always has an encoder for each modality that it knows."""

    def model(self):
        chosen, self.modalities = self.modalities, self.known_modalities
        try:
            return super().model()
        finally:
            self.modalities = chosen


class UpsideDown(Right):
    """Its balance score is best where the loss is worst."""

    def score_sums(self, logits, target):
        return super().score_sums(-logits, target)


class Fickle(Right):
    """Findings with something in them that changes each time."""

    def finding(self, logits, target):
        return {**super().finding(logits, target), "mood": time.perf_counter()}


class Skips(Right):
    """Leaves out the last case of an evaluation."""

    def evaluate(self, model, heads, cases, **how):
        yield from super().evaluate(model, heads, cases if len(cases) < 3 else cases[:-1], **how)


class Confuses(Right):
    """Takes what one modality says for what all say."""

    def evaluate_subsets(self, model, subsets, cases, **how):
        for result in super().evaluate_subsets(model, subsets, cases, **how):
            names = list(result.findings)
            result.findings[names[0]] = result.findings[names[1]]
            yield result


class Misreads(Right):
    """Without labels it takes another sample's sound."""

    def read_unlabelled(self, path, modalities, say):
        samples = self.read(path, say).samples
        for sample, other in zip(samples, samples[1:] + samples[:1], strict=True):
            yield replace(sample, target=None, inputs={**sample.inputs, "sound": other.inputs["sound"]})


class Pessimist(Right):
    """Prefers a low accuracy."""

    lower_is_better = True


class Forgets(Right):
    """Its network counts steps in a number that no checkpoint holds."""

    def model(self):
        return with_network(self, Counts)


def change(folder):
    """Another sound of one sample."""
    file = folder / "sound" / "sample007.npy"
    np.save(file, np.load(file) + 1)
    return "sample007"


SAMPLES = 120  # of six persons
TRAINS = "it trains, is scored again and resumes with joint"
# What is wrong, the law that says so and how, and further laws that it breaks by the same fault.
WRONG = [
    (Silent, "it says what it is", "description is empty"),
    (Shuffles, "the same data give the same cases and splits", "find names other cases, or in another order"),
    (SplitsPersons, "the same data give the same cases and splits", "person person.* stands in more than one of"),
    (Incomplete, "contents stand for each prepared case", r"contents\(\) names 119 cases, expected the 120"),
    (Blind, "contents follow the data", "a change of sample007 gives another digest to no case"),
    (
        Draws,
        "a batch depends on its step alone",
        "a second object has other batches",
        "two processes share each batch",
        "workers change nothing",
    ),
    (Alone, "two processes share each batch", r"two processes see .*, expected \('sample"),
    (DrawsByProcess, "two processes share each batch", r"is another in one of two processes"),
    (DrawsAcross, "two processes draw what one does", "the fused logits of sample.* are others in one of two"),
    (LeavesItToWorkers, "workers change nothing", "batches differ when a worker loads them"),
    (Demanding, "the network takes any subset of the modalities", "the network does not take sound alone: KeyError"),
    (
        Headless,
        "the network takes any subset of the modalities",
        "classifier heads of sound, expected of each modality",
        "evaluation gives each case once",
    ),
    (Stubborn, "any modality can be trained alone", r"task.modalities=\[sound\] the network has sound, image"),
    (UpsideDown, "the balance score is best where the loss is least", r"score 0\.0.*expected near 1, and more"),
    (Fickle, "evaluation gives each case once", "evaluate gives other findings the second time"),
    (Skips, "evaluation gives each case once", "evaluate gives results of .*, expected one of each"),
    (Confuses, "subsets are scored as the whole is", "from all modalities accuracy is .*, by evaluate it is"),
    (Misreads, "labels are not needed to predict", "without its label sample.* is predicted as .*, with it as"),
    (Pessimist, "the truth has the best headline", r"accuracy of the truth is 1\.0, expected lower than 0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws") / "data"
    folder.mkdir()
    NewclassificationTask.generate(None, folder)
    table = folder / "labels.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[: 1 + SAMPLES]))
    return folder


def broken(task, folder, **options):
    """What is said of each law that a task breaks."""
    found = {}
    for words, law in task_laws(task, folder, strategies=(), change=change, **options).items():
        try:
            law()
        except AssertionError as error:
            found[words] = str(error)
        except (KeyError, ValueError):
            pass  # what cannot be used at all is reported by the law in question before
    return found


@pytest.mark.parametrize(("task", "law", "message", "too"), [(*wrong[:3], wrong[3:]) for wrong in WRONG])
def test_a_task_that_breaks_a_law_is_told_so(task, law, message, too, data, tmp_path):
    found = broken(task, tmp_path, data=data)
    assert list(found) == [law, *too]
    assert re.search(message, found[law], re.DOTALL)


def test_a_network_that_cannot_be_resumed_is_told_so(data, tmp_path):
    assert list(broken(Forgets, tmp_path / "laws", data=data)) == ["two processes draw what one does"]
    laws = task_laws(Forgets, tmp_path, data=data, strategies=["joint"])
    with pytest.raises(AssertionError, match="a stopped and continued run ends with another model"):
        laws[TRAINS]()


def test_a_task_that_keeps_all_laws_hears_nothing():
    """With the data that it makes itself."""
    check_task(Right, change=change, strategies=())


def test_every_law_is_broken_by_one_of_them(tmp_path):
    laws = set(task_laws(Right, tmp_path, change=change, strategies=["joint"]))
    assert laws == {TRAINS, *(law for _, law, *_ in WRONG)}


def test_the_first_broken_law_is_named_with_the_task(data):
    with pytest.raises(AssertionError, match="^task Silent breaks the law 'it says what it is': description is empty"):
        check_task(Silent, data=data)
