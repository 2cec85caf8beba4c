"""Laws that every task keeps, whatever it predicts from what."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from cggm_med import distributed, registry
from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.balance_scores import mean_score
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step, seed_network
from cggm_med.runs.settings import make_config
from cggm_med.strategies.joint import Joint, JointConfig
from cggm_med.task.base import CaseResult, Task
from cggm_med.task.samples import SampleTask
from cggm_med.testing.laws import Laws, check, expect
from cggm_med.testing.runs import equal, expect_same_run
from cggm_med.training.whole_batch import draws_of_whole_batch
from cggm_med.types import Batch, Padded

CPU = torch.device("cpu")
# Two epochs of two steps of four samples, everything written down at once.
SHORT = (
    "train.epochs=2",
    "train.steps_per_epoch=2",
    "train.checkpoint_every=1",
    "train.batch_size=4",
    "train.log_every=1",
    "train.validate_every=1",
    "data.workers=0",
)
STEPS = 4


def check_task(
    task: str | type[Task],
    *,
    data: Path | None = None,
    settings: Sequence[str] = (),
    strategies: Sequence[str] = ("joint", "cggm"),
    change: Callable[[Path], str] | None = None,
) -> None:
    """Try a task on a small data set and require what every task promises; takes some seconds.

    Args:
        task: registered name, or the class.
        data: small data in the task's layout; default: what the task makes itself.
        settings: such as ``model.width=8``, to make it small.
        strategies: to train with.
        change: changes one case in a folder of data, such as a value in one of its files, and returns the id of the
            case; None: what a change of the data does is not tried.

    Raises:
        AssertionError: says which law is broken, and how.
    """
    with tempfile.TemporaryDirectory() as folder:
        laws = task_laws(task, Path(folder), data=data, settings=settings, strategies=strategies, change=change)
        check(laws, f"task {task if isinstance(task, str) else task.__name__}")


def task_laws(
    task: str | type[Task],
    folder: Path,
    *,
    data: Path | None = None,
    settings: Sequence[str] = (),
    strategies: Sequence[str] = ("joint", "cggm"),
    change: Callable[[Path], str] | None = None,
) -> Laws:
    """What ``check_task`` requires, to be run one by one, such as by ``pytest.mark.parametrize``; arguments as there.

    The folder is for caches and runs, and must outlive the laws.
    """
    cls = registry.load(registry.TASKS, task) if isinstance(task, str) else task
    name = task if isinstance(task, str) else task.__name__.lower()
    candidate = Candidate(cls, name, folder, data, tuple(settings))
    laws: dict[str, Callable[[], None]] = {}
    of_samples = (the_truth_has_the_best_headline, labels_are_not_needed_to_predict)
    for law in (*LAWS, *(of_samples if issubclass(cls, SampleTask) else ())):
        laws[law.__name__.replace("_", " ")] = partial(law, candidate)
    if change is not None:
        laws["contents follow the data"] = partial(contents_follow_the_data, candidate, change)
    for strategy in strategies:
        words = f"it trains, is scored again and resumes with {strategy}"
        laws[words] = partial(it_trains_is_scored_again_and_resumes, candidate, strategy)
    if isinstance(task, str):
        return laws
    return {words: partial(_registered, candidate, law) for words, law in laws.items()}


@dataclass(frozen=True)
class Candidate:
    """A task on trial; see ``task_laws``."""

    cls: type[Task]
    name: str
    folder: Path
    data: Path | None
    settings: tuple[str, ...]

    def words(self) -> list[str]:
        """All settings, as on the command line."""
        paths = [f"data.cache={self.folder / 'cache'}", *([f"data.path={self.data}"] if self.data else ())]
        return [*SHORT, *paths, *self.settings]

    def new(self, *words: str) -> Task:
        """A new one, with further settings, that has not looked for its data."""
        return self.cls(make_config(self.name, [parse_overrides([*self.words(), *words])]))

    def prepared(self, *words: str) -> Task:
        """A new one, with further settings, whose data are ready."""
        task = self.new(*words)
        task.find(_quiet)
        task.prepare(task.default_splits(), _quiet)
        return task

    @cached_property
    def ready(self) -> Task:
        """One for all laws that leave it as it is."""
        return self.prepared()


def it_says_what_it_is(candidate: Candidate) -> None:
    """``cggm-med tasks``, reports and the docs need it."""
    cls = candidate.cls
    expect(bool(cls.description), "description is empty, expected one line for 'cggm-med tasks'")
    expect(bool(cls.__doc__), "the class has no docstring, expected one that says what it does")
    known = candidate.ready.known_modalities
    expect(0 < len(set(known)) == len(known), f"known_modalities is {known}, expected each modality once")
    for embedded in (True, False):
        preset = cls.default_preset(embedded)
        expect(preset in cls.presets, f"default_preset gives '{preset}', expected one of {', '.join(cls.presets)}")
    targets, rules = candidate.ready.targets, candidate.ready.rules()
    expect(bool(targets), "targets is empty after prepare, expected the names of what is predicted")
    said = bool(rules) and all(isinstance(rule, str) and rule for rule in rules.values())
    expect(said, f"rules() gives {rules}, expected a definition of each score")


def the_same_data_give_the_same_cases_and_splits(candidate: Candidate) -> None:
    """In any process, and after a resume; no group stands on two sides."""
    first, second = candidate.new(), candidate.new()
    ids, again = first.find(_quiet), second.find(_quiet)
    twice = sorted({id for id in ids if ids.count(id) > 1})
    expect(not twice, f"find names {', '.join(twice)} more than once")
    expect(ids == again, "find names other cases, or in another order, the second time")
    splits = first.default_splits()
    expect(splits == second.default_splits(), "default_splits divides the same cases otherwise the second time")
    used = [id for _, part in splits.items() for id in part]
    strangers = sorted(set(used) - set(ids))
    expect(not strangers, f"default_splits names {', '.join(strangers)}, which find did not")
    expect(len(set(used)) == len(used), "default_splits puts a case into two splits")
    expect(bool(splits.train and splits.test), "default_splits leaves training or test empty")
    with contextlib.suppress(ConfigError):  # such a task cannot be cross-validated
        groups = {member.id: member.group for member in first.members}
        sides = [{groups[id] for id in part} for _, part in splits.items()]
        shared = sorted(set.union(*sides)) if sum(map(len, sides)) != len(set.union(*sides)) else []
        shared = [group for group in shared if sum(group in side for side in sides) > 1]
        kind = candidate.cls.group_kind
        expect(not shared, f"{kind} {', '.join(shared)} stands in more than one of training, validation and test")


def contents_stand_for_each_prepared_case(candidate: Candidate) -> None:
    """By them a run notices that its data were changed."""
    task, again = candidate.ready, candidate.prepared()
    contents = task.contents()
    used = {id for _, part in task.splits.items() for id in part}
    expect(set(contents) == used, f"contents() names {len(contents)} cases, expected the {len(used)} of the splits")
    lacks = [id for id, digests in contents.items() if not digests.get("prepared")]
    expect(not lacks, f"contents() gives no digest 'prepared' of {', '.join(lacks[:3])}")
    expect(contents == again.contents(), "contents() differs the second time, although the data are the same")


def contents_follow_the_data(candidate: Candidate, change: Callable[[Path], str]) -> None:
    """A changed case has another digest, and no other case has."""
    before = candidate.ready.contents()
    source = candidate.data
    if source is None:
        (source,) = (candidate.folder / "cache" / "generated").glob(f"{candidate.name}-v*")
    copied = candidate.folder / "changed"
    shutil.copytree(source, copied)
    same = candidate.prepared(f"data.path={copied}").contents()
    id = change(copied)
    after = candidate.prepared(f"data.path={copied}").contents()
    expect(id in before, f"the case that was changed, {id}, is in no split")
    prepared = [{case: digests["prepared"] for case, digests in each.items()} for each in (before, same, after)]
    expect(prepared[0] == prepared[1], "the same data in another folder have other digests")
    changed = [case for case in prepared[0] if prepared[2].get(case) != prepared[0][case]]
    expect(changed == [id], f"a change of {id} gives another digest to {', '.join(changed) or 'no case'}")


def a_batch_depends_on_its_step_alone(candidate: Candidate) -> None:
    """Whatever is drawn at random, so that a resumed training sees what it would have seen."""
    task = candidate.ready
    batches, again = list(task.batches(0, False)), list(candidate.prepared().batches(0, False))
    expect(len(batches) == STEPS, f"{len(batches)} batches for {STEPS} steps")
    for batch in batches:
        strangers = sorted(set(batch.ids) - set(task.splits.train))
        expect(not strangers, f"a training batch holds {', '.join(strangers)}, which is no training case")
        expect(set(batch.inputs) <= set(task.modalities), f"a batch holds {', '.join(batch.inputs)}")
        sizes = {len(batch.ids), len(batch.target), *(len(_values(x)) for x in batch.inputs.values())}
        expect(sizes == {4}, f"a batch of 4 samples has inputs, target and ids of lengths {sorted(sizes)}")
        bad = [m for m, x in batch.inputs.items() if not torch.isfinite(_values(x)).all()]
        expect(not bad, f"{', '.join(bad)} of {', '.join(batch.ids)} is not finite")
    expect(_equal(batches, again), "a second object has other batches in the same steps")
    rest = list(task.batches(STEPS - 1, False))
    expect(_equal(rest, batches[STEPS - 1 :]), f"the batches from step {STEPS - 1} on are not those of the whole run")


def two_processes_share_each_batch(candidate: Candidate) -> None:
    """Each sees every other sample of what one process would see, loaded and augmented alike."""
    task, parts = candidate.ready, []
    whole = list(task.batches(0, False))
    for rank in range(2):
        with mock.patch.multiple(distributed, world_size=lambda: 2, rank=lambda rank=rank: rank):
            parts.append(list(task.batches(0, False)))
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            found = f"{[share.ids for share in shares]}, expected {batch.ids} shared out between them in turn"
            expect(share.ids == batch.ids[rank::2], f"two processes see {found}")
            for modality, x in share.inputs.items():
                mine, same = _values(x), _values(batch.inputs[modality])[rank::2]
                # Each pads to the longest sequence of its own.
                same = same[:, : mine.shape[1]] if isinstance(x, Padded) else same
                expect(equal(mine, same), f"{modality} of {', '.join(share.ids)} is another in one of two processes")


def two_processes_draw_what_one_does(candidate: Candidate) -> None:
    """Such as dropout: what the network makes of a sample in training does not depend on who computes it."""
    task = candidate.ready
    torch.manual_seed(0)
    model = task.model().train()
    heads = task.unimodal_heads(model).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # it is over the samples of all processes, which there are not here
    batch = next(iter(task.batches(0, False)))

    def logits(rank: int, processes: int) -> dict[str, Tensor]:
        mine = slice(rank, None, processes)
        inputs = {
            m: Padded(x.values[mine], x.valid[mine]) if isinstance(x, Padded) else x[mine]
            for m, x in batch.inputs.items()
        }
        samples = len(batch.ids[mine])
        seed_network(1, CPU)
        several = mock.patch.multiple(distributed, world_size=lambda: processes, rank=lambda: rank)
        with torch.no_grad(), several, draws_of_whole_batch(samples, Step(0, STEPS)):
            features = model.encode(inputs)
            own = heads(features)
            return {"fused": model.head(model.fuse(features)[0]), **{m: x.logits for m, x in own.items()}}

    whole = logits(0, 1)
    for rank in range(2):
        for who, x in logits(rank, 2).items():
            same = torch.allclose(x, whole[who][rank::2], rtol=1e-3, atol=1e-4)
            expect(
                same,
                f"with the same random numbers the {who} logits of {', '.join(batch.ids[rank::2])} are others in one "
                "of two processes; draw into tensors whose first axis are the samples, as dropout does",
            )


def workers_change_nothing(candidate: Candidate) -> None:
    """Data loaded by other processes are the same."""
    alone = list(candidate.ready.batches(STEPS - 2, False))
    with warnings.catch_warnings():  # Python 3.12 and later warn whenever a process that has threads is forked
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        helped = list(candidate.prepared("data.workers=1").batches(STEPS - 2, False))
    expect(_equal(helped, alone), "batches differ when a worker loads them (data.workers=1)")


def the_network_takes_any_subset_of_the_modalities(candidate: Candidate) -> None:
    """And each modality has parameters and a classifier head of its own, whose logits the loss takes."""
    task = candidate.ready
    torch.manual_seed(0)
    model = task.model()
    batch = next(iter(task.batches(0, False)))
    expect(model.modalities == task.modalities, f"the network has {model.modalities}, expected {task.modalities}")
    heads = task.unimodal_heads(model)
    strategy = Joint(JointConfig("joint"))
    strategy.setup(model, lambda: heads, task.score_sums, 2, task.hard_score_sums())
    try:
        make_optimizer(model, strategy, task.config.optim, CPU)
    except ValueError as error:
        raise AssertionError(str(error)) from error
    criterion = task.criterion()
    features = model.encode(batch.inputs)
    outputs = heads(features)
    expect(set(outputs) == set(task.modalities), f"classifier heads of {', '.join(outputs)}, expected of each modality")
    logits = {"fused": model.head(model.fuse(features)[0]), **{m: x.logits for m, x in outputs.items()}}
    for who, x in logits.items():
        loss = criterion(x, batch.target)
        expect(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss of the {who} logits is {loss}")
    criterion(logits["fused"], batch.target).backward()
    idle = [m for m in task.modalities if not any(_moved(p) for p in model.modality_parameters(m))]
    expect(not idle, f"the loss of the fused prediction does not reach the encoder of {', '.join(idle)}")
    model.eval()
    shapes = {}
    for subset in _subsets(task.modalities):
        try:
            with torch.no_grad():
                x = model({m: batch.inputs[m] for m in subset})
        except Exception as error:  # a network may fail in any way where it is not prepared for this
            raise AssertionError(f"the network does not take {'+'.join(subset)} alone: {error!r}") from error
        expect(bool(torch.isfinite(x).all()), f"the prediction from {'+'.join(subset)} is not finite")
        shapes["+".join(subset)] = tuple(x.shape)
    expect(len(set(shapes.values())) == 1, f"predictions from subsets have different shapes: {shapes}")


def any_modality_can_be_trained_alone(candidate: Candidate) -> None:
    """``--set task.modalities=[NAME]``, and all side by side, as strategy ``unimodal_ensemble`` does."""
    for modality in candidate.ready.modalities:
        task = candidate.prepared(f"task.modalities=[{modality}]")
        batch = next(iter(task.batches(0, False)))
        expect(set(batch.inputs) == {modality}, f"with task.modalities=[{modality}] a batch has {list(batch.inputs)}")
        model = task.model()
        found = f"with task.modalities=[{modality}] the network has {', '.join(model.modalities)}"
        expect(model.modalities == (modality,), found)
        loss = task.criterion()(model(batch.inputs), batch.target)
        expect(bool(torch.isfinite(loss)), f"with task.modalities=[{modality}] the loss is {loss}")
    whole = next(iter(candidate.ready.batches(0, False)))
    together = candidate.ready.network("unimodal_ensemble")(whole.inputs)
    expect(bool(torch.isfinite(together).all()), "the mean of networks of one modality each is not finite")


def the_balance_score_is_best_where_the_loss_is_least(candidate: Candidate) -> None:
    """It lies in [0, 1], and near 1 for logits that minimise the loss."""
    task = candidate.ready
    torch.manual_seed(0)
    batch = next(iter(task.batches(0, False)))
    with torch.no_grad():
        start = task.model()(batch.inputs)
    sums = task.score_sums(start, batch.target)
    shape = tuple(sums.shape)
    expect(len(shape) == 2 and shape[1] == 3, f"score_sums gives shape {shape}, expected (target, 3)")
    before, after = (
        mean_score(task.score_sums(x, batch.target))[0].item() for x in (start, _best_logits(task, start, batch.target))
    )
    for score in (before, after):
        expect(0 <= score <= 1 + 1e-5, f"the balance score is {score}, expected from 0 to 1")
    found = f"logits with the least loss score {after:.3f}, those of a new network {before:.3f}"
    expect(after > max(0.9, before), f"{found}; expected near 1, and more")


def evaluation_gives_each_case_once(candidate: Candidate) -> None:
    """In their order, in plain values, the same each time, with the score that chooses a checkpoint."""
    task = candidate.ready
    model, cases = _untrained(task), task.splits.test
    heads = task.unimodal_heads(model).eval()
    for full in (True, False):
        results, again = (_evaluated(task, model, heads if full else None, cases, full) for _ in range(2))
        found = [result.case for result in results]
        expect(found == list(cases), f"evaluate gives results of {found}, expected one of each of {list(cases)}")
        plain = json.loads(json.dumps([dict(result.findings) for result in results]))
        expect(equal(plain, [dict(r.findings) for r in again]), "evaluate gives other findings the second time")
        sent = [CaseResult(case, findings) for case, findings in zip(cases, plain, strict=True)]
        scores, expected = task.summarise(sent), task.summarise(results)
        same = equal(dict(scores.headline), dict(expected.headline))
        expect(same, "summarise gives another headline when findings come from another process (as JSON)")
        expect(
            scores.headline.get(task.chosen_by) is not None,
            f"the headline {dict(scores.headline)} lacks '{task.chosen_by}', by which a checkpoint is chosen",
        )
        scored = {row["case"] for row in scores.cases}
        expect(scored == set(cases), f"the scores have rows of {len(scored)} cases, expected {len(cases)}")
        named = {row["modality"] for row in scores.heads}
        heads_of = set(task.modalities) if full else set()
        expect(named == heads_of, f"the scores have heads of {sorted(named)}, expected of {sorted(heads_of)}")


def subsets_are_scored_as_the_whole_is(candidate: Candidate) -> None:
    """From all modalities a case is scored as by ``evaluate``; a task without ``evaluate_subsets`` says so."""
    task = candidate.ready
    model, cases = _untrained(task), task.splits.test[:2]
    whole, *others = _subsets(task.modalities)[::-1]
    subsets = (whole, *(subset for subset in others if len(subset) == 1))
    how = {"device": CPU, "autocast": contextlib.nullcontext}
    try:
        results = list(task.evaluate_subsets(model, subsets, cases, **how))  # type: ignore[arg-type]
    except ConfigError:
        return
    expect([result.case for result in results] == list(cases), "evaluate_subsets does not give each case once")
    names = ["+".join(subset) for subset in subsets]
    for result in results:
        expect(list(result.findings) == names, f"findings of {list(result.findings)}, expected of {names}")
    headlines = {
        name: task.summarise([CaseResult(r.case, r.findings[name]) for r in results]).headline[task.chosen_by]
        for name in names
    }
    expected = task.summarise(_evaluated(task, model, None, cases, False)).headline[task.chosen_by]
    found = headlines[names[0]]
    same = found is not None and expected is not None and math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-5)
    expect(same, f"from all modalities {task.chosen_by} is {found}, by evaluate it is {expected}")
    by_chance = task.chance([CaseResult(r.case, r.findings[names[0]]) for r in results])
    expect(task.chosen_by in by_chance, f"chance gives {dict(by_chance)}, expected '{task.chosen_by}'")
    expect(bool(task.chance_rule), "chance_rule is empty, expected how a prediction without any modality is scored")


def labels_are_not_needed_to_predict(candidate: Candidate) -> None:
    """Read without labels, cases are predicted as ``evaluate`` predicts them; a task that cannot read them says so."""
    task = candidate.ready
    assert isinstance(task, SampleTask)  # noqa: S101 - for the type checker
    config = task.config if candidate.data else replace(task.config, data=replace(task.config.data, path=None))
    blind = candidate.cls(config)
    offered = blind.unlabelled_samples()
    if offered is None:
        return
    (source,) = (
        [candidate.data] if candidate.data else (candidate.folder / "cache/generated").glob(f"{candidate.name}-v*")
    )
    held = offered.find(source, task.modalities, _quiet)
    expect(bool(held), f"read_unlabelled finds nothing in {source}")
    model = _untrained(task)
    cases = [case for case in task.splits.test if held.get(case) == task.modalities][:3]
    results = _evaluated(task, model, None, cases, False)
    for case, result in zip(cases, results, strict=True):
        with torch.no_grad():
            rows = offered.rows(model(offered.stack([offered.load(case)]))[0])
        finding = result.findings["fused"]
        expected: list[tuple[Any, float]] = [("", finding["predicted"])]
        found = [("", row["predicted"]) for row in rows]
        if "probability" in finding:
            expected = [(task.targets[n], p) for n, p in zip(finding["predicted"], finding["probability"], strict=True)]
            found = [(row["predicted"], row["probability"]) for row in rows]
        same = len(found) == len(expected) and all(
            name == other and math.isclose(value, wanted, rel_tol=1e-4, abs_tol=1e-5)
            for (name, value), (other, wanted) in zip(found, expected, strict=True)
        )
        expect(same, f"without its label {case} is predicted as {found}, with it as {expected}")


def the_truth_has_the_best_headline(candidate: Candidate) -> None:
    """Findings of logits that minimise the loss, against those of a new network."""
    task = candidate.ready
    assert isinstance(task, SampleTask)  # noqa: S101 - for the type checker
    model, cases = _untrained(task), task.splits.test
    headlines = []
    for best in (False, True):
        results = []
        for batch in task.evaluation_batches(cases):
            with torch.no_grad():
                logits = model(batch.inputs)
            if best:
                logits = _best_logits(task, logits, batch.target)
            results += [
                CaseResult(id, {"fused": task.finding(logits[i], batch.target[i])}) for i, id in enumerate(batch.ids)
            ]
        headlines.append(task.summarise(results).headline[task.chosen_by])
    new, true = headlines
    sign = -1 if task.lower_is_better else 1
    better = new is not None and true is not None and sign * true > sign * new
    expected = "lower" if task.lower_is_better else "higher"
    expect(better, f"{task.chosen_by} of the truth is {true}, expected {expected} than {new}, that of a new network")


def it_trains_is_scored_again_and_resumes(candidate: Candidate, strategy: str) -> None:
    """Through the command line; stopped and continued, it ends with the same bits."""
    whole, stopped = (candidate.folder / f"{name}-{strategy}" for name in ("whole", "stopped"))
    settings = [word for setting in candidate.words() for word in ("--set", setting)]
    words = ["train", "--task", candidate.name, "--strategy", strategy, *settings]
    said = cggm_med(*words, "--out", whole)
    if candidate.data is None:
        expect("no --data given" in said, "nothing says that the data are generated")
    results = _results(whole)
    splits = json.loads((whole / "splits.json").read_text())
    split = "test" if splits["test"] else "validation"
    generated = results["provenance"]["data"] == "generated (not real data)"
    expect(generated == (candidate.data is None), f"the results say that data are {results['provenance']['data']}")
    scored, expected = {row["case"] for row in results["cases"]}, set(splits[split])
    held_out = results["split"] == split and scored == expected
    expect(held_out, f"{len(scored)} cases are scored, expected the {len(expected)} of {split}")
    heads, modalities = {row["modality"] for row in results["heads"]}, results["provenance"]["modalities"].split(", ")
    expect(heads == set(modalities), f"heads of {sorted(heads)} are scored, expected of {modalities}")
    origin = "## Where it comes from" in (whole / "results.md").read_text()
    expect(origin, "results.md does not say where it comes from")
    cggm_med("evaluate", whole)
    again = _results(whole / "evaluations" / split)
    for part in ("cases", "heads", "headline"):
        expect(again[part] == results[part], f"evaluating the run gives other {part} than training did: is dropout on?")

    real = candidate.cls.batches

    def interrupted(task: Task, first_step: int, pin_memory: bool) -> Iterator[Batch]:
        for number, batch in enumerate(real(task, first_step, pin_memory)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with mock.patch.object(candidate.cls, "batches", interrupted):
        cggm_med(*words, "--out", stopped, code=130)
    written = "steps_per_epoch: 2" in (stopped / "config.yaml").read_text()
    expect(written, "a stopped run does not have all its settings in config.yaml")
    cggm_med("train", "--resume", stopped)
    expect_same_run(stopped, whole)


LAWS: tuple[Callable[[Candidate], None], ...] = (
    it_says_what_it_is,
    the_same_data_give_the_same_cases_and_splits,
    contents_stand_for_each_prepared_case,
    a_batch_depends_on_its_step_alone,
    two_processes_share_each_batch,
    two_processes_draw_what_one_does,
    workers_change_nothing,
    the_network_takes_any_subset_of_the_modalities,
    any_modality_can_be_trained_alone,
    the_balance_score_is_best_where_the_loss_is_least,
    evaluation_gives_each_case_once,
    subsets_are_scored_as_the_whole_is,
)


def cggm_med(*words: object, code: int = 0) -> str:
    """What a command says, run in this process; it must end with this exit code."""
    (script,) = entry_points(group="console_scripts", name="cggm-med")
    said = io.StringIO()
    with mock.patch.object(sys, "argv", ["cggm-med", *map(str, words)]), contextlib.redirect_stdout(said):
        try:
            script.load()()
            ended: Any = 0
        except SystemExit as end:
            ended = end.code or 0
    text = said.getvalue()
    expect(ended == code, f"'cggm-med {words[0]}' ends with exit code {ended}, expected {code}: {text[-2000:]}")
    return text


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def _registered(candidate: Candidate, law: Callable[[], None]) -> None:
    """Try a law as if the class were registered."""
    key, real, package_of = (registry.TASKS, candidate.name), registry.load, registry.package

    def load(group: str, name: str) -> Any:
        return candidate.cls if (group, name) == key else real(group, name)

    def package(group: str, name: str) -> str:
        return "not installed" if (group, name) == key else package_of(group, name)

    with mock.patch.multiple(registry, load=load, package=package):
        law()


def _quiet(line: str) -> None:
    """Say nothing."""


def _untrained(task: Task) -> MultimodalModel:
    torch.manual_seed(0)
    return task.model().eval()


def _evaluated(task: Task, model: MultimodalModel, heads: Any, cases: Sequence[str], full: bool) -> list[CaseResult]:
    how = {"device": CPU, "autocast": contextlib.nullcontext, "full": full}
    return [replace(result, draw=None) for result in task.evaluate(model, heads, cases, **how)]  # type: ignore[arg-type]


def _best_logits(task: Task, start: Tensor, target: Tensor) -> Tensor:
    """Logits that minimise the loss."""
    logits = start.detach().clone().requires_grad_()
    criterion, optimizer = task.criterion(), torch.optim.Adam([logits], lr=0.3)
    for step in range(200):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        criterion(logits, target).backward()
        optimizer.step()
    return logits.detach()


def _subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """All that hold a modality, the largest last."""
    sizes = range(1, len(modalities) + 1)
    return [subset for size in sizes for subset in itertools.combinations(modalities, size)]


def _moved(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())


def _values(x: Tensor | Padded) -> Tensor:
    return x.values if isinstance(x, Padded) else x


def _equal(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    return equal([vars(batch) for batch in a], [vars(batch) for batch in b])
