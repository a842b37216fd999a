"""Images as uint8 tensors, split once, and the views that training sees of them."""

from undistill.data.batches import ImageBatches
from undistill.data.carve import split
from undistill.data.images import ImageSet, Splits
from undistill.data.load import DataSettings, load
from undistill.data.sources import SOURCES, locate
from undistill.data.views import VIEWS

__all__ = ["SOURCES", "VIEWS", "DataSettings", "ImageBatches", "ImageSet", "Splits", "load", "locate", "split"]
