"""Missing modalities imposed on complete cases, for studies of how training copes with them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cggm_med.data.cases import Case
from cggm_med.data.layouts import read_json
from cggm_med.errors import ConfigError, DataError, UnknownName, kind_of

_RATES = re.compile(r"(\d(?:-\d)+)(?::(\d+))?")


def without_imposed(
    cases: Sequence[Case], modalities: Sequence[str], setting: str, training: Collection[str], seed: int
) -> list[Case]:
    """The cases, of which those that are trained on lack the images that a study takes away.

    Args:
        cases: all of them, which a file may name.
        modalities: of the run, in order.
        setting: ``2-4-6-8``: the modalities in turn are missing in 20, 40, 60 and 80 % of the cases, the imbalanced
            rates of Shi et al., PASSION, ACM Multimedia 2024, https://arxiv.org/abs/2407.14796, for BraTS; any digits,
            one a modality, and perhaps a seed, as in ``2-4-6-8:7``. Or a file, see ``read_absent``.
        training: ids of those that are trained on; of others nothing is taken.
        seed: of the draw, unless the setting has its own.

    Raises:
        ConfigError: if there is not one rate for each modality, or nothing would be left of some case.
        UnknownName: for a case or a modality in the file that does not exist.
        DataError: if the file is damaged or leaves a case without any image.
    """
    if drawn := _RATES.fullmatch(setting):
        rates = [int(digit) / 10 for digit in drawn[1].split("-")]
        if len(rates) != len(modalities):
            raise ConfigError(
                f"data.missing is {setting}, {len(rates)} rates in tenths; expected one for each of the "
                f"{len(modalities)} modalities {', '.join(modalities)}"
            )
        lacked = {case.id: {m for m in modalities if m not in case.images} for case in cases if case.id in training}
        absent = draw_absent(lacked, dict(zip(modalities, rates, strict=True)), int(drawn[2] or seed))
    else:
        absent = read_absent(Path(setting), modalities, [case.id for case in cases])
    gone = {id: of for id, of in absent.items() if id in training}
    left = [
        replace(case, images={m: image for m, image in case.images.items() if m not in gone.get(case.id, ())})
        for case in cases
    ]
    if empty := [case.id for case in left if not case.images]:
        raise DataError(f"data.missing={setting} leaves these cases without any image; at least one must stay:", empty)
    return left


def draw_absent(lacked: Mapping[str, set[str]], rates: Mapping[str, float], seed: int) -> dict[str, set[str]]:
    """Which modalities each case loses, so that rates are exact up to rounding and every case keeps at least one.

    Cases are drawn by a hash of seed, modality and id, so that neither their order nor the version of any library
    matters. Where a case would keep nothing, it changes places with one that keeps several.

    Args:
        lacked: the modalities that each case lacks already, which count.
        rates: share of the cases that are to lack each modality.
        seed: another seed gives another draw.

    Raises:
        ConfigError: if the rates leave fewer images than there are cases.

    Example:
        >>> absent = draw_absent({case: set() for case in "abcdefghij"}, {"t1": 0.3, "t2": 0.7}, seed=0)
        >>> [sum(m in of for of in absent.values()) for m in ("t1", "t2")]
        [3, 7]
    """
    absent = {case: set(already) for case, already in lacked.items()}
    for modality, rate in rates.items():
        order = sorted((case for case in absent if modality not in absent[case]), key=lambda c: _key(seed, modality, c))
        have = len(absent) - len(order)
        for case in order[: max(0, round(rate * len(absent)) - have)]:
            absent[case].add(modality)
    for case in [case for case, gone in absent.items() if len(gone) == len(rates)]:
        for other in sorted(absent, key=lambda c: _key(seed, "", c)):
            # Of what only the draw has taken, something that the other case can spare.
            spare = [m for m in rates if m not in absent[other] and m not in lacked[case]]
            if spare and len(absent[other]) < len(rates) - 1:
                modality = min(spare, key=lambda m: _key(seed, m, case))
                absent[case].remove(modality)
                absent[other].add(modality)
                break
        else:
            shares = ", ".join(f"{m} {rate:g}" for m, rate in rates.items())
            raise ConfigError(
                f"data.missing takes {shares} of the cases, which leaves case {case} without any image; lower them"
            )
    return absent


def read_absent(path: Path, modalities: Sequence[str], known: Sequence[str]) -> dict[str, set[str]]:
    """Which modalities each case loses, from a file; cases that it does not name lose none.

    Args:
        path: JSON such as ``{"case1": ["t1", "t2"]}`` with what is missing, or CSV with the column ``case`` and one
            column for each modality: 1 where the case has it, 0 where it is missing.
        modalities: of the run.
        known: ids of all cases.

    Raises:
        UnknownName: for a case or a modality that does not exist.
        DataError: if the file cannot be read or holds something else.
    """
    if path.suffix.lower() not in (".json", ".csv"):
        raise ConfigError(
            f"data.missing is {path}; expected rates in tenths, such as 2-4-6-8, or a file that ends with .json or .csv"
        )
    absent = _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path, modalities)
    for case, gone in absent.items():
        if case not in known:
            raise UnknownName("case", case, known, f"It stands in {path}")
        for modality in gone:
            if modality not in modalities:
                raise UnknownName("modality of the run", modality, modalities, f"It stands in {path}, case {case}")
    return absent


def _from_json(path: Path) -> dict[str, set[str]]:
    content = read_json(path)
    expected = 'expected the missing modalities of each case, such as {"case1": ["t1", "t2"]}'
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {kind_of(content)}; {expected}")
    for case, gone in content.items():
        if not (isinstance(gone, list) and all(isinstance(m, str) for m in gone)):
            raise DataError(f"{path} holds {gone!r:.80} for case {case}; {expected}")
    return {case: set(gone) for case, gone in content.items()}


def _from_csv(path: Path, modalities: Sequence[str]) -> dict[str, set[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    columns = list(rows[0]) if rows else []
    if columns[:1] != ["case"] or len(columns) < 2:
        raise DataError(f"{path} has the columns {columns}; expected case, {', '.join(modalities)}")
    absent: dict[str, set[str]] = {}
    for number, row in enumerate(rows, start=2):
        case, cells = row["case"], {m: row[m] for m in columns[1:]}
        if case in absent or not all(cell in ("0", "1") for cell in cells.values()):
            raise DataError(f"{path}, line {number}: {row}; expected each case once, with 1 or 0 for each modality")
        absent[case] = {modality for modality, cell in cells.items() if cell == "0"}
    return absent


def _key(seed: int, modality: str, case: str) -> bytes:
    return hashlib.sha256(f"{seed} {modality} {case}".encode(errors="surrogatepass")).digest()
