import csv
import html
import json
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest
from helpers.finished import finished_run
from scipy import stats

from cggm_med.comparison.compare import compare
from cggm_med.comparison.controls import absent_controls
from cggm_med.comparison.notes import notes
from cggm_med.comparison.primary import Declaration
from cggm_med.comparison.selection import comparable_runs
from cggm_med.comparison.statistics import bootstrap_estimate
from cggm_med.comparison.tables import comparison_tables
from cggm_med.comparison.variants import parse_variants
from cggm_med.comparison.written import write_comparison
from cggm_med.errors import CheckpointError, ConfigError, UnknownName
from cggm_med.runs.finished_run import FinishedRun

A, B, C = "a", "b", "c"


def compared(folders, baseline="joint", names=None, declared=()):
    runs, excluded = comparable_runs({folder: (names or {}).get(folder) for folder in folders})
    return compare(runs, excluded, baseline, declared)


def row(comparison, name, score="Dice mean"):
    (found,) = [r for r in comparison.of_metric(score) if r.name == name]
    return found


def two_strategies(tmp_path, gains=((0.1, 0.3), (0.2, 0.0), (0.0, 0.1))):
    """Three seeds, two cases; ``gains`` is what cggm scores more."""
    folders = []
    for seed, (gain_a, gain_b) in enumerate(gains):
        joint = {A: 0.5 + seed / 100, B: 0.6}
        cggm = {A: joint[A] + gain_a, B: joint[B] + gain_b}
        folders.append(finished_run(tmp_path / f"joint-{seed}", joint, seed=seed))
        folders.append(finished_run(tmp_path / f"cggm-{seed}", cggm, strategy="cggm", seed=seed))
    return folders


def test_means_differences_and_the_test_by_hand(tmp_path):
    found = row(compared(two_strategies(tmp_path)), "cggm")
    assert found.runs == found.paired == 3
    assert found.difference == pytest.approx((0.2 + 0.1 + 0.05) / 3)
    # One test set for all seeds, so it is the plain paired test.
    assert found.p == pytest.approx(stats.ttest_1samp([0.2, 0.1, 0.05], 0).pvalue)
    assert found.p_max_t == pytest.approx(2 / 8)  # all gains: of 8 patterns of signs, 2 are as extreme
    assert found.mean == pytest.approx(statistics.fmean([0.75, 0.655, 0.61]))
    assert found.sd == pytest.approx(statistics.stdev([0.75, 0.655, 0.61]))
    assert found.rank == 1
    low, high = found.difference_interval
    assert low < found.difference < high


def test_a_strategy_that_does_as_the_baseline_does_differs_by_nothing(tmp_path):
    found = row(compared(two_strategies(tmp_path, gains=((0, 0), (0, 0)))), "cggm")
    assert found.difference == 0
    assert found.difference_interval == (0, 0)
    assert found.p == 1
    assert found.rank == 1.5


def test_the_order_of_the_runs_does_not_matter(tmp_path):
    folders = two_strategies(tmp_path)
    forwards, backwards = compared(folders), compared(folders[::-1])
    assert row(forwards, "cggm") == row(backwards, "cggm")


def test_folds_of_a_seed_are_one_score(tmp_path):
    for fold, (case, dice) in enumerate([(A, 0.4), (B, 0.8)]):
        finished_run(tmp_path / f"joint-{fold}", {case: dice}, train=("t1", A if case == B else B))
        finished_run(tmp_path / f"cggm-{fold}", {case: dice + 0.1}, strategy="cggm", train=("t1", "t2"))
    comparison = compared(sorted(tmp_path.iterdir()))
    found = row(comparison, "joint")
    assert (found.runs, found.mean, found.sd) == (2, pytest.approx(0.6), None)
    assert row(comparison, "cggm").difference == pytest.approx(0.1)


def test_the_paired_test_allows_for_splits_that_share_training_data(tmp_path):
    for seed, (case, gain) in enumerate([(A, 0.1), (B, 0.2), (C, 0.4)]):
        finished_run(tmp_path / f"joint-{seed}", {case: 0.5}, seed=seed, train=("t1", "t2"))
        finished_run(tmp_path / f"cggm-{seed}", {case: 0.5 + gain}, strategy="cggm", seed=seed, train=("t1", "t2"))
    found = row(compared(sorted(tmp_path.iterdir())), "cggm")
    gains = [0.1, 0.2, 0.4]
    t = statistics.fmean(gains) / ((1 / 3 + 1 / 2) * statistics.variance(gains)) ** 0.5
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))


def test_patients_that_are_new_for_every_seed_make_the_plain_test(tmp_path):
    for seed, gain in enumerate([0.1, 0.2, 0.4]):
        case, train = {f"{seed}": 0.5}, (f"t{seed}",)
        finished_run(tmp_path / f"joint-{seed}", case, seed=seed, train=train)
        finished_run(tmp_path / f"cggm-{seed}", {f"{seed}": 0.5 + gain}, strategy="cggm", seed=seed, train=train)
    comparison = compared(sorted(tmp_path.iterdir()))
    found, plain = row(comparison, "cggm"), stats.ttest_1samp([0.1, 0.2, 0.4], 0)
    assert (found.p, found.seeds_p) == (pytest.approx(plain.pvalue), None)
    assert found.difference_interval == pytest.approx(tuple(plain.confidence_interval()))
    assert "speak for other patients and other seeds" in " ".join(notes(comparison))
    assert "p (max-t) is corrected for 1 comparison. With so few runs it cannot fall below 0.25" in notes(comparison)[1]


def test_one_test_set_has_a_number_for_other_patients_and_one_for_other_seeds(tmp_path):
    """Two seeds, six patients of whom one has two cases, which are drawn together and average as two."""
    gains = dict(zip("abcdefg", (0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.3), strict=True))
    for seed in (0, 1):
        joint = dict.fromkeys(gains, 0.5)
        cggm = {case: 0.5 + gain + (0.02 if seed else -0.02) for case, gain in gains.items()}
        for strategy, dice in (("joint", joint), ("cggm", cggm)):
            run = tmp_path / f"{strategy}-{seed}"
            finished_run(run, dice, strategy=strategy, seed=seed, groups={"f": "one", "g": "one"})
    comparison = compared(sorted(tmp_path.iterdir()))
    found = row(comparison, "cggm")
    sums, counts = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.6]), np.array([1, 1, 1, 1, 1, 2])
    assert found.difference == pytest.approx(1.5 / 7)
    assert found.difference_interval == pytest.approx(bootstrap_estimate(sums, counts).interval())
    over_seeds = stats.ttest_1samp([1.5 / 7 - 0.02, 1.5 / 7 + 0.02], 0)
    assert found.seeds_p == pytest.approx(over_seeds.pvalue)
    assert found.seeds_interval == pytest.approx(tuple(over_seeds.confidence_interval()))
    assert found.p_max_t == pytest.approx(2 / 2**6)  # over patients, all of whom gain
    table = comparison_tables(comparison)[0]
    assert table.header[-2] == "other seeds"
    assert next(r for r in table.rows if r[0] == "cggm")[-2].endswith(f"p {over_seeds.pvalue:.3f}")
    assert "the same 6 patients" in notes(comparison)[2]


DECLARED = Declaration("cggm", "joint", None, "2026-11-01 10:00 UTC", 0, (0, 1, 2))


def test_the_primary_comparison_is_tested_alone(tmp_path):
    folders = two_strategies(tmp_path)
    for seed, extra in enumerate((0.01, 0.02, 0.05)):
        dice = {A: 0.5 + seed / 100 + extra, B: 0.6}
        folders.append(finished_run(tmp_path / f"uniform-{seed}", dice, strategy="uniform", seed=seed))
    comparison = compared(folders, declared=[DECLARED])
    primary, found = comparison.primary, row(comparison, "cggm")
    assert (primary.p, found.p_max_t, primary.shown) == (found.p, None, found.p < 0.05)
    assert row(comparison, "uniform").p_max_t == 0.25  # alone in its family
    assert row(comparison, "cggm", "Dice WT").p_max_t is not None  # by another metric it is exploratory
    said = notes(comparison)[0]
    assert "`cggm` against `joint` by Dice mean. Difference +0.117" in said
    assert said.endswith("declared 2026-11-01 10:00 UTC, before any run was finished.")
    cells = comparison_tables(comparison)[0].rows[1]
    assert cells[7] == "primary"
    # Alone, 3 runs can find what has t of 5.65 in the mean: noncentral t with 2 degrees of freedom.
    error = stats.sem([0.2, 0.1, 0.05])
    assert found.detectable == pytest.approx(5.653 * error, rel=1e-3)


def test_what_was_declared_late_or_for_others_says_so(tmp_path):
    late = replace(DECLARED, finished=4, seeds=(0, 1))
    folders = two_strategies(tmp_path)
    said = notes(compared(folders, declared=[replace(DECLARED, name="ogm"), late]))[0]
    assert "after 4 runs were finished in place of `ogm`; for seeds 0, 1, and here are 0, 1, 2" in said
    elsewhere = notes(compared(folders, declared=[replace(DECLARED, name="ogm")]))[0]
    assert "No runs of it can be paired here, against `joint`" in elsewhere


@pytest.mark.parametrize(
    ("gains", "margin", "says"),
    [
        ((-0.010, -0.011, -0.012), 0.02, "not inferior."),
        ((-0.010, -0.011, -0.012), 0.011, "not shown to be non-inferior."),
        ((0.010, 0.011, 0.012), 0.02, "not inferior, and better."),
    ],
)
def test_not_worse_than_by_a_margin(gains, margin, says, tmp_path):
    folders = two_strategies(tmp_path, [(gain, gain) for gain in gains])
    comparison = compared(folders, declared=[replace(DECLARED, margin=margin)])
    low, _ = comparison.primary.row.difference_interval
    expected = stats.ttest_1samp(gains, -margin, alternative="greater").pvalue
    assert comparison.primary.p == pytest.approx(expected)
    assert comparison.primary.shown == (low > -margin) == (expected < 0.025)
    assert says in notes(comparison)[0]


def test_a_seed_that_only_one_strategy_has_is_not_paired(tmp_path):
    folders = two_strategies(tmp_path)[:-2]
    folders.append(finished_run(tmp_path / "more", {A: 0.9, B: 0.9}, strategy="cggm", seed=7))
    found = row(compared(folders), "cggm")
    assert (found.runs, found.paired) == (3, 2)
    assert found.difference == pytest.approx((0.2 + 0.1) / 2)
    cells = comparison_tables(compared(folders))[0].rows[1]
    assert cells[1] == "3 (2 paired)"


def test_settings_that_differ_become_part_of_the_name(tmp_path):
    finished_run(tmp_path / "0", {A: 0.5})
    finished_run(tmp_path / "1", {A: 0.6}, strategy="cggm", settings=["strategy.rho=1.3", "train.epochs=5"])
    assert [r.name for r in compared(sorted(tmp_path.iterdir())).rows[:2]] == ["joint", "cggm, rho=1.3, epochs=5"]


def test_a_name_reads_as_the_words_that_ask_for_it(tmp_path):
    words = "joint[model.channels=[8,16],train.subset_view=0.5,train.subset_view_guided=true]"
    (variant,) = parse_variants(words)
    finished_run(tmp_path / "0", {A: 0.5}, settings=variant.assignments)
    assert compared(list(tmp_path.iterdir()), variant.name).names == [variant.name]


def test_networks_of_fewer_modalities_are_compared_by_name(tmp_path):
    for name, settings in (("all", ()), ("one", ("task.modalities=[t1]",))):
        run = finished_run(tmp_path / name, {"a": 0.5}, settings=settings)
        file = run / "data.json"
        digests = {case: {"label": case, "prepared": f"{case} of {name}"} for case in json.loads(file.read_text())}
        file.write_text(json.dumps(digests))
    runs, excluded = comparable_runs({tmp_path / "all": None, tmp_path / "one": None})
    assert ([run.name for run in runs], excluded) == (["joint", "joint, modalities=[t1]"], [])


def test_other_files_under_the_same_name_are_found_whatever_the_modalities(tmp_path):
    for name, settings in (("all", ()), ("one", ("task.modalities=[t1]",))):
        run = finished_run(tmp_path / name, {"a": 0.5}, settings=settings)
        digests = {case: {"label": f"{case} of {name}", "prepared": name} for case in ("a", "t1", "t2", "t3")}
        (run / "data.json").write_text(json.dumps(digests))
    _, (excluded,) = comparable_runs({tmp_path / "all": None, tmp_path / "one": None})
    assert "4 of its cases hold other data under the same name" in excluded.reason


def test_what_all_runs_share_is_left_out_of_the_names(tmp_path):
    finished_run(tmp_path / "0", {A: 0.5}, settings=["train.epochs=5"])
    finished_run(tmp_path / "1", {A: 0.6}, strategy="cggm", settings=["train.epochs=5"])
    comparison = compared(sorted(tmp_path.iterdir()))
    assert [cells[0] for cells in comparison_tables(comparison)[0].rows] == ["joint", "cggm"]


def test_runs_that_do_not_fit_are_named_with_the_reason(tmp_path):
    folders = two_strategies(tmp_path)
    folders.append(finished_run(tmp_path / "coarse", {A: 0.9}, settings=["data.spacing=[2,2,2]"]))
    other = finished_run(tmp_path / "other", {A: 0.9}, seed=8)
    (other / "data.json").write_text(json.dumps({A: {"prepared": "something else"}}))
    unfinished = finished_run(tmp_path / "unfinished", {A: 0.9}, seed=9)
    (unfinished / "results.json").unlink()
    twin = finished_run(tmp_path / "twin", {A: 0.9, B: 0.9})
    comparison = compared([*folders, other, unfinished, twin, tmp_path / "nothing"])
    reasons = {x.run.rsplit("/", 1)[1]: x.reason for x in comparison.excluded}
    assert set(reasons) == {"coarse", "other", "unfinished", "twin", "nothing"}
    assert "data.spacing is [2.0, 2.0, 2.0], of most runs None" in reasons["coarse"]
    assert "other data under the same name (a)" in reasons["other"]
    assert "not finished" in reasons["unfinished"]
    assert "joint-0" in reasons["twin"]
    assert "not a run folder" in reasons["nothing"]
    assert row(comparison, "joint").runs == 3
    assert comparison_tables(comparison)[-1].title == "runs that take no part"


def test_controls_that_no_run_has_are_named_with_who_needs_them(pictures, tmp_path):
    two = two_strategies(tmp_path)
    absent = {"uniform": ("cggm",), "unimodal_ensemble": ("cggm", "joint")}
    assert compared(two).absent_controls == absent
    line = "Controls not in this comparison: uniform (of cggm), unimodal_ensemble (of every strategy)."
    write_comparison(tmp_path / "out", compared(two), {})
    table = (tmp_path / "out" / "comparison.md").read_text().split("\n## ")[1]
    assert table.strip().endswith(f"\n\n{line}")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["absent_controls"]["uniform"] == ["cggm"]
    more = [finished_run(tmp_path / name, {A: 0.5}, strategy=name) for name in absent]
    assert compared([*two, *more]).absent_controls == {}


def test_a_control_of_fewer_modalities_is_none_and_one_modality_needs_none(tmp_path):
    settings = {"pair": ("task.modalities=[t1,t2]",), "one": ("task.modalities=[t1]",)}
    alone, pair = (finished_run(tmp_path / n, {A: 0.5}, settings=settings[n]) for n in ("one", "pair"))
    ensemble = finished_run(tmp_path / "all", {A: 0.5}, strategy="unimodal_ensemble")
    assert absent_controls([FinishedRun(alone)]) == {}
    assert absent_controls([FinishedRun(run) for run in (pair, ensemble)]) == {
        "joint": ("unimodal_ensemble",),
        "unimodal_ensemble": ("joint",),
    }


def test_the_mean_over_subsets_is_compared_too(tmp_path):
    subsets = {(c, s): d for c in (A, B) for s, d in [("flair", 0.2), ("t1", 0.4), ("flair+t1", 0.6)]}
    better = {key: d + 0.1 for key, d in subsets.items()}
    finished_run(tmp_path / "0", {A: 0.6, B: 0.6}, subsets=subsets)
    finished_run(tmp_path / "1", {A: 0.6, B: 0.6}, strategy="cggm", subsets=better)
    comparison = compared(sorted(tmp_path.iterdir()))
    score = "Dice mean, mean over subsets"
    assert row(comparison, "joint", score).mean == pytest.approx(0.4)
    assert row(comparison, "cggm", score).difference == pytest.approx(0.1)
    (table,) = [t for t in comparison_tables(comparison) if "by subset" in t.title]
    assert table.rows[0] == ("flair", "0.200", "0.300")


def test_order_violations_and_the_worst_subset_are_compared_too(tmp_path):
    subsets = {(c, s): d for c in (A, B) for s, d in [("flair", 0.7), ("t1", 0.4), ("flair+t1", 0.6)]}
    other = {key: 0.65 if key == (A, "flair+t1") else 0.5 for key in subsets}
    finished_run(tmp_path / "0", {A: 0.6, B: 0.6}, subsets=subsets)
    finished_run(tmp_path / "1", {A: 0.6, B: 0.6}, strategy="cggm", subsets=other)
    comparison = compared(sorted(tmp_path.iterdir()))
    score = "Dice mean, order violations (lower is better)"
    assert (row(comparison, "joint", score).mean, row(comparison, "joint", score).rank) == (0.5, 2)
    assert row(comparison, "cggm", score).difference == -0.5
    assert row(comparison, "cggm", "Dice mean, worst subset").difference == pytest.approx(0.1)
    (table,) = [t for t in comparison_tables(comparison) if t.title.startswith("order")]
    assert table.header == ("strategy", "Dice WT", "Dice ET", "Dice mean", "worst subset")
    assert table.rows[0] == ("joint", *["50.0 % / 50.0 %"] * 3, "t1 (0.400)")
    assert table.rows[1][1:4] == ("0.0 % / 0.0 %",) * 3


def test_a_network_of_one_modality_has_no_mean_over_subsets(pictures, tmp_path):
    subsets = {(c, s): d for c in (A, B) for s, d in [("flair", 0.2), ("t1", 0.4), ("flair+t1", 0.6)]}
    finished_run(tmp_path / "joint", {A: 0.6, B: 0.6}, subsets=subsets)
    finished_run(tmp_path / "cggm", {A: 0.7, B: 0.7}, strategy="cggm", subsets=subsets)
    alone = {(c, "t1"): 0.5 for c in (A, B)}
    finished_run(tmp_path / "t1", {A: 0.5, B: 0.5}, settings=["task.modalities=[t1]"], subsets=alone)
    comparison = compared(sorted(tmp_path.iterdir()))
    assert len(comparison.of_metric("Dice mean")) == 3
    for metric in ("mean over subsets", "order violations (lower is better)", "worst subset"):
        assert [r.name for r in comparison.of_metric(f"Dice mean, {metric}")] == ["cggm", "joint"]
    write_comparison(tmp_path / "out", comparison, {})
    (table,) = [t for t in comparison_tables(comparison) if "by subset" in t.title]
    assert [cells[-1] for cells in table.rows] == ["-", "0.500", "-"]


def test_the_baseline_again_from_other_weights_is_no_strategy(tmp_path):
    folders = two_strategies(tmp_path)
    for seed, off in enumerate((0.02, -0.01, 0.03)):
        settings = ["train.init_seed=1"]
        dice = {A: 0.5 + seed / 100 + off, B: 0.6 + off}
        folders.append(finished_run(tmp_path / f"again-{seed}", dice, seed=seed, settings=settings))
        other = [*settings, "train.subset_view=0.5"]
        folders.append(finished_run(tmp_path / f"other-{seed}", dice, seed=seed, settings=other))
    comparison = compared(folders)
    assert comparison.repeats == ("joint, init_seed=1",)
    assert row(comparison, "joint, init_seed=1").p_max_t is None
    cells = {cells[0]: cells for cells in comparison_tables(comparison)[0].rows}
    assert cells["joint, init_seed=1"][7] == "A/A"
    (line,) = [line for line in notes(comparison) if line.startswith("A/A")]
    assert "`joint, init_seed=1` is `joint` again" in line
    assert "Dice mean +0.013" in line
    assert "single runs by 0.020" in line
    assert "corrected for 2 comparisons" in notes(comparison)[1]  # that of cggm and of the subset view


def budgets(tmp_path):
    folders = []
    for epochs, lift in ((5, 0.0), (20, 0.1)):
        for strategy, gain in (("joint", 0.0), ("cggm", 0.02 + lift)):
            for seed in (0, 1):
                settings = [f"train.epochs={epochs}", "train.steps_per_epoch=50"]
                dice = {A: 0.5 + lift + gain + seed / 50, B: 0.5}
                subsets = {(c, s): d for c, d in dice.items() for s in ("t1", "flair+t1")}
                run = tmp_path / f"{strategy}-{epochs}-{seed}"
                finished_run(run, dice, strategy=strategy, seed=seed, settings=settings, subsets=subsets)
                folders.append(run)
    return folders


def test_a_strategy_is_compared_with_the_baseline_that_was_trained_as_long(pictures, tmp_path):
    folders = budgets(tmp_path / "runs")
    comparison = compared(folders)
    assert comparison.baselines["cggm, epochs=20"] == "joint, epochs=20"
    assert row(comparison, "cggm, epochs=20").difference == pytest.approx(0.06)
    assert row(comparison, "joint, epochs=20").difference is None
    assert "compared with `joint` trained for the same number of steps" in " ".join(notes(comparison))
    (table,) = [t for t in comparison_tables(comparison) if t.title.startswith("over the budget")]
    assert [cells[:4] for cells in table.rows] == [
        ("joint", "250", "0.8", "0.505"),
        ("joint", "1,000", "0.8", "0.555"),
        ("cggm", "250", "0.8", "0.515"),
        ("cggm", "1,000", "0.8", "0.615"),
    ]
    assert table.rows[3][4] == "+0.060"  # both seeds gain the same, so there is no interval
    # One that is named in full is that of all, so that lengths can be compared too.
    assert row(compared(folders, "joint, epochs=5"), "joint, epochs=20").difference == pytest.approx(0.05)
    without = compared(folders[2:], "joint")
    assert without.baselines["cggm, epochs=5"] is None
    assert "No `joint` was trained as long as `cggm, epochs=5`" in " ".join(notes(without))
    write_comparison(tmp_path / "out", comparison, {})
    for name in ("curves.png", "subsets.png", "cost.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
        assert f"]({name})" in (tmp_path / "out" / "comparison.md").read_text()
    write_comparison(tmp_path / "out", compared(folders[:2]), {})  # one strategy at one budget
    assert not (tmp_path / "out" / "curves.png").exists()


def test_how_much_the_baseline_still_learned_is_said(tmp_path):
    for seed, scores in enumerate(([0.3, 0.5, 0.6, 0.7], [0.4, 0.6, 0.5, 0.5])):
        settings = ["train.epochs=4", "train.steps_per_epoch=5"]
        run = finished_run(tmp_path / f"{seed}", {A: 0.5}, seed=seed, settings=settings)
        records = [
            {"kind": "validation", "step": 5 * (i + 1), "scores": {"Dice mean": s}} for i, s in enumerate(scores)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (line,) = [line for line in notes(compared(sorted(tmp_path.iterdir()))) if line.startswith("Budget")]
    assert "20 steps" in line
    assert "improved by 0.050 (mean over runs)" in line  # 0.1 and nothing


def test_trainings_that_validation_ended_are_said_to_differ_in_length(tmp_path):
    for strategy, ends in (("joint", (20, 35)), ("cggm", (25, 25))):
        for seed, end in enumerate(ends):
            settings = ["train.epochs=10", "train.steps_per_epoch=5", "train.validate_every=1", "train.stop_after=2"]
            folder = tmp_path / f"{strategy}-{seed}"
            run = finished_run(folder, {A: 0.5}, strategy=strategy, seed=seed, settings=settings)
            lines = [
                {"kind": "validation", "step": step, "scores": {"Dice mean": 0.5}} for step in range(5, end + 1, 5)
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (run / "ended.json").write_text(json.dumps({"step": end, "why": "validation"}))
    comparison = compared(sorted(tmp_path.iterdir()))
    (line,) = [line for line in notes(comparison) if line.startswith("Trainings that ended early")]
    assert "by `train.stop_after`: steps trained: `cggm` 25, `joint` 20 to 35. These are not equal" in line
    assert any(line.startswith("Budget: 28 steps") for line in notes(comparison))  # the median, rounded
    (tmp_path / "joint-0" / "ended.json").write_text("{}")
    without = compared(sorted(tmp_path.iterdir()))
    damaged = "ended.json is damaged or incomplete (ValueError: step is nothing, expected a whole number); put back"
    assert damaged in without.excluded[0].reason


def test_files_say_the_same(pictures, tmp_path):
    comparison = compared(two_strategies(tmp_path / "runs"))
    write_comparison(tmp_path / "out", comparison, {"command": "cggm-med compare"})
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    mine = row(comparison, "cggm")
    assert float(next(r for r in rows if r["name"] == "cggm" and r["score"] == "Dice mean")["mean"]) == mine.mean
    assert content["rows"][1]["difference"] == mine.difference
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [r["strategy"] for r in csv.DictReader(file)] == ["joint", "cggm"] * 3
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"{mine.mean:.3f} ± {mine.sd:.3f}" in text
    assert "Nadeau" in text
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    paper = (tmp_path / "out" / "comparison.tex").read_text()
    assert f"{mine.mean:.3f} $\\pm$ {mine.sd:.3f}" in paper
    assert paper.count(r"\begin{tabular}") == len(re.findall(r"^\| ---", text, re.MULTILINE))
    assert not re.search(
        r"(?<!\\)[%&#_](?![^\n]*\\\\$)", re.sub(r"^%.*$", "", paper, flags=re.MULTILINE).replace(" & ", "")
    )


def test_the_page_shows_all_tables_and_needs_no_other_file(pictures, tmp_path):
    folders = two_strategies(tmp_path / "runs")
    (tmp_path / "runs" / "none").mkdir()
    comparison = compared([*folders, tmp_path / "runs" / "none"], "<b>joint", dict.fromkeys(folders[::2], "<b>joint"))
    write_comparison(tmp_path / "out", comparison, {"command": "cggm-med compare a<b"})
    page = (tmp_path / "out" / "comparison.html").read_text()
    cells = {html.unescape(text) for text in re.findall(r"<t[dh][^>]*>(?:<button[^>]*>)?([^<]*)", page)}
    said = html.unescape(page.replace("<code>", "").replace("</code>", ""))
    for table in comparison_tables(comparison):
        assert {"–" if cell == "-" else cell for row in table.rows for cell in row} <= cells, table.title
    assert all(line.replace("`", "") in said for line in notes(comparison))
    assert page.count('src="data:image/png;base64,') == 2  # the differences, and the cost
    assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import', page)
    assert "<b>" not in page
    assert "prefers-color-scheme: dark" in page


def test_a_damaged_run(tmp_path):
    folder = finished_run(tmp_path / "x", {A: 0.5})
    (folder / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        _ = FinishedRun(folder).report


def test_nothing_to_compare(tmp_path):
    with pytest.raises(ConfigError, match="no run can be compared"):
        compared([tmp_path])


def test_an_unknown_baseline(tmp_path):
    with pytest.raises(UnknownName, match="--baseline"):
        compared([finished_run(tmp_path / "x", {A: 0.5}, strategy="cggm")])
