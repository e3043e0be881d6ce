"""Fragments, agglomeration, connected components, and the evaluation of segmentations.

Importing this costs numpy; waterz, cc3d, edt and numba are imported when they are first needed.
"""

from segflow.segmentation.agglomerate import agglomerate
from segflow.segmentation.components import binarize, connected_components
from segflow.segmentation.distance import distance_watershed
from segflow.segmentation.evaluate import evaluate
from segflow.segmentation.watershed import watershed

__all__ = [
    "agglomerate",
    "binarize",
    "connected_components",
    "distance_watershed",
    "evaluate",
    "watershed",
]
