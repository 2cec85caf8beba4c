"""Writing a NIfTI file with given voxels at a given place."""

import nibabel as nib


def write(path, voxels, affine):
    """The path, at which the file lies now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path
