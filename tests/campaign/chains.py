"""A training that is killed and resumed three times, with any workers and processes, ends with the same bits: 200."""

from pathlib import Path

from campaign.child import shared
from campaign.kills import Trainings
from campaign.tries import campaign


def prepare(folder: Path):
    """What the tries share."""
    runs = shared(folder, Trainings)

    def attempt(rng) -> tuple[str, list[str]]:
        workers, processes = int(rng.choice([0, 2])), int(rng.choice([1, 2]))
        reached, bad = runs.attempt(rng, kills=3, workers=workers, processes=processes)
        return f"{workers} workers {processes} processes", [f"{reached}: {fault}" for fault in bad]

    return attempt


if __name__ == "__main__":
    campaign("chains of kills", 200, prepare)
