"""Defenses: each makes a classifier harder to copy."""
