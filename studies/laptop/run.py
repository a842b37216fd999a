"""Runs experiments at a scale, as `undistill reproduce` does, without drawing the page: for a machine that lacks what draws.

python studies/laptop/run.py OUT --scale laptop --data-dir DATA [--seeds 3] [--jobs 14] [--only 'table1/*/CNN/*'] table1 omega
"""

from __future__ import annotations

import argparse

from undistill.paper.reproduce import reproduce


def main() -> None:
    """Go on with what OUT lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--scale", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--only", action="append", default=[])
    asked = vars(parser.parse_args())
    reproduce(asked.pop("names"), **asked, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
