"""The only door to a victim."""

from undistill.oracle.bank import Bank
from undistill.oracle.blackbox import BlackBox
from undistill.oracle.door import Answer, Oracle, Questions
from undistill.oracle.ledger import write_answers

__all__ = ["Answer", "Bank", "BlackBox", "Oracle", "Questions", "write_answers"]
