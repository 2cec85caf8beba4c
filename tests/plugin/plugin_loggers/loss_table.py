"""A table of the training loss for a spreadsheet: ``losses.csv`` in the folder of the run."""

from __future__ import annotations

import csv

from cggm_med import RunLogger


class LossTable(RunLogger):
    """One row for each logged step."""

    def start(self, folder, config, step):
        """Write the head, and of a resumed run the rows that will not come again."""
        self.path = folder / "losses.csv"
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "loss"])
            writer.writeheader()
            writer.writerows(rows)

    def record(self, record):
        """Append a row."""
        if record["kind"] == "train":
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow([record["step"], record["loss"]])
