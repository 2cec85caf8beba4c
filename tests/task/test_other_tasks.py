"""Tasks that derive from ``Task`` alone are asked what they offer the means for, and refuse the rest in one line."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from helpers.small_runs import as_if_trained_with, quiet, trained_run
from torch import nn
from torch.utils.data import DataLoader

from cggm_med import (
    Batch,
    CaseResult,
    LabelledSamples,
    Sample,
    Task,
    TaskConfig,
    make_config,
    registry,
    true_class_sums,
)
from cggm_med.errors import ConfigError
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.calibration.question import CalibrationQuestion
from cggm_med.evaluation.probe.question import ProbeQuestion
from cggm_med.evaluation.robustness.question import RobustnessQuestion
from cggm_med.evaluation.subsets.question import SubsetQuestion
from cggm_med.inference.predictor import Predictor
from cggm_med.metrics.classification_regression import CLASS_METRICS
from cggm_med.models.late_fusion import LateFusionModel, vector_heads
from cggm_med.results.results import Scores
from cggm_med.results.tables import Table
from cggm_med.runs import train as runs
from cggm_med_tasks.brats2021 import BraTS2021

CLASSES = ("calm", "glad", "sad")


@dataclass(frozen=True)
class WeatherTaskConfig(TaskConfig):
    name: str = "weather"
    modalities: tuple[str, ...] = ("wind", "rain")


@dataclass(frozen=True)
class WeatherDataConfig:
    path: str | None = None
    splits: str | None = None
    validation: float = 0.2
    test: float = 0.3
    cache: str | None = None
    workers: int = 0


@dataclass(frozen=True)
class WeatherModelConfig:
    width: int = 3


class Weather(Task):
    """Moods from two vectors of four numbers, without any of the families' help."""

    TaskConfig, DataConfig, ModelConfig = WeatherTaskConfig, WeatherDataConfig, WeatherModelConfig
    known_modalities = ("wind", "rain")
    targets = CLASSES
    chosen_by = "accuracy"
    chance_rule = "always calm"

    @classmethod
    def default_preset(cls, embedded):
        return "small"

    presets = {"small": {"train": {"batch_size": 4, "epochs": 2, "steps_per_epoch": 0}, "optim": {"lr": 1e-2}}}  # noqa: RUF012

    def find(self, say):
        random = np.random.default_rng(0)
        typical = random.normal(size=(3, 2, 4))
        self.samples = {}
        for n in range(40):
            wind, rain = (typical[n % 3] + 0.5 * random.normal(size=(2, 4))).astype(np.float32)
            self.samples[f"day{n}"] = Sample(f"day{n}", f"week{n // 2}", n % 3, {"wind": wind, "rain": rain})
        return tuple(self.samples)

    @property
    def members(self):
        return tuple(self.samples.values())

    def prepare(self, splits, say):
        self.splits = splits

    def contents(self):
        return {id: {"prepared": str(sample.inputs)} for id, sample in self.samples.items()}

    def collate(self, ids):
        inputs = {m: torch.stack([torch.from_numpy(self.samples[i].inputs[m]) for i in ids]) for m in self.modalities}
        return Batch(inputs, torch.tensor([self.samples[i].target for i in ids]), tuple(ids))

    def batches(self, first_step, pin_memory):
        train = self.splits.train
        steps = range(first_step, self.config.train.steps)
        return (self.collate([train[(4 * step + i) % len(train)] for i in range(4)]) for step in steps)

    def model(self):
        width = self.config.model.width
        encoders = {m: nn.Linear(4, width) for m in self.modalities}
        return LateFusionModel(encoders, dict.fromkeys(self.modalities, width), len(CLASSES))

    def unimodal_heads(self, model):
        return vector_heads(model, len(CLASSES))

    def criterion(self):
        return nn.CrossEntropyLoss()

    def score_sums(self, logits, target):
        return true_class_sums(logits, target)

    @torch.no_grad()
    def evaluate(self, model, heads, cases, *, device, autocast, full):
        for id in cases:
            batch = self.collate([id])
            yield CaseResult(id, {"right": bool(model(batch.inputs).argmax() == batch.target)})

    def summarise(self, results):
        share = float(np.mean([r.findings["right"] for r in results]))
        cases = tuple({"case": r.case, **r.findings} for r in results)
        table = Table("", ("accuracy",), ((f"{share:.3f}",),))
        return Scores({"accuracy": share}, ({"accuracy": share},), cases, (), (table,))

    def rules(self):
        return {"accuracy": "share of days whose mood is right"}


class GenerousWeather(Weather):
    """The same, with what probes, calibration and subsets need."""

    def labelled_samples(self):
        return LabelledSamples(
            "classes",
            {"accuracy": CLASS_METRICS["accuracy"]},
            lambda cases: DataLoader(cases, batch_size=8, collate_fn=self.collate),
            lambda case: self.samples[case].group,
        )

    @torch.no_grad()
    def evaluate_subsets(self, model, subsets, cases, *, device, autocast):
        for id in cases:
            batch = self.collate([id])
            features = model.encode(batch.inputs)
            found = {}
            for subset in subsets:
                logits = model.head(model.fuse({m: features[m] for m in subset})[0])
                found["+".join(subset)] = {"right": bool(logits.argmax() == batch.target)}
            yield CaseResult(id, found)

    def chance(self, results):
        return {"accuracy": float(np.mean([self.samples[r.case].target == 0 for r in results]))}


class Scans(Task):
    """Segmentation by a part, not by inheritance: ``scans`` does the work."""

    TaskConfig, DataConfig, ModelConfig = BraTS2021.TaskConfig, BraTS2021.DataConfig, BraTS2021.ModelConfig
    presets, known_modalities, chosen_by = BraTS2021.presets, BraTS2021.known_modalities, BraTS2021.chosen_by

    def __init__(self, config):
        super().__init__(config)
        self.scans = BraTS2021(config)
        self.targets = self.scans.targets

    config = property(lambda self: self.scans.config)

    @classmethod
    def default_preset(cls, embedded):
        return "tiny"

    def volumes(self):
        return self.scans


def _handed_on(name):
    def method(self, *args, **rest):
        return getattr(self.scans, name)(*args, **rest)

    return method


WORK = ("find", "prepare", "contents", "batches", "model", "unimodal_heads", "criterion", "score_sums", "evaluate")
for name in (*WORK, "summarise", "rules", "facts"):
    setattr(Scans, name, _handed_on(name))
Scans.__abstractmethods__ = frozenset()


@pytest.fixture(scope="module")
def known():
    """The tasks above, as if they were installed."""
    real, ours = registry.load, {"weather": Weather, "generous": GenerousWeather, "scans": Scans}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda group, name: ours[name] if name in ours else real(group, name))
        yield


def weather_run(folder, name):
    runs.start(make_config(name, [{"train": {"device": "cpu"}}], strategy="cggm"), folder, quiet())
    return folder


@pytest.fixture(scope="module")
def generous(known, tmp_path_factory):
    return weather_run(tmp_path_factory.mktemp("generous") / "run", "generous")


def asked(question, run):
    return ask(question, run, {}, quiet(), split=None, out=None)


def test_training_scores_the_held_out_days(generous):
    """Twenty weeks of two days, 30 % of them held out: twelve days."""
    settings = yaml.safe_load((generous / "config.yaml").read_text())
    assert settings["train"]["steps_per_epoch"] == (40 - 12 - 8) // 4
    assert len((generous / "results.json").read_text().split('"right"')) - 1 == 12


def test_a_probe_scores_the_fused_prediction_as_the_task_does(generous):
    plain = asked(SubsetQuestion("wind+rain"), generous).scores.headline["accuracy"]
    report = asked(ProbeQuestion(), generous)
    rows = {(row["modality"], row["by"]): row for row in report.scores.summary}
    assert rows["fused", "fused"]["accuracy"] == pytest.approx(plain)
    assert {m for m, by in rows if by == "head"} == {"wind", "rain"}
    assert rows["wind", "probe"]["samples"] == 12


def test_calibration_sees_every_prediction(generous):
    report = asked(CalibrationQuestion(), generous)
    before, after = report.scores.summary
    assert before["count"] == after["count"] == 12
    assert after["nll"] > 0
    assert report.scores.headline["temperature"] == after["temperature"]


def test_subsets_and_shapley_values_add_up(generous):
    """By definition: what both modalities add sums to the score of both minus that of none."""
    report = asked(SubsetQuestion("all"), generous)
    headline = report.scores.headline
    added = sum(headline[f"accuracy, Shapley value of {m}"] for m in ("wind", "rain"))
    test = {row["case"] for row in report.scores.cases}
    nothing = np.mean([int(case.removeprefix("day")) % 3 == 0 for case in test])
    assert added == pytest.approx(headline["accuracy"] - nothing)
    assert "always calm" in report.rules["Shapley value"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ProbeQuestion(), "a probe needs one that segments"),
        (CalibrationQuestion(), "calibration needs a run that segments or tells classes apart"),
        (RobustnessQuestion("noise", "1"), "whose data are no scans to corrupt"),
        (SubsetQuestion("all"), "task 'weather' does not score subsets; it needs evaluate_subsets"),
    ],
)
def test_a_task_that_offers_nothing_says_so_in_one_line(known, tmp_path, question, message):
    run = weather_run(tmp_path / "run", "weather")
    with pytest.raises(ConfigError, match=message) as error:
        asked(question, run)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="does not segment; name another run"):
        Predictor(run, "cpu")


def test_a_task_that_hands_segmentation_on_predicts_and_is_calibrated_as_the_one_that_inherits_it(
    known, phantom, cache, tmp_path
):
    run = trained_run(tmp_path / "run", phantom, cache, train__epochs="1")
    other = shutil.copytree(run, tmp_path / "other")
    as_if_trained_with(other, task__name="scans")
    case = "BraTS2021_00000"
    images = {m: phantom / case / f"{case}_{m}.nii.gz" for m in BraTS2021.known_modalities}
    a, b = (Predictor(folder, "cpu").predict(case, images) for folder in (run, other))
    assert np.array_equal(a.probability, b.probability)
    assert np.array_equal(a.labels, b.labels)
    one, two = (asked(CalibrationQuestion(), folder) for folder in (run, other))
    assert one.scores == two.scores
    assert one.rules == two.rules
