"""Experiments as data: grids of cells, and the figures that are drawn from them."""
