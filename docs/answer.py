"""Draw the README's figure from the published runs of experiments 6, 7 and 8: the answer, and its causes.

.venv/bin/python docs/answer.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import training_length  # noqa: E402
import why_it_helps  # noqa: E402
from lab.analysis import figures  # noqa: E402
from lab.guard.errors import run_main  # noqa: E402


def main(path=ROOT / "figures" / "answer.png"):
    """Draw the figure and save it; return it."""
    figures.has_display()  # chooses how Matplotlib draws
    options = training_length.parse(["--from-results"])
    of_causes = why_it_helps.parse(["--from-results"])
    found, chosen, runs, estimates = training_length.study(options)
    figure = figures.new((12, 8.4))
    upper, lower = figure.subfigures(2, 1)
    lower.suptitle("What it rests on, tested after five epochs", weight="bold")
    training_length.draw(upper, found, chosen, runs, training_length.gains_to_draw(estimates, options))
    why_it_helps.draw(lower, *why_it_helps.study(of_causes))
    figures.save(figure, path)
    return figure


if __name__ == "__main__":
    run_main(main)
