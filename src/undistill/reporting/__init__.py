"""Cells become tables, charts and a page. Pure functions of cells; never imports torch."""
