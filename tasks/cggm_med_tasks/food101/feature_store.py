"""A store of computed features: arrays on disk, by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError
from cggm_med.files import atomic_file, atomic_folder, digest_of, write_json

VALUES, INDEX = "features.npy", "index.json"


class Computed(NamedTuple):
    """The features of one sample.

    Attributes:
        values: ``(time, channel)``.
        content: digest of their source.
    """

    values: NDArray[np.float16]
    content: str


class _Place(NamedTuple):
    block: Path
    start: int
    stop: int
    content: str


class FeatureStore:
    """Arrays ``(time, channel)`` of different lengths and one number of channels, in half precision.

    They lie in blocks, folders with the arrays one after another and an index. A block is whole or absent, so that
    interrupted work continues after the last whole one; it is mapped, so that only requested features are read.

    Args:
        folder: its name stands for everything that decides the features of a given key.

    Example:
        >>> import tempfile
        >>> store = FeatureStore(Path(tempfile.mkdtemp()))
        >>> store.add({"pizza": Computed(np.ones((3, 2), np.float16), "digest")})
        >>> "pizza" in store, store["pizza"].shape
        (True, (3, 2))
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, _Place] = {}
        for index in sorted(folder.glob(f"*/{INDEX}")):
            self._index(index.parent)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> NDArray[np.float16]:
        """``(time, channel)``, mapped from disk.

        Raises:
            DataError: if the block is damaged.
        """
        place = self._places[key]
        file = place.block / VALUES
        try:
            values = np.load(file, mmap_mode="r", allow_pickle=False)
            if values.dtype != np.float16 or values.ndim != 2 or len(values) < place.stop:
                raise ValueError(f"it holds {values.dtype} of shape {values.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(place.block, error) from error
        return values[place.start : place.stop]

    def content(self, key: str) -> str:
        """Digest of the source of these features."""
        return self._places[key].content

    def add(self, computed: Mapping[str, Computed]) -> None:
        """Keep features by key, as one block.

        Raises:
            OutputError: if the folder cannot be written.
        """
        name = digest_of("\n".join(computed).encode())
        stops = np.cumsum([len(one.values) for one in computed.values()]).tolist()
        rows = zip(computed.items(), [0, *stops[:-1]], stops, strict=True)
        index = {key: [start, stop, one.content] for (key, one), start, stop in rows}
        with atomic_folder(self.folder / name) as block:
            with atomic_file(block / VALUES) as file:
                np.save(file, np.concatenate([one.values for one in computed.values()]), allow_pickle=False)
            write_json(block / INDEX, index)
        self._index(self.folder / name)

    def _index(self, block: Path) -> None:
        try:
            for key, (start, stop, content) in read_json(block / INDEX).items():
                self._places[key] = _Place(block, int(start), int(stop), str(content))
        except (DataError, AttributeError, TypeError, ValueError) as error:
            raise _damaged(block, error) from error


def _damaged(block: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    if "allow_pickle" in reason:  # numpy's advice is to run what is in the file
        reason = "no array of numbers"
    return DataError(f"{block} holds damaged features ({reason}); delete it, they are made again")
