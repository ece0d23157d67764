"""What bfloat16 costs in accuracy: both models, both precisions, the same seeds.

Runs the training scripts, keeps the records in results/precision.json, does only what is missing there, and prints
means, standard deviations and the 95% interval of the paired difference.

python benchmarks/precision.py
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab.compare import format_signed_ci  # noqa: E402
from lab.plumbing.files import atomic_write  # noqa: E402
from lab.recipe import SMOKE, Recipe  # noqa: E402
from lab.statistics import mean_interval  # noqa: E402

SCRIPTS = {"dense": ("deep_learning.py", "fashion.json"), "conv": ("deep_learning_conv.py", "fashion_conv.json")}
PRECISIONS = ("float32", "bfloat16")
KEPT = ("parameters", "weights_sha256", "history", "test", "train", "environment")


def train(model, precision, seed, more):
    """Run a training script; return what is kept of its record."""
    script, record_name = SCRIPTS[model]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--precision", precision, "--seed", str(seed), "--output-dir", folder, *more]
        subprocess.run([sys.executable, ROOT / script, *flags], check=True, stdout=sys.stderr)
        (path,) = Path(folder).rglob(record_name)
        record = json.loads(path.read_text())
    made_of = {key: record["made_of"][key] for key in ("recipe", "seed")}
    return {"model": model, **made_of, **{key: record[key] for key in KEPT}}


def table(records):
    """Return a line per model, precision and split, and the difference of the precisions paired by seed."""
    lines = []
    for model in SCRIPTS:
        for split in ("test", "train"):
            accuracy = {
                precision: {
                    record["seed"]: 100 * record[split]["accuracy"]
                    for record in records
                    if record["model"] == model and record["recipe"]["precision"] == precision
                }
                for precision in PRECISIONS
            }
            seeds = sorted(set.intersection(*map(set, accuracy.values())))
            if len(seeds) < 2:
                continue
            means = [
                f"{precision} {statistics.mean(by_seed.values()):.2f} (SD {statistics.stdev(by_seed.values()):.2f})"
                for precision, by_seed in accuracy.items()
            ]
            difference = mean_interval([accuracy["bfloat16"][seed] - accuracy["float32"][seed] for seed in seeds])
            lines.append(
                f"{model} {split} accuracy in %, n = {len(seeds)} seeds: {', '.join(means)}; "
                f"difference {format_signed_ci(difference)}"
            )
    return "\n".join(lines)


def main():
    """Do the missing runs, keep their records, and print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument(
        "--smoke", action="store_true", help="in seconds, on a slice of the data, apart from real results"
    )
    options = flags.parse_args()
    results = ROOT / ("saves/smoke" if options.smoke else "results") / "precision.json"
    records = json.loads(results.read_text()) if results.exists() else []
    recipe = SMOKE if options.smoke else Recipe()
    if any(record["recipe"] != asdict(replace(recipe, precision=record["recipe"]["precision"])) for record in records):
        flags.error(f"{results} holds runs of another recipe; move it away")
    done = {(record["model"], record["recipe"]["precision"], record["seed"]) for record in records}
    for run in (
        (model, precision, seed) for seed in range(options.seeds) for model in SCRIPTS for precision in PRECISIONS
    ):
        if run not in done:
            records.append(train(*run, ["--smoke"] if options.smoke else []))
            with atomic_write(results) as temporary:
                temporary.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    print(table(records))


if __name__ == "__main__":
    main()
