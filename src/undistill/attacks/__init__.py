"""Attacks: each trains a student on what a victim answers."""
