"""Which masks are named for review, worst first, with what the quality was worth in validation."""

from cggm_med.inference.review import review_lines
from cggm_med.results.rank_correlation import RankCorrelation
from cggm_med.runs.expectations import Expectations, RegionExpectation, SubsetExpectation


def test_lines():
    mean = RegionExpectation(12, 0.7, 0.1, None, None, None, RankCorrelation(12, 0.61, 0.02, 0.9))
    known = Expectations("digest", {}, "validation", 12, {"a+b": SubsetExpectation(12, {}, mean)}, ())
    rows = [
        {"case": "fine", "present": "a+b", "quality": 0.9, "review": "no"},
        {"case": "poor", "present": "a+b", "quality": 0.5, "review": "yes"},
        {"case": "worst", "present": "a+c", "quality": 0.25, "review": "yes"},
        {"case": "single", "present": "a", "quality": None, "review": "unknown"},
        {"case": "broken", "present": "a+b", "quality": None, "review": ""},
    ]
    assert list(review_lines(rows, 0.8, known)) == [
        "predicted quality below 0.8: 2 of 3 masks, to review:",
        "  worst: 0.250 from a+c",
        "  poor: 0.500 from a+b",
        "quality unknown of 1: single (a)",
        "rank correlation of quality with Dice in validation, a+b: 0.61 (0.02 to 0.90), 12 cases",
        "rank correlation of quality with Dice in validation, a+c: was not measured",
    ]
