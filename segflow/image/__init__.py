"""Image operations: test patterns, contrast, quantisation, downsampling."""

from segflow.image.contrast import normalize_contrast, normalize_intensity
from segflow.image.downsample import downsample
from segflow.image.patterns import create_chunk
from segflow.image.quantize import quantize

__all__ = ["create_chunk", "downsample", "normalize_contrast", "normalize_intensity", "quantize"]
