"""Time two statements side by side in one process: `python benchmarks/paired.py [-s SETUP] SUBJECT BASELINE`.

    python benchmarks/paired.py -s "import torch; x = torch.rand(256, 256)" "x @ x" "x.double() @ x.double()"

Rounds are interleaved, the order within a round alternates, and the figure is the median of the pairs' ratios with its
bootstrap interval; first calls are given apart. Each side's floating-point operations a second are given as a share of
what a matrix product reaches on this machine at this moment.
"""

from __future__ import annotations

import argparse

import torch

from suffuse.evaluation.operations import operations
from suffuse.evaluation.timing import ceiling, paired


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", help="statement in question")
    parser.add_argument("baseline", help="statement that it is compared with")
    parser.add_argument("-s", "--setup", default="", help="statements that run once before")
    parser.add_argument("--rounds", type=int, default=30, help="pairs, 5 or more")
    parser.add_argument("--seconds", type=float, default=0.01, help="shortest duration of one side of a pair")
    given = parser.parse_args()

    scope: dict[str, object] = {}
    exec(given.setup, scope)
    works = [eval(f"lambda: ({text})", scope) for text in (given.subject, given.baseline)]
    found = paired(*works, rounds=given.rounds, seconds=given.seconds)
    print(found)
    most = ceiling()
    print(f"ceiling {most / 1e9:.3g} GFLOP/s, {torch.get_num_threads()} threads")
    for name, work, seconds in zip(("subject", "baseline"), works, found.medians, strict=True):
        print(f"{name}: {operations(work) / seconds / most:.1%} of it")


if __name__ == "__main__":
    main()
