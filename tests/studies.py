"""What the tests of studies share."""

from lab.study.runs import RunKey
from lab.training.data import DataSet
from lab.training.recipe import Recipe

DENSE_AND_CONV = ("convolution_gain.py", "--smoke", "--seeds", 2, "--variants", "dense", "conv", "--jobs", 2)
SMOKE, SMOKE_DATA = Recipe(epochs=1), DataSet(train_images=2_000, test_images=500)
PLAN = [RunKey(variant, seed, SMOKE) for seed in (0, 1) for variant in ("dense", "conv")]


def run_paths(folder):
    """Return the paths of the finished runs of experiment 5 in an output folder, in order."""
    return sorted((folder / "smoke" / "convolution_gain").glob("[!.]*.npz"))
