"""What all tests share: offline, seeded, and one small phantom data set for the whole session."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# The tensors of the tests are too small to share: threads that wait for one another are slow on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

# Torch and what builds on it are imported by who needs them: the process that only hands out tests to others does not.
import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# The files that take longest are begun first, so that at the end no process works alone for long.
LONGEST = (
    "test_all.py",
    "test_nnunet.py",
    "test_resume.py",
    "test_view.py",
    "test_slurm.py",
    "test_benchmarks.py",
    "test_new_task.py",
    "test_new_segmentation.py",
    "test_html_report.py",
    "test_bundle.py",
    "test_probe.py",
    "test_new_strategy.py",
    "test_robustness.py",
    "test_strategy_laws.py",
    "test_nifti_to_table.py",
    "test_two_processes.py",
    "test_task_laws.py",
    "test_calibration.py",
    "test_bad_input.py",
    "test_plugin.py",
    "test_every_task.py",
    "test_compare.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """What shares fixtures runs in one process: a file, or of the tests of all tasks those of one task."""
    for item in items:
        group = str(item.path.relative_to(item.config.rootpath))
        if item.path.name == "test_every_task.py" and hasattr(item, "callspec"):
            group += " " + item.callspec.params["task"]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish(session):
    """What was imported by now stays; the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup():
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed seeds every kind of device, in milliseconds


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """Six small cases in the layout of BraTS 2021, 5 mm voxels."""
    from cggm_med.data.volumes.phantom.cases import write_phantom
    from cggm_med.data.volumes.phantom.scanner import MODALITIES, Scanner

    folder = tmp_path_factory.mktemp("data") / "phantom"
    quiet = {modality: Scanner(noise=0.1, contrast=2.5) for modality in MODALITIES}  # learned in a few steps
    write_phantom(folder, cases=6, seed=0, shape=(48, 48, 32), spacing_mm=5.0, scanners=quiet)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A cache that the tests of a session share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_data():
    """Finds a file of the shared real data; skips the test where there is none."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"no shared data: {name}")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def _without_pictures():
    from helpers.pictures import without_pictures

    with without_pictures():
        yield


@pytest.fixture
def pictures():
    """Figures are drawn in this test; fixtures that others share are made with ``helpers.pictures.drawn``."""
    from helpers.pictures import drawn

    with drawn():
        yield


@pytest.fixture
def figure(pictures):
    """The figures that were saved, newest last."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def record(self, *args, **kwargs):
        saved.append(self)
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", record)
        yield saved
