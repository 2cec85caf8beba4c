"""Methods in words and answers to checklists: only what a run knows, in its numbers."""

import json

from helpers.finished import finished_run

from cggm_med.report.assets import Assets
from cggm_med.report.checklists import CLAIM, ITEMS, NOT_KNOWN, TRIPOD_AI, answers
from cggm_med.report.methods import PARAGRAPH, facts_of, methods_paragraph
from cggm_med.report.paper import paper_section
from cggm_med.runs.finished_run import FinishedRun

# The parts of TRIPOD+AI, Collins et al. 2024, Table 2: 52 in 27 items.
TRIPOD_PARTS = {
    **{str(n): "" for n in (1, 2, 4, 7, 10, 11, 13, 14, 15, 16, 17, 19, 21, 22, 24, 25, 26)},
    **{"3": "abc", "5": "ab", "6": "abc", "8": "abc", "9": "abc", "12": "abcdefg", "18": "abcdef", "20": "abc"},
    **{"23": "ab", "27": "abc"},
}


def known_run(folder, **options):
    """A run of which everything is known."""
    run = finished_run(folder, {"x": 0.5, "y": 0.7}, strategy="cggm", seed=7, **options)
    stored = json.loads((run / "results.json").read_text())
    stored["rules"] |= {
        "regions": "WT = [1, 2, 4]",
        "threshold": "0.5",
        "component filter": "none",
        "HD95": "in mm",
        "checkpoint": "best, step 40",
    }
    stored["provenance"] = {"data": "Site A", "versions": "torch 2", "device": "CPU, 1 process(es)"}
    (run / "results.json").write_text(json.dumps(stored))
    findings = [{"kind": "implausible_size"}] * 2
    (run / "findings.json").write_text(json.dumps({"accepted": [], "findings": findings}))
    for kind in ("external", "robustness", "subsets", "calibration"):
        (run / kind / "there").mkdir(parents=True)
        (run / kind / "there" / "results.json").write_text("{}")
    (run / "figures").mkdir()
    (run / "figures" / "x.png").write_bytes(b"")
    return run


def test_the_paragraph_has_the_numbers_of_the_run(tmp_path):
    settings = ["optim.lr=0.002", "train.batch_size=4", "data.spacing=[1,1,3]", "train.modality_dropout=0.25"]
    groups = {"t1": "p1", "t2": "p1", "t3": "p2", "x": "p3", "y": "p4"}
    said = methods_paragraph(FinishedRun(known_run(tmp_path / "run", settings=settings, groups=groups)))
    for expected in (
        "The data set (Site A) has 5 cases with the modalities flair, t1, t1ce, t2.",
        "3 for training (of 2 patients), 2 for testing (of 2 patients).",
        "resampled to 1 x 1 x 3 mm",
        "of batch size 4 on CPU, 1 process(es) in 1.0 minutes, with AdamW (learning rate 0.002, ",
        "The loss was soft Dice plus binary cross-entropy.",
        "Modalities were balanced by the strategy cggm (",
        "left out of training samples at random (probability 0.25)",
        "The evaluated weights: best, step 40.",
        "The random seed was 7.",
        "implausible_size 2",
    ):
        assert expected in said
    assert "None" not in said
    assert "\n" not in said


def test_what_a_run_does_not_know_is_not_made_up(tmp_path):
    run = FinishedRun(finished_run(tmp_path / "run", {"x": 0.5}))  # without provenance, patients and findings
    facts = facts_of(run)
    assert not {"disjoint", "software", "checks", "external", "robustness"} & set(facts)
    found = {(item["checklist"], item["item"]): item["answer"] for item in answers(facts)}
    assert found[CLAIM, "20"] == f"{NOT_KNOWN}level at which the partitions are disjoint."
    assert found[CLAIM, "37"] == "Dice WT 0.500, Dice ET 0.500, Dice mean 0.500 (1 case, test partition)."
    assert all(answer.startswith(NOT_KNOWN) for key, answer in found.items() if key[1] in ("11", "36", "5b"))


def test_a_patient_in_two_partitions_is_told(tmp_path):
    groups = {"t1": "p1", "x": "p1"}
    facts = facts_of(FinishedRun(finished_run(tmp_path / "run", {"x": 0.5}, groups=groups)))
    assert facts["disjoint"] == "Some patient has cases in more than one partition."


def test_items_are_those_of_the_published_lists_and_their_facts_exist(tmp_path):
    groups = {case: case for case in ("t1", "t2", "t3", "x", "y")}
    run = known_run(tmp_path / "run", groups=groups, settings=["data.allow_missing=true"])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").write_bytes(b"weights")
    known = set(facts_of(FinishedRun(run)))
    assert {fact for item in ITEMS for fact in item.facts} | set(PARAGRAPH) == known
    claim = [item.number for item in ITEMS if item.checklist == CLAIM]
    tripod = [item.number for item in ITEMS if item.checklist == TRIPOD_AI]
    parts = {number + letter for number, letters in TRIPOD_PARTS.items() for letter in letters or [""]}
    assert len(parts) == 52
    assert set(claim) <= {str(n) for n in range(1, 45)}
    assert set(tripod) <= parts
    assert (len(claim), len(tripod)) == (len(set(claim)), len(set(tripod)))


def test_the_section_shows_each_run_and_leaves_the_text_beside_the_page(tmp_path):
    runs = [FinishedRun(known_run(tmp_path / name), name) for name in ("first", "second")]
    (tmp_path / "files").mkdir()
    section = paper_section(runs, Assets(tmp_path / "files", tmp_path / "report.html"))
    text = (tmp_path / "files" / "methods.txt").read_text()
    assert text.count("The random seed was 7.") == 2
    assert methods_paragraph(runs[0]) in text
    rows = (tmp_path / "files" / "checklists.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(ITEMS)
    assert section.body.count("<table") == 2
