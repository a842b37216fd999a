"""The only door to a victim."""

from undistill.oracle.blackbox import BlackBox
from undistill.oracle.door import Answer, Oracle, Questions
from undistill.oracle.ledger import write_answers

__all__ = ["Answer", "BlackBox", "Oracle", "Questions", "write_answers"]
