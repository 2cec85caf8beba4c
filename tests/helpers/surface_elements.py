"""Surfaces written out corner by corner: what the distances of surface Dice and of the lesion-wise HD95 rest on."""

from itertools import product

import numpy as np
from monai.metrics.utils import ENCODING_KERNEL, get_code_to_measure_table


def surface_elements(mask, spacing):
    """Position in mm and area in mm2 of each corner of voxels whose eight neighbours are not all alike."""
    table = get_code_to_measure_table([float(mm) for mm in spacing])[0].numpy()
    padded = np.pad(mask, 1)
    points, areas = [], []
    for corner in product(*(range(n + 1) for n in mask.shape)):
        neighbours = padded[tuple(slice(c, c + 2) for c in corner)]
        if neighbours.any() and not neighbours.all():
            points.append(np.multiply(corner, spacing))
            areas.append(table[int((neighbours * ENCODING_KERNEL[3]).sum())])
    return np.array(points), np.array(areas, dtype=float)
