"""BraTS-like glioma cases, drawn from random anatomy and written as NIfTI: data for a first run and for every test.

A case is a head in four steps: a brain with folded cortex, ventricles and nuclei, and with lesions that are no tumour
(``anatomy``); a tumour (``tumour``); the signal of each tissue in each modality, and what a scanner makes of it
(``scanner``); files (``cases``). Voxels and random fields are in ``grid``. The anatomy is plausible, not accurate:
success here shows that a network learns, not that it works on patients.
"""
