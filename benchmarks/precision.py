"""What bfloat16 costs in accuracy: dense and conv in both precisions, five seeds. The float32 runs are experiment 5's.

python -m benchmarks.precision
python -m benchmarks.precision --from-results    # the published runs: the table in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab.analysis import compare
from lab.analysis.statistics import crossed_estimate
from lab.guard.errors import run_main
from lab.study import command_line
from lab.study.runs import RunKey

VARIANTS = {name: convolution_gain.VARIANTS[name] for name in ("dense", "conv")}


def main(argv=None):
    """Run what is missing; print the table."""
    parser = command_line.study_parser(__doc__, VARIANTS, 5, without=["--precision", "--save"])
    options = command_line.parse(parser, argv)
    runs = {}
    for precision, script in {"float32": convolution_gain.__file__, "bfloat16": __file__}.items():
        recipe = replace(options.recipe, precision=precision)
        plan = [RunKey(name, seed, recipe) for seed in command_line.seeds(options) for name in options.variants]
        runs[precision] = command_line.study_runs(script, options, plan)
    rows = []
    for name in options.variants:
        correct = [compare.is_correct(runs[each], name).astype(np.int8) for each in ("bfloat16", "float32")]
        means = [compare.format_mean(compare.accuracies(each, name, "test")) for each in runs.values()]
        difference = crossed_estimate(100.0 * (correct[0] - correct[1]))
        rows.append([VARIANTS[name].label, *means, compare.format_signed_ci(difference)])
    header = ["test accuracy, %", "float32", "bfloat16", "difference, points"]
    print(compare.markdown_table(header, rows))
    print(f"\n{compare.format_seeds(runs['float32'])}")


if __name__ == "__main__":
    run_main(main)
