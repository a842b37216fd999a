"""Networks. Every one takes float NCHW pixels in [0, 1]; its normalisation is its first layer."""

from undistill.models.base import MODELS, Classifier, Network, build

__all__ = ["MODELS", "Classifier", "Network", "build"]
