"""A promise tried many times: each try is drawn from the seed and its own number, so that any of them can be repeated.

    cd tests && python -m campaign.metrics [--seed 0] [--tries 100] [--json FILE] [--only NUMBER]

With ``--json`` a campaign that was interrupted goes on where it was.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cggm_med.files import write_json

SAVE_SECONDS = 10
Attempt = Callable[[np.random.Generator], tuple[str, list[str]]]  # the kind of what was drawn, and what is wrong


def drawn(seed: int, number: int) -> np.random.Generator:
    """What try ``number`` is drawn from."""
    return np.random.default_rng([seed, number])


def attempts(attempt: Attempt, tries: range, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """The kinds of what was tried, and what was wrong, with the number of the try."""
    kinds: Counter[str] = Counter()
    bad = []
    for number in tries:
        kind, faults = attempt(drawn(seed, number))
        kinds[kind] += 1
        bad += [f"try {number}, {kind}: {fault}" for fault in faults]
    return kinds, bad


def campaign(promise: str, asked: int, prepare: Callable[[Path], Attempt]) -> None:
    """The command of a promise: one line of figures, what was bad, and a JSON file of both.

    Args:
        promise: its name.
        asked: how many tries the promise is about.
        prepare: makes what the tries share, in a folder that is removed at the end, and returns what tries once.
    """
    parser = argparse.ArgumentParser(description=f"try {asked} times: {promise}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=asked // 10, help=f"default: a tenth of {asked}")
    parser.add_argument("--json", type=Path, help="file of the figures, and of where to go on")
    parser.add_argument("--only", type=int, help="number of a single try, to look at it")
    options = parser.parse_args()
    done = {"promise": promise, "asked": asked, "seed": options.seed, "tried": 0, "kinds": {}, "bad": []}
    if options.json is not None and options.json.exists():
        earlier = json.loads(options.json.read_text())
        if (earlier["promise"], earlier["seed"]) != (promise, options.seed):
            parser.error(f"{options.json} holds another campaign; choose another file")
        done = earlier
    with tempfile.TemporaryDirectory() as folder:
        attempt = prepare(Path(folder))
        numbers = range(done["tried"], options.tries) if options.only is None else [options.only]
        saved = time.monotonic()
        for number in numbers:
            kinds, bad = attempts(attempt, range(number, number + 1), options.seed)
            done["kinds"] = dict(Counter(done["kinds"]) + kinds)
            done["bad"] += bad
            done["tried"] += 1
            for line in bad:
                sys.stdout.write(f"{line}\n")
            if options.json is not None and (number == numbers[-1] or time.monotonic() - saved > SAVE_SECONDS):
                write_json(options.json, done)
                saved = time.monotonic()
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(done["kinds"].items()))
    sys.stdout.write(f"{promise}: {done['tried']} of {asked} tried, {len(done['bad'])} bad; {kinds}\n")
