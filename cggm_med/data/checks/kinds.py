"""Every kind of fault that checks look for, in alphabetical order: its name, severity, meaning and cure."""

from __future__ import annotations

from collections.abc import Mapping

from cggm_med.data.checks.finding import Kind

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "bright_beyond_training",
            "told",
            "numbers of another order of magnitude than those of the other cases",
            "look whether a unit or a factor is wrong",
        ),
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
            "cut_off_values",
            "told",
            "many voxels that have the largest value",
            "brighter ones were cut off; export the image with its whole range",
        ),
        Kind(
            "differing_sizes",
            "refused",
            "cases whose voxels differ in size, where the settings name no common size",
            "choose one for all with --set data.spacing=[X,Y,Z], in mm, such as that of most cases",
        ),
        Kind(
            "displaced_image",
            "told",
            "an image that would fit the others better elsewhere",
            "look at the images one over the other, and register it anew (how: prepare-scans.md in the documentation)",
        ),
        Kind(
            "displaced_label",
            "told",
            "a label map that would fit the images better elsewhere",
            "look at it over the images; was it drawn on another grid or another scan?",
        ),
        Kind(
            "empty_label",
            "told",
            "a label map in which nothing is drawn",
            "it teaches that there is nothing to find; leave the case out if something is",
        ),
        Kind(
            "empty_slices",
            "told",
            "slices without any content between others that have some",
            "convert the image anew from its source",
        ),
        Kind(
            "exchanged_modalities",
            "asked",
            "images that fit other names clearly better",
            "exchange the files, or if the names are right accept it",
        ),
        Kind(
            "flat_image",
            "told",
            "an image that is constant in most of the body",
            "is it a mask? give the scan, or leave the image out",
        ),
        Kind(
            "forms_apart",
            "told",
            "sform and qform that place the voxels differently",
            "the sform is used; other programs may use the qform",
        ),
        Kind(
            "full_label",
            "asked",
            "a label map that covers most of the body",
            "is it a mask of the head? give the label map of what is to be found",
        ),
        Kind(
            "implausible_size",
            "asked",
            "voxels, or a field of view, of a size that scans of people do not have",
            "correct the voxel size or its unit in the file; accepted, it is taken at its word",
        ),
        Kind(
            "label_outside",
            "told",
            "labelled voxels where the images show nothing",
            "look at the label map over the images; was it drawn on another scan?",
        ),
        Kind(
            "leaping_values",
            "told",
            "neighbouring voxels that lie at the two ends of the range",
            "look at it: numbers too large for their type wrap around (export as float), and noise leaps everywhere",
        ),
        Kind(
            "mirrored_image",
            "asked",
            "an image that fits the others better when it is mirrored",
            "mirror it, or convert it anew from its source",
        ),
        Kind(
            "mirrored_label",
            "told",
            "a label map that fits the images better when it is mirrored",
            "look at it over the images; mirror it, or export it anew",
        ),
        Kind(
            "missing_slices",
            "told",
            "a DICOM series whose numbers or headers speak of more slices than there are",
            "look whether it was exported whole",
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
            "odd_label",
            "told",
            "regions that look unlike those of the other cases",
            "look whether the numbers of its labels mean the same, and whether it is of this patient",
        ),
        Kind(
            "odd_texture",
            "told",
            "an image that is much smoother or noisier than those of the other cases",
            "look whether it is a scan of this sequence, at its own resolution",
        ),
        Kind(
            "partly_covered",
            "told",
            "an image that does not reach all of the grid that it is resampled to",
            "the rest counts as its background, or as unlabelled",
        ),
        Kind(
            "partly_missing",
            "told",
            "an image that shows less of the body than the others of its case",
            "look whether a part of it is missing",
        ),
        Kind(
            "repeated_case",
            "told",
            "two cases with the same voxels on one side of the split",
            "leave one out, so that the patient does not count twice",
        ),
        Kind(
            "repeated_case_in_splits",
            "asked",
            "two cases with the same voxels, of which one is trained on and the other held out",
            "leave one out, or give both one patient in a list of cases (cggm-med init DATA -o dataset.json)",
        ),
        Kind(
            "repeated_image",
            "refused",
            "one image for two modalities",
            "give each modality its own file, or leave out what is not there",
        ),
        Kind(
            "repeated_label",
            "told",
            "two cases with the same label map and other images",
            "does one of them have the label of the other? give it its own",
        ),
        Kind(
            "rounded_labels",
            "told",
            "a label map whose numbers are whole but for rounding",
            "read as the whole numbers",
        ),
        Kind(
            "seen_in_training",
            "told",
            "a case that the run was trained on, or chosen by, under this name or another one",
            "what is predicted or scored there says nothing about new patients",
        ),
        Kind(
            "similar_case_in_splits",
            "asked",
            "two cases that seem to show one patient, of which one is trained on and the other held out",
            "if so, give both one patient in a list of cases (cggm-med init DATA -o dataset.json); else accept it",
        ),
        Kind(
            "size_of_qform",
            "told",
            "an sform without voxel size beside a qform with one",
            "the qform is used",
        ),
        Kind(
            "skull",
            "asked",
            "heads with skull where the others have none, or the other way round",
            "treat the scans as the others were treated (how: prepare-scans.md in the documentation); accepted, a "
            "network sees what it hardly learned from",
        ),
        Kind(
            "slices_after_end",
            "asked",
            "more slices in the file than its header promises",
            "correct the shape in the header, or write the file anew; accepted, they are left out",
        ),
        Kind(
            "turned_case",
            "told",
            "a case that looks like the others when it is mirrored",
            "look whether its orientation is right",
        ),
        Kind(
            "unchecked_names",
            "told",
            "a run of an earlier version, which measured in another way how modalities look",
            "that images carry the right names is not checked; train anew to have it checked",
        ),
        Kind(
            "undivided",
            "refused",
            "cases that cannot be divided into training, validation and test as the settings or the data say",
            "training needs such a division",
        ),
        Kind(
            "unknown_orientation",
            "told",
            "a file that does not state where its axes point",
            "its left may be right; convert it anew from a file that states it",
        ),
        Kind(
            "unlike_training",
            "told",
            "images that look unlike those of the other cases",
            "look at them; what a network makes of them is uncertain",
        ),
        Kind(
            "unrelated_image",
            "told",
            "an image that says less about the others of its case than usual",
            "look whether it is of the same patient, and of this sequence",
        ),
        Kind(
            "unusable",
            "refused",
            "a file that is damaged, missing, or of another grid or other label numbers than the data declare",
            "fix it, or leave the case out",
        ),
        Kind(
            "unusual_size",
            "told",
            "a body of another size than in the other cases",
            "look whether the voxel size is right, and whether a part is missing",
        ),
    )
}
