"""What a reader of folders collects on its way, beside cases: questions, notes and files that it leaves out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.folders.conventions import LabelledCase, Told, conventions_of
from cggm_med.data.folders.scans import FILE_COPY, label_values, same_voxels
from cggm_med.errors import first_of

SERIES = "series of several volumes, not an image of one modality"
MASK_SERIES = "label of several volumes"
UNTOLD = "its name does not tell what it shows"
SECOND = "second image of a modality"
LONELY = "label without an image of its case"


@dataclass
class Findings:
    """Questions, notes and files left out, in the order in which they came up.

    Attributes:
        folder: to which paths in messages are relative.
        questions: what the user must decide.
        notes: what a reader of the proposal should know.
        left_out: files by reason.
    """

    folder: Path
    questions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, reason: str, files: Iterable[Path]) -> None:
        """Note files that are left out."""
        if files := list(files):
            self.left_out.setdefault(reason, []).extend(files)

    def take(
        self, questions: Iterable[str], notes: Iterable[str], left_out: Mapping[str, Iterable[Path]] | None = None
    ) -> None:
        """Add what another part found."""
        self.questions += questions
        self.notes += notes
        for reason, files in (left_out or {}).items():
            self.leave_out(reason, files)

    def below(self, file: Path) -> str:
        """A file's path below the folder."""
        return file.relative_to(self.folder).as_posix()

    def leave_out_copies(self, copies: Mapping[Path, Path]) -> None:
        """Leave out files that are named as copies of others, and ask where they hold something else.

        Args:
            copies: the others by file.
        """
        self.leave_out(FILE_COPY, copies)
        unlike = [f"{self.below(copy)} or {file.name}" for copy, file in copies.items() if not same_voxels(copy, file)]
        if unlike:
            self.questions.append(
                f"which file holds, of one and its copy that hold other voxels: {first_of(unlike, 2)}; the one without "
                "the mark of a copy is proposed"
            )

    def ask_which(self, double: Mapping[str, list[tuple[Path, Path]]]) -> None:
        """Ask which of two images of a modality is meant.

        Args:
            double: by modality: for each case with two, the proposed file and the other.
        """
        for name, pairs in double.items():
            one, other = map(self.below, pairs[0])
            self.questions.append(f"which {name}: {one}, as proposed, or {other}; cases with two: {len(pairs)}")
            self.leave_out(SECOND, (file for _, file in pairs))

    def meanings(self, labels: Mapping[str, Path], modalities: Iterable[str], unlabelled: Iterable[str] = ()) -> Told:
        """What publications say of the numbers in label files, see ``conventions_of``.

        Args:
            labels: label files by case.
            modalities: names of the images' modalities.
            unlabelled: ids of other cases.
        """
        cases = [
            LabelledCase(id, self.below(file), functools.partial(label_values, file)) for id, file in labels.items()
        ]
        told = conventions_of(cases, modalities, unlabelled)
        self.take(told.questions, told.notes)
        return told

    def all_questions(self) -> tuple[str, ...]:
        """Each question once."""
        return tuple(dict.fromkeys(self.questions))

    def all_left_out(self) -> dict[str, tuple[Path, ...]]:
        """Files by reason."""
        return {reason: tuple(files) for reason, files in self.left_out.items()}
