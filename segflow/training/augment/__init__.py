"""Augmentation of training crops: one resampling for all that moves voxels, then what changes greys.

``Augmenter`` is the whole; ``geometry``, ``intensity`` and ``defects`` hold the operations, ``preview``
draws them. Random numbers come only from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segflow.errors import ChunkError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Augmenter"]

Sample = tuple["NDArray[np.float32]", "NDArray[np.int64]", "NDArray[np.bool_]"]


class Augmenter:
    """Give an augmented sample of a crop.

    Args:
        settings: name -> {key: value}; a key that is left out has its default
            (``segflow.training.schema.AUGMENT``), a name that is left out, null, or of p 0 is off.
        size: zyx of the samples, voxels.

    Attributes:
        size: zyx of the samples.
        enlarged: zyx of the crops it takes: the least that leaves no voxel of a sample unknown,
            whatever is drawn. The sample lies in its middle.

    Raises:
        UsageError: an unknown name or key, a value that is none, or one that the size forbids.

    Quarter turns and the transpose need squares: other sizes get half turns and flips.

    >>> Augmenter({"misalignment": {"displacement": 16}}, (17, 64, 64)).enlarged
    (17, 80, 80)
    """

    def __init__(self, settings: Mapping[str, Mapping[str, Any] | None], size: Sequence[int]) -> None:
        from segflow.training.augment.geometry import Geometry
        from segflow.training.augment.settings import complete

        self.size = (int(size[0]), int(size[1]), int(size[2]))
        self.settings = complete(settings, self.size)
        self._geometry = Geometry(self.settings, self.size)
        self.enlarged = self._geometry.enlarged

    def __call__(
        self, image: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any], rng: np.random.Generator
    ) -> Sample:
        """Augment one crop; the arguments are not changed.

        Args:
            image: float32, zyx of ``enlarged``, in [0, 1].
            labels: integers, zyx; 0 is no object.
            mask: bool, zyx; False: the label is not known.
            rng: the only source of chance; equal states give equal samples.

        Returns:
            image float32, labels int64, mask bool, zyx of ``size``; image and labels are 0 and the
            mask False where a voxel came from outside the crop.

        Raises:
            ChunkError: an array is not of the size ``enlarged``.
        """
        import numpy as np

        from segflow.training.augment.defects import CHANGES

        for name, array in (("image", image), ("labels", labels), ("mask", mask)):
            if array.shape != self.enlarged:
                raise ChunkError(f"the {name} of a crop is {array.shape}; augmentation needs {self.enlarged}")
        out = self._geometry(
            np.asarray(image, np.float32), np.asarray(labels, np.int64), np.asarray(mask, np.bool_), rng
        )
        for name, change in CHANGES.items():
            own = self.settings.get(name)
            if own is not None and rng.random() < own["p"]:
                change(out[0], rng, **{key: value for key, value in own.items() if key != "p"})
        return out
