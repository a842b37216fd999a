"""The engine: cells, what computes them, and what they cost."""
