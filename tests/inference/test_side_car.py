"""The schema of what is written beside masks, and the page that shows it."""

import re
from pathlib import Path

from cggm_med.inference.side_car import FIELDS, LESION_COLUMNS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "predictions.md").read_text()


def test_the_page_shows_every_key_and_its_column():
    files, lesions = PAGE.partition("## Change")[0].split("## Lesions")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) ?\|$", files, re.M)
    assert rows == [(field.name, field.meaning, field.columns) for field in FIELDS]
    assert re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.+?) \|", lesions, re.M))) == list(LESION_COLUMNS)
