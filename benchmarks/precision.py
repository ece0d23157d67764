"""What bfloat16 costs in accuracy: dense and conv in both precisions, five seeds. The float32 runs are experiment 5's.

python -m benchmarks.precision
python -m benchmarks.precision --from-results    # the published runs: the table in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab import cli, compare
from lab.training.data import load_test_data
from lab.analysis.statistics import crossed_estimate
from lab.study.runs import RunKey

VARIANTS = {name: convolution_gain.VARIANTS[name] for name in ("dense", "conv")}


def main(argv=None):
    """Run what is missing; print the table."""
    options = cli.parse(cli.study_parser(__doc__, VARIANTS, seeds=5), argv)
    runs = {}
    for precision, script in {"float32": "convolution_gain", "bfloat16": "benchmarks.precision"}.items():
        recipe = replace(options.recipe, precision=precision)
        plan = [RunKey(name, seed, recipe) for seed in cli.seeds(options) for name in options.variants]
        retrain = False if script == "convolution_gain" else None  # those are experiment 5's
        runs[precision] = cli.study_runs(script, options, plan, retrain)
    labels = load_test_data(options.data_dir).first(options.recipe.test_images).labels
    rows = []
    for name in options.variants:
        correct = [
            compare.is_correct(each, name, labels).astype(np.int8) for each in (runs["bfloat16"], runs["float32"])
        ]
        means = [compare.format_mean(compare.accuracies(each, name, "test")) for each in runs.values()]
        difference = crossed_estimate(100.0 * (correct[0] - correct[1]))
        rows.append([VARIANTS[name].label, *means, compare.format_signed_ci(difference)])
    header = ["test accuracy, %", "float32", "bfloat16", "difference, points"]
    print(compare.markdown_table(header, rows))
    print(f"\n{compare.format_seeds(runs['float32'])}")


if __name__ == "__main__":
    cli.run_main(main)
