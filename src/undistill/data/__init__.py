"""Images as uint8 tensors, split once, and the views that training sees of them."""

from undistill.data.augment import VIEWS
from undistill.data.batches import ImageBatches
from undistill.data.image_set import ImageSet, Splits
from undistill.data.load import DataSettings, load, split
from undistill.data.sources import SOURCES, locate

__all__ = ["SOURCES", "VIEWS", "DataSettings", "ImageBatches", "ImageSet", "Splits", "load", "locate", "split"]
