"""A reproduction of the paper: its tables, figures and claims beside what was measured. Never imports torch."""
