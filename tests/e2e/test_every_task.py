"""Every task keeps the laws of ``check_task``, on generated data in its real layout."""

import contextlib
import json
from functools import cache

import pytest
from helpers.pictures import drawn
from helpers.small_runs import SMALL

from cggm_med import registry
from cggm_med.testing.tasks import LAWS, task_laws

# The three that every task is tested with. OGM scores by the fused head's shares where it is linear, else by heads;
# MMPareto takes gradients apart; DGS leaves modalities out: between them they meet each side of a model.
THIRD = {
    "avdigits": "ogm_ge",
    "cremad": "opm",
    "food101": "mmpareto",
    "iemocap": "dgs",
    "iemocap_dialogue": "dgs",
    "kinetics_sounds": "ogm",
    "meld": "mmpareto",
    "mosei": "opm",
    "mosi": "mmpareto",
    "ucf101": "dgs",
}
METRICS = {"cremad": ("accuracy", "mAP"), "kinetics_sounds": ("accuracy", "mAP"), "ucf101": ("accuracy",)}
# With which segmentation is as small as it gets.
SIZES = ("data.patch_size", "data.window_size", "data.validation", "data.test", "model.channels")
SEGMENTATION = [f"{key}={SMALL[key]}" for key in (*SIZES, "task.component_filter")]
TRAINED = {task: ("joint", "cggm", third) for task, third in THIRD.items()}


def declared_phantom(phantom, folder):
    """The phantom as a declared list of classes that exclude one another."""
    files = {**{m: m for m in ("flair", "t1", "t1ce", "t2")}, "label": "seg"}
    cases = [
        {"id": case.name, **{role: str(case / f"{case.name}_{end}.nii.gz") for role, end in files.items()}}
        for case in sorted(phantom.iterdir())
    ]
    declared = {"modalities": dict.fromkeys(list(files)[:4], "mri"), "labels": {"1": "core", "2": "oedema", "4": "rim"}}
    (folder / "declared.json").write_text(json.dumps({**declared, "training": cases}))
    return folder / "declared.json"


@pytest.fixture(scope="module")
def laws_of(tmp_path_factory, phantom):
    """The laws of a task; they share what they prepared."""
    folder = tmp_path_factory.mktemp("tasks")

    @cache
    def laws(task):
        if task == "brats2021":
            return task_laws(task, folder / task, data=phantom, settings=SEGMENTATION, strategies=())
        if task == "segmentation":
            data = declared_phantom(phantom, folder)
            return task_laws(task, folder / task, data=data, settings=SEGMENTATION, strategies=())
        return task_laws(task, folder / task, strategies=TRAINED[task])

    return laws


def test_every_task_is_tested():
    built_in = {
        name
        for name in registry.names(registry.TASKS)
        if registry.package(registry.TASKS, name).startswith("cggm-med ")
    }
    assert built_in == {"brats2021", "segmentation", *THIRD}


@pytest.mark.parametrize("law", [law.__name__.replace("_", " ") for law in LAWS])
@pytest.mark.parametrize("task", ["brats2021", "segmentation", *sorted(THIRD)])
def test_it_keeps_the_law(task, law, laws_of):
    laws_of(task)[law]()


@pytest.mark.parametrize("task", sorted(THIRD))
def test_the_truth_has_the_best_headline(task, laws_of):
    laws_of(task)["the truth has the best headline"]()


@pytest.mark.parametrize("task", sorted(THIRD))
def test_labels_are_not_needed_to_predict(task, laws_of):
    laws_of(task)["labels are not needed to predict"]()


@pytest.mark.parametrize(("task", "metrics"), sorted(METRICS.items()))
def test_it_is_scored_by_the_metrics_of_its_papers(task, metrics):
    assert registry.load(registry.TASKS, task).metrics == metrics


@pytest.mark.parametrize(("task", "strategy"), [(task, name) for task in sorted(THIRD) for name in TRAINED[task]])
def test_it_trains_is_scored_again_and_resumes(task, strategy, laws_of):
    """Segmentation is walked through by test_nifti_to_table and test_resume."""
    with drawn() if strategy == "joint" else contextlib.nullcontext():  # one shows what pictures the task draws
        laws_of(task)[f"it trains, is scored again and resumes with {strategy}"]()
