"""The only door to a victim."""

from undistill.oracle.black_box import BlackBox
from undistill.oracle.logit_cache import LogitCache
from undistill.oracle.oracle import Answer, Oracle, Questions
from undistill.oracle.query_log import write_answers

__all__ = ["Answer", "BlackBox", "LogitCache", "Oracle", "Questions", "write_answers"]
