"""Every kind of fault that checks look for, in alphabetical order: its name, severity, meaning and cure."""

from __future__ import annotations

from collections.abc import Mapping

from cggm_med.data.checks.finding import Kind

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "broken_qform",
            "told",
            "a qform whose quaternion is no rotation, beside an sform",
            "its sform is used; other programs may refuse the file",
        ),
        Kind(
            "bytes_after_end",
            "told",
            "bytes after the last voxel that the header promises",
            "they are left out",
        ),
        Kind(
            "contradicting_sides",
            "asked",
            "sform and qform that exchange left and right",
            "set the wrong one to the right one, or its code to 0; accepted, the sform is used",
        ),
        Kind(
            "contradicting_sizes",
            "asked",
            "a voxel size in pixdim other than that of the sform",
            "write the file with its true voxel size; accepted, that of the sform is used",
        ),
        Kind(
            "converted_units",
            "told",
            "a unit of length other than the millimetre",
            "converted to mm",
        ),
        Kind(
            "forms_apart",
            "told",
            "sform and qform that place the voxels differently",
            "the sform is used; other programs may use the qform",
        ),
        Kind(
            "implausible_size",
            "asked",
            "voxels, or a field of view, of a size that scans of people do not have",
            "correct the voxel size or its unit in the file; accepted, it is taken at its word",
        ),
        Kind(
            "negative_slope",
            "told",
            "stored numbers that are multiplied by a negative number",
            "which is legal, and turns dark into bright; look whether that is meant",
        ),
        Kind(
            "no_reference",
            "told",
            "a case without the modality to whose grid others are resampled",
            "give that modality too where there is one",
        ),
        Kind(
            "partly_covered",
            "told",
            "an image that does not reach all of the grid that it is resampled to",
            "the rest counts as its background, or as unlabelled",
        ),
        Kind(
            "rounded_labels",
            "told",
            "a label map whose numbers are whole but for rounding",
            "read as the whole numbers",
        ),
        Kind(
            "size_of_qform",
            "told",
            "an sform without voxel size beside a qform with one",
            "the qform is used",
        ),
        Kind(
            "slices_after_end",
            "asked",
            "more slices in the file than its header promises",
            "correct the shape in the header, or write the file anew; accepted, they are left out",
        ),
        Kind(
            "unknown_orientation",
            "told",
            "a file that does not state where its axes point",
            "its left may be right; convert it anew from a file that states it",
        ),
    )
}
