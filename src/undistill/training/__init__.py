"""The one loop, its recipes, run folders and evaluation."""

from undistill.training.loop import EpochRecord, fit
from undistill.training.recipe import Recipe, Training
from undistill.training.run_folder import Run

__all__ = ["EpochRecord", "Recipe", "Run", "Training", "fit"]
