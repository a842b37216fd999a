"""The only door to a victim."""

from undistill.oracle.door import Answer, Oracle, Questions

__all__ = ["Answer", "Oracle", "Questions"]
