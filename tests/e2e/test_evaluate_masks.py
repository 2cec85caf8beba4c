"""Masks made elsewhere: the tables of a run whose own masks they are, a paired test by hand, and plain refusals."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers.command_line import command, same_values, set_options
from helpers.declared_cohort import AFFINE, SHAPE, SMALL, cohort
from helpers.small_runs import trained_run
from scipy import stats

MODALITIES = ("flair", "t1", "t1ce", "t2")
TO_2023 = np.array([0, 1, 2, 0, 3], np.uint8)


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    settings = {"train__epochs": "2", "train__steps_per_epoch": "10", "data__test": "0.5"}
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, **settings)


@pytest.fixture(scope="module")
def masks(run, phantom, tmp_path_factory):
    """The run's own masks of all cases, and beside them what ``predict`` writes besides."""
    folder = tmp_path_factory.mktemp("masks") / "masks"
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "predict", run, phantom, "-o", folder)
    return folder


@pytest.fixture(scope="module")
def labels(phantom, tmp_path_factory):
    """The labels themselves, as a reader without fault would draw them, one voxel aside in the first test case."""
    folder = tmp_path_factory.mktemp("reader") / "reader"
    folder.mkdir()
    for case in phantom.iterdir():
        label = nib.load(case / f"{case.name}_seg.nii.gz")
        shift = 1 if case.name.endswith("3") else 0
        nib.save(
            nib.Nifti1Image(np.roll(np.asarray(label.dataobj), shift, 0), label.affine), folder / f"{case.name}.nii.gz"
        )
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def changed(masks, folder, case, change):
    """A copy of the masks with one of them changed."""
    shutil.copytree(masks, folder)
    image = nib.load(folder / f"{case}.nii.gz")
    affine, array = change(image.affine, np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(array, affine), folder / f"{case}.nii.gz")
    return folder


def test_a_run_s_own_masks_have_its_table_to_the_last_bit(run, masks, phantom, tmp_path, monkeypatch):
    command(monkeypatch, "evaluate", "--masks", masks, "--against", run, "--out", tmp_path / "out")
    found, expected = results(tmp_path / "out"), results(run)
    assert found["cases"] == expected["cases"]
    assert found["summary"] == expected["summary"]
    assert found["headline"] == expected["headline"]
    assert {**found["rules"], "threshold": ""}.items() >= {**expected["rules"], "threshold": ""}.items() - {
        ("checkpoint", expected["rules"]["checkpoint"])
    }
    paired = next(table for table in found["tables"] if table["title"] == "against run")
    assert {row[4] for row in paired["rows"]} == {"+0.000"}
    assert {row[6] for row in paired["rows"]} == {"1.000"}

    words = ["--data", phantom, "--out", tmp_path / "all", "--json", tmp_path / "a.json"]
    command(monkeypatch, "evaluate", "--masks", masks, *words)
    assert same_values(tmp_path / "a.json", tmp_path / "all" / "results.json", "evaluate")
    assert len(results(tmp_path / "all")["cases"]) == 3 * 6
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "results.json",
        "results.csv",
        "results.md",
        "findings.json",
    }


def test_an_external_validation_of_a_run_and_of_its_masks_is_the_same(run, masks, tmp_path, monkeypatch):
    cases = {row["case"] for row in results(run)["cases"]}
    table = tmp_path / "sites.csv"
    table.write_text("case,site\n" + "".join(f"{case},{case[-1]}\n" for case in cases))
    options = ["--external", "--strata", table, "--out"]
    command(monkeypatch, "evaluate", run, *options, tmp_path / "run")
    command(monkeypatch, "evaluate", "--masks", masks, "--against", run, *options, tmp_path / "masks")
    assert results(tmp_path / "run")["cases"] == results(run)["cases"]
    for name in ("agreement.csv", "strata.csv"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "masks" / name).read_text()
    assert "WT,site,3," in (tmp_path / "run" / "strata.csv").read_text()
    assert "ICC(2,1)" in (tmp_path / "run" / "results.md").read_text()
    assert (tmp_path / "masks" / "bland_altman.png").exists()


def test_the_worst_case_is_corrected_and_listed(labels, phantom, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "evaluate", "--masks", labels, "--data", phantom, "--worst", 1, "--out", tmp_path / "out")
    (case,) = (tmp_path / "out" / "worst" / "cases").iterdir()
    assert case.name.endswith("3")  # the one that was drawn one voxel aside
    shutil.copyfile(case / "label.nii.gz", case / "mask.nii.gz")
    command(monkeypatch, "correct", tmp_path / "out" / "worst", "-o", tmp_path / "new", "--json", tmp_path / "c.json")
    assert f"wrote {tmp_path / 'new' / 'dataset.json'}" in capsys.readouterr().out
    assert {change["case"] for change in json.loads((tmp_path / "c.json").read_text())["changes"]} == {case.name}
    back = nib.load(tmp_path / "new" / "labels" / f"{case.name}.nii.gz")
    assert np.array_equal(back.dataobj, nib.load(phantom / case.name / f"{case.name}_seg.nii.gz").dataobj)


@pytest.mark.usefixtures("masks")
def test_a_paired_test_by_hand(run, labels, tmp_path, monkeypatch, capsys):
    """Against scipy's own paired t-test, of the reader's and the run's Dice and HD95 of the same cases."""
    command(monkeypatch, "evaluate", "--masks", labels, "--against", run, "--out", tmp_path / "out")
    mine, theirs = results(tmp_path / "out")["cases"], results(run)["cases"]
    lines = (tmp_path / "out" / "against.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    assert len(rows) == 8
    for key, name in (("dice", "Dice"), ("hd95_mm", "HD95")):
        for region in ("WT", "TC", "ET"):
            one, other = ([row[key] for row in of if row["region"] == region] for of in (mine, theirs))
            row = next(row for row in rows if row["metric"].startswith(f"{name} {region}"))
            assert float(row["difference"]) == pytest.approx(np.mean(one) - np.mean(other))
            assert float(row["p"]) == pytest.approx(stats.ttest_rel(one, other).pvalue)
            assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
            assert 0 < float(row["p_max_t"]) <= 1
    assert "against run" in capsys.readouterr().out


def test_other_masks_and_other_evaluations_can_be_set_against(run, masks, labels, phantom, tmp_path, monkeypatch):
    data = ["--data", phantom]
    command(monkeypatch, "evaluate", "--masks", labels, *data, "--against", masks, "--out", tmp_path / "a")
    command(monkeypatch, "evaluate", "--masks", masks, *data, "--out", tmp_path / "masks")
    command(monkeypatch, "evaluate", "--masks", labels, *data, "--against", tmp_path / "masks", "--out", tmp_path / "b")
    one, other = results(tmp_path / "a"), results(tmp_path / "b")
    assert one["tables"] == other["tables"]
    assert one["cases"] == other["cases"]


def test_masks_in_other_numbers(labels, phantom, tmp_path, monkeypatch):
    folder = tmp_path / "renumbered"
    folder.mkdir()
    for path in labels.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(TO_2023[np.asarray(image.dataobj)], image.affine), folder / path.name)
    for name, masks, words in (("a", labels, []), ("b", folder, ["--mask-labels", "brats2023"])):
        command(monkeypatch, "evaluate", "--masks", masks, "--data", phantom, *words, "--out", tmp_path / name)
    assert results(tmp_path / "a")["cases"] == results(tmp_path / "b")["cases"]


def test_an_empty_mask_is_a_missed_region(run, masks, tmp_path, monkeypatch):
    case = results(run)["cases"][0]["case"]
    empty = changed(masks, tmp_path / "empty", case, lambda affine, array: (affine, np.zeros_like(array)))
    command(monkeypatch, "evaluate", "--masks", empty, "--against", run, "--out", tmp_path / "out")
    row = results(tmp_path / "out")["cases"][0]
    assert (row["empty"], row["dice"], row["hd95_mm"], row["predicted_ml"]) == ("missed", 0, 374, 0)


def test_refusals(run, masks, phantom, tmp_path, monkeypatch, capsys):
    def refused(*words):
        command(monkeypatch, "evaluate", *words, "--out", tmp_path / "out", code=1)
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    data, case = ("--data", phantom), "BraTS2021_00001"
    few = shutil.copytree(masks, tmp_path / "few")
    for number in (1, 4):
        (few / f"BraTS2021_0000{number}.nii.gz").unlink()
        (few / f"BraTS2021_0000{number}.json").unlink(missing_ok=True)
    said = refused("--masks", few, *data)
    assert "holds no mask of 2 of 6 cases" in said
    assert "BraTS2021_00001: expected" in said
    assert "BraTS2021_00004: expected" in said

    cut = changed(masks, tmp_path / "cut", case, lambda affine, array: (affine, array[1:]))
    assert f"{case}: mask {cut / case}.nii.gz and label" in (said := refused("--masks", cut, *data))
    assert "differ in shape: 47 x 48 x 32 and 48 x 48 x 32" in said
    moved = changed(masks, tmp_path / "moved", case, lambda affine, array: (affine + 2 * np.eye(4, k=3), array))
    assert "differ in affine" in refused("--masks", moved, *data)
    odd = changed(masks, tmp_path / "odd", case, lambda affine, array: (affine, array + np.uint8(6)))
    assert "it holds 6" in refused("--masks", odd, *data)

    assert "nothing says where the labels are" in refused("--masks", masks)
    assert "does not segment" in refused("--masks", masks, *data, "--task", "avdigits")
    assert "no label convention 'brats23'" in refused("--masks", masks, *data, "--mask-labels", "brats23")
    assert "no split of these data 'test'" in refused("--masks", masks, *data, "--split", "test")
    assert "none does not exist; expected a folder of masks" in refused("--masks", tmp_path / "none", *data)
    old = shutil.copytree(run, tmp_path / "old")
    report = results(old)
    report["rules"]["threshold"] = "probability of at least 0.5, no post-processing"
    (old / "results.json").write_text(json.dumps(report))
    assert "was scored by other rules (threshold); score it again" in refused("--masks", masks, "--against", old)
    report = results(run)
    report["cases"][0]["target_ml"] += 1
    (old / "results.json").write_text(json.dumps(report))
    assert f"scored other labels of {report['cases'][0]['case']}" in refused("--masks", masks, "--against", old)
    (old / "results.json").unlink()
    assert "is not finished" in refused("--masks", masks, "--against", old)


@pytest.mark.parametrize(
    "words", [[], ["RUN", "--masks", "m"], ["RUN", "--against", "x"], ["--masks", "m", "--subsets", "all"]], ids=str
)
def test_wrong_usage(words, monkeypatch):
    command(monkeypatch, "evaluate", *words, code=2)


# ---- data that declare their labels themselves -----------------------------------------------------------------------

NUMBERS = (300, 2, 9)  # rim, core, not annotated


def drawn(data, folder, numbers=None):
    """The labels of a declared list as masks: a voxel aside, nothing in voxels to ignore, perhaps in other numbers."""
    folder.mkdir()
    for path in (data.parent / "labels").iterdir():
        label = np.asarray(nib.load(path).dataobj).astype(int)
        mask = np.roll(np.where(label == NUMBERS[2], 0, label), 1, 0)
        if numbers is not None:
            mask = np.select([mask == old for old in numbers], list(numbers.values()), 0)
        nib.save(nib.Nifti1Image(mask.astype(np.uint16), AFFINE), folder / path.name)
    return folder


def dice_by_hand(data, case):
    """Of masks by ``drawn``: Dice of rim and core among the annotated voxels."""
    label = np.asarray(nib.load(data.parent / "labels" / f"{case}.nii.gz").dataobj).astype(int)
    known = label != NUMBERS[2]
    mask = np.roll(np.where(known, label, 0), 1, 0)
    both = [((label == n) & (mask == n)).sum() for n in NUMBERS[:2]]
    sizes = [(label == n).sum() + ((mask == n) & known).sum() for n in NUMBERS[:2]]
    return {name: 2 * b / size for name, b, size in zip(("rim", "core"), both, sizes, strict=True)}


@pytest.mark.parametrize("words", [[], ["--task", "segmentation"]], ids=str)
def test_declared_data_say_by_what_their_masks_are_scored(words, tmp_path, monkeypatch):
    data = cohort(tmp_path / "data", NUMBERS, lesion_rules={"dilations": 0, "min_mm3": 7})
    masks = drawn(data, tmp_path / "masks")
    for given, out in ((data, "list"), (data.parent, "folder")):
        command(monkeypatch, "evaluate", "--masks", masks, "--data", given, *words, "--out", tmp_path / out)
        found = results(tmp_path / out)
        assert found["task"] == "segmentation"
        assert "7 mm3" in "".join(found["rules"].values())
        for row in found["cases"]:
            assert row["dice"] == pytest.approx(dice_by_hand(data, row["case"])[row["region"]])
        assert {row["region"] for row in found["cases"]} == {"rim", "core"}
    # BraTS cases in a list are what the list says.
    content = json.loads(data.read_text())
    for entry in content["training"]:
        entry["id"] = f"BraTS2021_0000{entry['id'][1:]}"
    data.write_text(json.dumps(content))
    for path in masks.iterdir():
        path.rename(masks / f"BraTS2021_0000{path.name[1:]}")
    command(monkeypatch, "evaluate", "--masks", masks, "--data", data.parent, "--out", tmp_path / "named")
    assert [row["dice"] for row in results(tmp_path / "named")["cases"]] == [row["dice"] for row in found["cases"]]


def test_masks_of_nnunet_are_scored_in_the_numbers_of_its_data_set(tmp_path, monkeypatch, capsys):
    """An exported data set renumbers 300, 2 and 9 to 2, 1 and 3: its masks, and a run on the list, have one table."""
    data = cohort(tmp_path / "data", NUMBERS)
    small = set_options(SMALL)
    small += ["--set", "data.test=0.4"]
    export = ("--task", "segmentation", "--data", data, "--folder", tmp_path / "nn", "--id", "7", "--name", "x")
    command(monkeypatch, "nnunet", "export", *export, *small)
    raw = tmp_path / "nn" / "raw" / "Dataset007_x"
    declared = json.loads((raw / "dataset.json").read_text())["labels"]
    assert declared == {"background": 0, "core": 1, "rim": 2, "ignore": 3}
    plain, nnunet = drawn(data, tmp_path / "plain"), drawn(data, tmp_path / "nnunet", {300: 2, 2: 1})
    scored = {}
    for name, words in {
        "plain": (plain, "--data", data),
        "new numbers": (nnunet, "--data", data, "--mask-labels", raw),
        "exported labels": (nnunet, "--data", raw),
    }.items():
        command(monkeypatch, "evaluate", "--masks", *words, "--out", tmp_path / "out" / name)
        rows = results(tmp_path / "out" / name)["cases"]
        scored[name] = {(row["case"], row["region"]): row["dice"] for row in rows}
    assert scored["new numbers"] == scored["exported labels"] == scored["plain"]
    words = ("--task", "segmentation", "--data", data, *small, "--set", f"data.cache={tmp_path / 'cache'}")
    command(monkeypatch, "train", *words, "--out", tmp_path / "run")
    against = ("--against", tmp_path / "run", "--mask-labels", raw)
    command(monkeypatch, "evaluate", "--masks", nnunet, *against, "--out", tmp_path / "paired")
    held_out = {(row["case"], row["region"]): row["dice"] for row in results(tmp_path / "paired")["cases"]}
    assert held_out.items() <= scored["plain"].items()
    assert (tmp_path / "paired" / "against.csv").exists()
    # An evaluation says itself which task it was of.
    evaluated = ("--data", data, "--against", tmp_path / "out" / "plain")
    command(monkeypatch, "evaluate", "--masks", plain, *evaluated, "--out", tmp_path / "again")
    assert results(tmp_path / "again")["task"] == "segmentation"
    capsys.readouterr()
    other = cohort(tmp_path / "other", (1, 2), labels={"1": "a", "2": "core"})
    words = ("--data", data, "--mask-labels", other, "--out", tmp_path / "none")
    command(monkeypatch, "evaluate", "--masks", nnunet, *words, code=1)
    assert "declares no region rim; it has a, core. Give its regions the names" in capsys.readouterr().err


def test_a_label_on_a_grid_of_its_own_is_scored_there(tmp_path, monkeypatch, capsys):
    """Twice as fine along x as the images: masks on that grid are scored; those on the grid of the images are not."""
    data = cohort(tmp_path / "data", NUMBERS[:2], reference="flair")
    coarse = tmp_path / "coarse"
    shutil.copytree(data.parent / "labels", coarse)
    finer = AFFINE @ np.diag([0.5, 1, 1, 1])
    finer[0, 3] -= 0.25
    for path in (data.parent / "labels").iterdir():
        label = np.repeat(np.asarray(nib.load(path).dataobj), 2, axis=0)
        nib.save(nib.Nifti1Image(label, finer), path)
    fine = tmp_path / "fine"
    shutil.copytree(data.parent / "labels", fine)
    command(monkeypatch, "evaluate", "--masks", fine, "--data", data, "--out", tmp_path / "out")
    rows = results(tmp_path / "out")["cases"]
    assert {row["dice"] for row in rows} == {1.0}
    whole = sum(row["target_ml"] for row in rows if row["case"] == "p0")
    assert whole == pytest.approx(5 * 5 * 4 * 24 / 1000)  # 5 x 5 x 4 voxels of 24 mm3, halved twice as often
    command(monkeypatch, "evaluate", "--masks", coarse, "--data", data, "--out", tmp_path / "none", code=1)
    said = capsys.readouterr().err
    assert "on the label's grid, to which a mask on another is to be resampled by nearest neighbour" in said
    assert f"p0: mask {coarse / 'p0.nii.gz'} and label" in said
    assert f"differ in shape: {' x '.join(map(str, SHAPE))} and 40 x 18 x 8" in said
    assert not (tmp_path / "none").exists()
