"""Exported data sets: what nnU-Net makes of them is what the task means, and its own check passes."""

import itertools
import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from helpers.declared_cohort import cohort
from hypothesis import given
from hypothesis import strategies as st

from cggm_med import registry
from cggm_med.config import parse_overrides
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.errors import ConfigError, DataError, OutputError
from cggm_med.nnunet.export import consecutive_numbers, dataset_json, export_dataset, numbers_of_regions, renumber
from cggm_med.runs.settings import make_config
from cggm_med_tasks.brats2021 import CONVENTIONS

AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])


@st.composite
def conventions(draw):
    """Any convention: labels with gaps; nested, overlapping or exclusive regions, in any order; or voxels to ignore."""
    ignore, *labels = draw(st.lists(st.integers(1, 999), min_size=2, max_size=7, unique=True))
    painted = labels[: draw(st.integers(1, len(labels)))]
    regions = {}
    for k, paint in enumerate(painted):
        others = [label for label in labels if label not in painted[: k + 1]]
        more = draw(st.sets(st.sampled_from(others))) if others else set()
        regions[f"region {k}"] = (paint, *sorted(more))
    paint = dict(zip(regions, painted, strict=True))
    declared = {name: regions[name] for name in draw(st.permutations(list(regions)))}
    held = [label for of in declared.values() for label in of]
    exclusive = len(set(held)) == len(held) and draw(st.booleans())
    return LabelConvention(
        "drawn",
        dict.fromkeys(labels, "tissue"),
        declared,
        paint,
        exclusive,
        ignore if draw(st.booleans()) else None,
    )


def every_label(convention):
    ignored = [] if convention.ignore is None else [convention.ignore]
    return np.array([0, *convention.meanings, *ignored]).reshape(-1, 1, 1)


def nnunet_labels(made):
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    return LabelManager(made["labels"], made.get("regions_class_order"))


@given(conventions())
def test_nnunet_reads_the_regions_of_the_convention_from_the_exported_labels(convention):
    labels, made = every_label(convention), dataset_json(("flair",), [convention], 1)
    exported = renumber(labels, consecutive_numbers(convention, numbers_of_regions([convention])))
    truth = dict(zip(convention.regions, convention.to_regions(labels), strict=True))
    manager = nnunet_labels(made)
    assert manager.all_labels == list(range(len(manager.all_labels)))  # consecutive, as nnU-Net demands
    assert not (convention.exclusive and manager.has_regions)
    assert manager.ignore_label == (None if convention.ignore is None else len(manager.all_labels))
    np.testing.assert_array_equal(exported == manager.ignore_label, labels == convention.ignore)
    names = [name for name in made["labels"] if name not in ("background", "ignore")]
    read = manager.foreground_regions if manager.has_regions else [made["labels"][name] for name in names]
    for name, values in zip(names, read, strict=True):
        np.testing.assert_array_equal(np.isin(exported, values), truth[name])


@given(conventions(), st.data())
def test_nnunet_paints_predicted_regions_as_the_convention_does(convention, data):
    """Labels to regions to labels, for any regions that a network might predict."""
    made = dataset_json(("flair",), [convention], 1)
    manager, order = nnunet_labels(made), list(convention.regions)
    names = [name for name in made["labels"] if name not in ("background", "ignore")]
    predicted = np.array(data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order))))
    if not manager.has_regions and predicted.sum() > 1:
        return  # classes that exclude one another
    labels = convention.to_labels(predicted.reshape(-1, 1, 1, 1))
    painted = renumber(labels, consecutive_numbers(convention, numbers_of_regions([convention])))
    mine = {name: predicted[order.index(name)] for name in names}
    if manager.has_regions:
        probability = np.array(list(mine.values()), np.float32)
    else:
        by_label = {made["labels"][name]: p for name, p in mine.items()}
        probability = np.array([not any(mine.values()), *(by_label[k] for k in sorted(by_label))], np.float32)
    found = manager.convert_probabilities_to_segmentation(probability.reshape(-1, 1, 1, 1))
    # Painting one region over another, nnU-Net never says that a voxel is of two that cross; the convention does.
    says_all = manager.has_regions and np.array_equal(convention.to_regions(labels).ravel(), predicted)
    assert found.item() == painted.item() or says_all


def test_brats_by_hand():
    made = dataset_json(("flair", "t1ce"), [CONVENTIONS["brats2021"]], 7)
    assert made["channel_names"] == {"0": "flair", "1": "t1ce"}
    assert made["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    assert made["regions_class_order"] == [2, 1, 3]
    assert made["numTraining"] == 7
    assert made["label_meanings"]["3"] == "enhancing tumour (4 in brats2021)"
    np.testing.assert_array_equal(renumber(np.array([0, 1, 2, 4]), {1: 1, 2: 2, 4: 3}), [0, 1, 2, 3])


def test_labels_that_exclude_one_another_stay_labels():
    lesion = LabelConvention("lesion", {7: "lesion"}, {"lesion": (7,)}, {"lesion": 7})
    made = dataset_json(("flair",), [lesion], 1)
    assert made["labels"] == {"background": 0, "lesion": 1}
    assert "regions_class_order" not in made


def make_task(data, *settings):
    overrides = parse_overrides([f"data.path={data}", *settings])
    return registry.load(registry.TASKS, "brats2021")(make_config("brats2021", [overrides]))


def export(data, raw, *settings, number=900):
    return export_dataset(make_task(data, *settings), raw, number, "x", say=lambda text: None)


def passes_the_check_of_nnunet(folder, monkeypatch):
    from nnunetv2.experiment_planning import verify_dataset_integrity as module

    threads = SimpleNamespace(get_context=lambda kind: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(module, "multiprocessing", threads)  # its processes take longer to start than all else
    module.verify_dataset_integrity(str(folder), 1)


def test_export_of_a_folder(phantom, tmp_path, monkeypatch):
    folder = export(phantom, tmp_path / "raw")
    assert folder.name == "Dataset900_x"
    passes_the_check_of_nnunet(folder, monkeypatch)
    task = make_task(phantom)
    task.find(lambda text: None)
    splits = task.default_splits()
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert fold == {"train": list(splits.train), "val": list(splits.validation)}
    assert (
        len(splits.train) + len(splits.validation) == json.loads((folder / "dataset.json").read_text())["numTraining"]
    )
    for part, ids in (("Tr", (*splits.train, *splits.validation)), ("Ts", splits.test)):
        assert {f.name for f in (folder / f"labels{part}").iterdir()} == {f"{id}.nii.gz" for id in ids}
        assert len(list((folder / f"images{part}").iterdir())) == 4 * len(ids)
        for id, (channel, modality) in itertools.product(ids, enumerate(("flair", "t1", "t1ce", "t2"))):
            image = folder / f"images{part}" / f"{id}_{channel:04d}.nii.gz"
            assert image.samefile(phantom / id / f"{id}_{modality}.nii.gz")  # a link: no second copy
        for id in ids:
            own = nib.load(phantom / id / f"{id}_seg.nii.gz")
            exported = nib.load(folder / f"labels{part}" / f"{id}.nii.gz")
            np.testing.assert_array_equal(exported.dataobj, np.array([0, 1, 2, 9, 3])[np.asarray(own.dataobj)])
            np.testing.assert_array_equal(exported.affine, own.affine)
            assert exported.get_data_dtype() == np.uint8


@pytest.mark.parametrize("regions", [{}, {"all": [1, 700], "core": [700]}], ids=["exclusive", "nested"])
def test_voxels_to_ignore_pass_the_check_of_nnunet(regions, tmp_path, monkeypatch):
    """They get the number after all others, which nnU-Net demands, whether it learns labels or regions."""
    data = cohort(tmp_path / "data", (1, 700, 5), **({"regions": regions} if regions else {}))
    small = {"data": {"path": str(data), "patch_size": [8, 8, 8]}, "model": {"channels": [4, 8]}}
    task = registry.load(registry.TASKS, "segmentation")(make_config("segmentation", [small]))
    folder = export_dataset(task, tmp_path / "raw", 7, "x", say=lambda text: None)
    passes_the_check_of_nnunet(folder, monkeypatch)
    manager = nnunet_labels(json.loads((folder / "dataset.json").read_text()))
    assert (manager.has_regions, manager.ignore_label) == (bool(regions), 3)
    for file in folder.glob("labelsT?/*"):
        before = np.asarray(nib.load(tmp_path / "data" / "labels" / file.name).dataobj)
        np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj) == 3, before == 5)


def test_images_are_copied_where_there_are_no_links(phantom, tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    image = next((export(phantom, tmp_path) / "imagesTr").glob("*_0002.nii.gz"))
    id = image.name.removesuffix("_0002.nii.gz")
    assert image.read_bytes() == (phantom / id / f"{id}_t1ce.nii.gz").read_bytes()


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 2)
    nib.save(image, path)


@pytest.fixture(scope="module")
def cases():
    return [make_case(7, index, (32, 32, 24), 5.0) for index in range(5)]


def test_decathlon_files_are_split(cases, tmp_path, monkeypatch):
    training = []
    for i, case in enumerate(cases):
        save(
            np.stack([case.images[m] for m in ("flair", "t1", "t1ce", "t2")], -1),
            tmp_path / "imagesTr" / f"B{i}.nii.gz",
        )
        save(np.array([0, 2, 1, 0, 3], np.uint8)[case.labels], tmp_path / "labelsTr" / f"B{i}.nii.gz")
        training.append({"image": f"imagesTr/B{i}.nii.gz", "label": f"labelsTr/B{i}.nii.gz"})
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": modality, "training": training}))
    folder = export(tmp_path, tmp_path / "raw", "task.modalities=[t1ce,flair]")
    passes_the_check_of_nnunet(folder, monkeypatch)
    made = json.loads((folder / "dataset.json").read_text())
    assert made["channel_names"] == {"0": "t1ce", "1": "flair"}
    assert made["label_meanings"]["1"] == "oedema (1 in msd)"
    for i, case in enumerate(cases):
        (first,) = folder.glob(f"images*/B{i}_0000.nii.gz")
        image = nib.load(first)
        np.testing.assert_array_equal(image.dataobj, case.images["t1ce"])
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 2)


def test_a_datalist_of_two_modalities_and_uncompressed_files(cases, tmp_path, monkeypatch):
    sections = {"training": [], "validation": [], "test": []}
    for i, case in enumerate(cases):
        entry = {"id": f"p{i}-b", "patient": f"p{i}", "label": f"{i}/truth.nii"}
        save(case.labels, tmp_path / entry["label"])
        for m in ("flair", "t2"):
            entry[m] = f"{i}/{m}.nii"
            save(case.images[m], tmp_path / entry[m])
        sections["training" if i < 3 else "validation" if i == 3 else "test"].append(entry)
    (tmp_path / "list.json").write_text(json.dumps(sections))
    chosen = ("task.modalities=[flair,t2]", "task.labels=brats2021")
    folder = export(tmp_path / "list.json", tmp_path / "raw", *chosen)
    passes_the_check_of_nnunet(folder, monkeypatch)
    assert json.loads((folder / "splits_final.json").read_text()) == [
        {"train": ["p0-b", "p1-b", "p2-b"], "val": ["p3-b"]}
    ]
    assert [f.name for f in (folder / "labelsTs").iterdir()] == ["p4-b.nii.gz"]
    image = nib.load(folder / "imagesTs" / "p4-b_0001.nii.gz")
    np.testing.assert_array_equal(image.dataobj, cases[4].images["t2"])


def test_visits_of_a_patient_stay_together(cases, tmp_path):
    for patient, visit in itertools.product(range(5), range(2)):
        name, case = f"BraTS-GLI-{patient:05d}-{visit:03d}", cases[patient]
        for suffix, m in (("t2f", "flair"), ("t1n", "t1"), ("t1c", "t1ce"), ("t2w", "t2")):
            save(case.images[m], tmp_path / "data" / f"{name}-{suffix}.nii.gz")
        save(np.array([0, 1, 2, 0, 3], np.uint8)[case.labels], tmp_path / "data" / f"{name}-seg.nii.gz")
    folder = export(tmp_path / "data", tmp_path / "raw", "data.validation=0.2", "data.test=0.2")
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    patients = [{id.rpartition("-")[0] for id in ids} for ids in fold.values()]
    assert patients[0].isdisjoint(patients[1])
    assert [len(ids) for ids in fold.values()] == [6, 2]


def test_whole_or_not_at_all(phantom, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cggm_med.nnunet.export._write_image", full)
    with pytest.raises(OutputError, match="No space left"):
        export(phantom, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_damaged_case_is_named_and_nothing_is_written(cases, tmp_path):
    sections = {"training": []}
    for i, case in enumerate(cases):
        save(case.labels + (i == 3) * np.uint8(5), tmp_path / f"{i}_label.nii.gz")
        save(case.images["t2"], tmp_path / f"{i}.nii.gz")
        sections["training"].append({"id": f"p{i}", "t2": f"{i}.nii.gz", "label": f"{i}_label.nii.gz"})
    (tmp_path / "list.json").write_text(json.dumps(sections))
    with pytest.raises(DataError, match=r"p3: label .*_label.nii.gz: it holds 5") as error:
        export(tmp_path / "list.json", tmp_path / "raw", "task.modalities=[t2]", "task.labels=brats2021")
    assert "p2" not in str(error.value)
    assert not (tmp_path / "raw").exists()


def test_numbers_and_names_that_nnunet_does_not_take(phantom, tmp_path):
    task = make_task(phantom)
    with pytest.raises(ConfigError, match="--id is 0, expected from 1 to 999"):
        export_dataset(task, tmp_path, 0, "x")
    with pytest.raises(ConfigError, match="--name is a b"):
        export_dataset(task, tmp_path, 1, "a b")
    Path(tmp_path / "Dataset900_other").mkdir()
    with pytest.raises(OutputError, match="Dataset900_other exists; choose another number"):
        export_dataset(task, tmp_path, 900, "x")
