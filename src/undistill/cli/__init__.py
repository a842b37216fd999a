"""The shell: parse, call, print. Nothing here imports torch before a verb runs."""
