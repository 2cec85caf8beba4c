"""A cohort of empty folders, and work that writes a few bytes for each case, to go through shards without a network."""

import hashlib

from cggm_med.data.folders.streamed import Shard, folder_of
from cggm_med.inference.shards import ShardedCohort

COLUMNS = ("case", "present", "failed", "mask", "sha256")


class FakeWork:
    """Writes the name of a case as its mask; ``broken`` ones fail, and ``before`` is called at each stage of a case."""

    columns = COLUMNS

    def __init__(self, folder, broken=(), before=lambda stage, case: None):
        self.folder, self.broken, self.before = folder, broken, before
        self.worked = []

    def __call__(self, cases):
        for case in cases:
            self.worked.append(case.name)
            self.before("mask", case.name)
            if case.name in self.broken:
                yield {"case": case.name, "failed": "no scan\n  in it"}
                continue
            mask = self.folder / folder_of(case.name) / f"{case.name}.nii.gz"
            mask.parent.mkdir(exist_ok=True)
            mask.write_bytes(case.name.encode())
            self.before("row", case.name)
            yield self.there(case)

    def there(self, case):
        mask = self.folder / folder_of(case.name) / f"{case.name}.nii.gz"
        if not mask.exists():
            return None
        sha = hashlib.sha256(mask.read_bytes()).hexdigest()
        place = mask.relative_to(self.folder).as_posix()
        return {"case": case.name, "present": "flair", "failed": "", "mask": place, "sha256": sha}


def folders(path, names):
    for name in names:
        (path / name).mkdir(parents=True, exist_ok=True)
    return path


def sharded(out, cohort, count, **made_with):
    of = ShardedCohort(out, cohort, ("flair", "t1"), count, made_with)
    of.require_same()
    return of


def predict(out, cohort, shard, *, work=None, take_over=False, say=lambda line: None):
    shard = Shard.parse(shard)
    of = sharded(out, cohort, shard.count)
    return (of.predict_and_take_over if take_over else of.predict)(shard, work or FakeWork(out), say)
