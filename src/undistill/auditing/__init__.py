"""Cells: one victim, attack, student, card and seed, and the numbers that came out."""
