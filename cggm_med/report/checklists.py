"""Items of two checklists for papers that a run can answer, with its answers.

Item numbers and subjects are those of CLAIM, 2024 update (Tejani et al., Radiology: Artificial Intelligence 2024,
https://doi.org/10.1148/ryai.240300, 44 items) and of TRIPOD+AI (Collins et al., BMJ 2024,
https://doi.org/10.1136/bmj-2023-078378, 27 items in 52 parts); the words are ours. What is not here, such as ethics,
eligibility and the discussion, a run has nothing to say about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLAIM, TRIPOD_AI = "CLAIM 2024", "TRIPOD+AI"
NOT_KNOWN = "not known to a run: "


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        checklist: ``CLAIM 2024`` or ``TRIPOD+AI``.
        number: as published.
        subject: what it asks for.
        facts: that answer it, see ``methods.facts_of``.
        lacking: what a paper has to add, or what would let the run know it; empty if the facts are a whole answer.
    """

    checklist: str
    number: str
    subject: str
    facts: tuple[str, ...] = ()
    lacking: str = ""

    def answer(self, known: Mapping[str, str]) -> str:
        """What the run says, and what it does not know.

        Example:
            >>> item = Item(CLAIM, "7", "data sources", ("data",), "where the data are from")
            >>> item.answer({"data": "12 cases."}), item.answer({})
            ('12 cases. Not known to a run: where the data are from.', 'not known to a run: where the data are from.')
        """
        said = " ".join(known[fact] for fact in self.facts if fact in known)
        unknown = f"{NOT_KNOWN}{self.lacking or self.subject}."
        if not said:
            return unknown
        return f"{said} {unknown[0].upper()}{unknown[1:]}" if self.lacking else said


ITEMS = (
    Item(CLAIM, "7", "data sources", ("data",), "where the data were collected, and where they can be had"),
    Item(CLAIM, "9", "preprocessing", ("preprocessing",)),
    Item(
        CLAIM, "10", "selection of subsets of the data", ("sampling",), "parts of the data that were taken beforehand"
    ),
    Item(CLAIM, "11", "de-identification", (), "how the scans were de-identified"),
    Item(CLAIM, "12", "missing data", ("missing",), "cases that were left out before the run saw the data"),
    Item(CLAIM, "13", "acquisition of the images", (), "scanners, sites and protocols"),
    Item(CLAIM, "14", "definition of the reference standard", ("outcome",), "how the reference masks were drawn"),
    Item(CLAIM, "16", "source of the reference annotations", (), "who annotated, with which qualification"),
    Item(CLAIM, "18", "variability of the annotators", (), "how far annotators agree with one another"),
    Item(CLAIM, "19", "assignment to partitions", ("partitions", "foreground")),
    Item(CLAIM, "20", "level at which the partitions are disjoint", ("disjoint",), ""),
    Item(CLAIM, "21", "intended sample size", ("partitions",), "why so many cases are enough"),
    Item(CLAIM, "22", "description of the model", ("network",), "inputs, outputs and layers in full"),
    Item(CLAIM, "23", "software", ("software",)),
    Item(CLAIM, "24", "initial parameters", ("initial", "seed")),
    Item(CLAIM, "25", "training", ("training", "loss", "sampling", "strategy")),
    Item(CLAIM, "26", "selection of the final model", ("selection",)),
    Item(CLAIM, "27", "ensembles", (), "whether several runs were combined; this one is a single network"),
    Item(CLAIM, "28", "metrics", ("metrics", "averages"), "published models that it is compared with"),
    Item(
        CLAIM,
        "29",
        "statistical uncertainty",
        (),
        "intervals and tests; cggm-med compare and cggm-med evaluate RUN --external give some",
    ),
    Item(CLAIM, "30", "robustness", ("robustness", "subsets"), ""),
    Item(CLAIM, "32", "testing on internal data", ("averages", "selection")),
    Item(CLAIM, "33", "testing on external data", ("external",), "whether these data are from other sites"),
    Item(CLAIM, "35", "numbers of included and excluded cases", ("partitions",), "cases that were excluded beforehand"),
    Item(CLAIM, "36", "demographic and clinical characteristics", (), "age, sex and disease in each partition"),
    Item(CLAIM, "37", "performance", ("performance",)),
    Item(CLAIM, "39", "analysis of failures", ("failures",), ""),
    Item(
        CLAIM,
        "43",
        "availability of software, model and data",
        ("software",),
        "where code, weights and data can be had",
    ),
    Item(TRIPOD_AI, "5a", "sources of data", ("data",), "where the data are from, and whom they represent"),
    Item(TRIPOD_AI, "5b", "dates of the data", (), "when patients were scanned"),
    Item(TRIPOD_AI, "7", "data preparation and quality checks", ("preprocessing", "checks")),
    Item(TRIPOD_AI, "8a", "outcome", ("outcome",), "how and when it was assessed, and why it was chosen"),
    Item(TRIPOD_AI, "9b", "definition of the predictors", ("data",), "how the images were acquired"),
    Item(TRIPOD_AI, "10", "sample size", ("partitions",), "why so many cases are enough"),
    Item(TRIPOD_AI, "11", "missing data", ("missing",), "cases that were left out before the run saw the data"),
    Item(TRIPOD_AI, "12a", "use of the data", ("partitions", "disjoint")),
    Item(TRIPOD_AI, "12b", "handling of the predictors", ("preprocessing",)),
    Item(TRIPOD_AI, "12c", "type and building of the model", ("network", "training", "loss", "strategy", "selection")),
    Item(TRIPOD_AI, "12e", "measures of performance", ("metrics", "calibration")),
    Item(TRIPOD_AI, "12g", "calculation of predictions", ("threshold", "filter", "command")),
    Item(TRIPOD_AI, "13", "class imbalance", ("foreground",), ""),
    Item(TRIPOD_AI, "15", "output of the model", ("outcome", "threshold", "filter")),
    Item(
        TRIPOD_AI,
        "16",
        "differences between training and evaluation data",
        (),
        "sites, eligibility and annotators of both",
    ),
    Item(TRIPOD_AI, "18f", "sharing of code", ("software",), "where the code of the analysis can be had"),
    Item(TRIPOD_AI, "20a", "flow of participants", ("partitions",), "patients who were left out beforehand"),
    Item(TRIPOD_AI, "21", "numbers in each analysis", ("partitions",)),
    Item(
        TRIPOD_AI,
        "22",
        "specification of the model",
        ("command",),
        "where others can get the weights",
    ),
    Item(
        TRIPOD_AI,
        "23a",
        "performance with intervals",
        ("performance",),
        "intervals and subgroups; cggm-med evaluate RUN --external gives them",
    ),
    Item(TRIPOD_AI, "23b", "differences in performance between clusters", (), "differences between sites"),
)


def answers(known: Mapping[str, str]) -> list[dict[str, str]]:
    """Each item with the run's answer.

    Args:
        known: see ``methods.facts_of``.
    """
    return [
        {"checklist": item.checklist, "item": item.number, "subject": item.subject, "answer": item.answer(known)}
        for item in ITEMS
    ]
