"""Train one published run of every variant of experiment 5 again, and say whether it gives the same.

On the machine and with the code that made a run, the same bits are expected; elsewhere, a test accuracy within the
spread of the variant's published runs. All take half an hour on two cores, dense alone takes 15 s:

    python -m lab.study.reproduce
    python -m lab.study.reproduce --variants dense
"""

import argparse
import math
import statistics

from lab.analysis.statistics import t_p_value
from lab.guard.errors import LabError, run_main
from lab.guard.files import temporary_folder
from lab.study.provenance import ROOT
from lab.study.published import RESULTS, read_records
from lab.study.runs import RunKey, run_study
from lab.training.data import DataSet
from lab.training.recipe import Recipe

SCRIPT = ROOT / "convolution_gain.py"
LEFT_OUT = "fully-connected-21632"  # a quarter of an hour by itself
LEVEL = 0.001  # a run is within the spread if it is in the 99.9% prediction interval of one more run


def main(argv=None):
    """Train again what is asked for, and print a line for each variant."""
    records = [each for each in read_records(RESULTS / SCRIPT.stem) if each["data_set"] == DataSet().name]
    variants = {}  # name: records of the runs with the default recipe, the lowest seed first
    for record in sorted(records, key=lambda record: record["seed"]):
        if record["variant"] != LEFT_OUT and RunKey.from_record(record).recipe == Recipe():
            variants.setdefault(record["variant"], []).append(record)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(variants)
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    keys = {name: RunKey.from_record(variants[name][0]) for name in parser.parse_args(argv).variants}
    with temporary_folder("lab-reproduce-") as folder:
        runs = run_study(SCRIPT, list(keys.values()), folder, DataSet(), retrain=True)
    outside = []
    for name, key in keys.items():
        verdict, same = compare(runs[key].record, variants[name])
        print(f"{key}: {verdict}", flush=True)
        outside += [] if same else [name]
    if outside:
        raise LabError(f"not reproduced: {', '.join(outside)}; code, libraries or hardware change more than rounding")


def compare(record, published):
    """Return how a run's record compares with a variant's published ones, in words, and whether it is one of them.

    The first of the published ones is of the same seed.
    """
    if record["weights_sha256"] == published[0]["weights_sha256"]:
        return "the same bits", True
    accuracies = [each["test_accuracy"] for each in published]
    n, deviation = len(accuracies), statistics.stdev(accuracies)
    t = (record["test_accuracy"] - statistics.fmean(accuracies)) / (deviation * math.sqrt(1 + 1 / n))
    within = t_p_value(t, n - 1) >= LEVEL
    points = 100 * (record["test_accuracy"] - accuracies[0])
    spread = f"{'within' if within else 'outside'} the spread of its {n} published runs"
    return f"test accuracy differs by {points:+.2f} points, {spread}", within


if __name__ == "__main__":
    run_main(main)
