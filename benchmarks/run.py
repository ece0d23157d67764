"""The recipe against what one would use instead: seconds per epoch, whole scripts, memory, floor and growth.

Every contestant is a process of its own; the rounds are interleaved, so that a machine that slows down slows all of
them; an epoch is measured after the first one, which compiles. Writes results/benchmark.json, and results/benchmark.md
and figures/benchmark.png from it.

A benchmark that was stopped goes on from saves/; a finished one starts from the beginning.

python benchmarks/run.py
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab.compare import markdown_table  # noqa: E402
from lab.plumbing.files import atomic_write  # noqa: E402

HERE = ROOT / "benchmarks"
OURS = "ours"
RATIO = "ours / theirs"
PLAIN = "Keras, as in its tutorials"
CONTESTANTS = {  # precision: name: command
    "float32": {
        OURS: ["ours.py"],
        PLAIN: ["keras_plain.py"],
        "PyTorch": ["torch_eager.py"],
        "PyTorch, compiled": ["torch_eager.py", "--compile"],
        "JAX": ["jax_scan.py"],
    },
    "bfloat16": {
        OURS: ["ours.py"],
        "PyTorch": ["torch_eager.py"],
        "PyTorch, compiled": ["torch_eager.py", "--compile"],
        "JAX": ["jax_scan.py"],
    },
}
MODELS = {"dense": 101_770, "conv": 2_770_634}
PACKAGES = {"torch_eager.py": "torch", "jax_scan.py": "jax"}  # without them, their contestants are skipped
CONTESTANTS = {
    precision: {
        name: command
        for name, command in commands.items()
        if importlib.util.find_spec(PACKAGES.get(command[0], "keras"))
    }
    for precision, commands in CONTESTANTS.items()
}
CONFUSION_MATRIX = [ROOT / "confusion_matrix.py", "--smoke"]
START = {
    "confusion_matrix.py, model saved": CONFUSION_MATRIX,
    "import tensorflow, seaborn": ["-c", "import tensorflow, seaborn"],
}


def run(command):
    """Run a Python command; return the last line that it prints and its wall seconds."""
    started = time.perf_counter()
    process = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"error: {' '.join(map(str, command))} failed: {process.stderr[-500:]}")
    return (process.stdout.splitlines() or [""])[-1], seconds


def contest(name, precision, **flags):
    """Run one contestant once; return what it says of itself, and the wall seconds of the process."""
    script, *more = CONTESTANTS[precision][name]
    words = [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", value)]
    closing_line, seconds = run([HERE / script, *more, "--precision", precision, *words])
    return {**json.loads(closing_line), "name": name, "seconds": round(seconds, 2)}


def epoch_seconds(entry):
    """Return the median of an entry's epochs after the first, which compiles."""
    return statistics.median(entry["epoch_seconds"][1:])


def ratio(numerators, denominators):
    """Return median, lowest and highest of the rounds' ratios."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def rounds_of(result, **wanted):
    """Return the entries of a result that have the wanted values, in the order of the rounds."""
    return [entry for entry in result["contest"] if all(entry[key] == value for key, value in wanted.items())]


def table(result):
    """Return what a benchmark's result says, in Markdown."""
    parts = []
    for precision in CONTESTANTS:
        for model in MODELS:
            ours = rounds_of(result, name=OURS, model=model, precision=precision)
            rows = []
            for name in dict.fromkeys(entry["name"] for entry in rounds_of(result, model=model, precision=precision)):
                entries = rounds_of(result, name=name, model=model, precision=precision)
                row = [name]
                for seconds in (epoch_seconds, lambda entry: entry["seconds"]):
                    row.append(f"{statistics.median(map(seconds, entries)):.2f}")
                    row.append("{:.2f} ({:.2f} to {:.2f})".format(*ratio(map(seconds, ours), map(seconds, entries))))
                row.append(f"{statistics.median(entry['peak_mebibytes'] for entry in entries):.0f}")
                row.append(f"{100 * statistics.median(entry['test_accuracy'] for entry in entries):.1f}")
                rows.append(row)
            epochs = ours[0]["epochs"]
            header = [
                "s per epoch",
                "ours / theirs",
                f"s, script of {epochs} epochs",
                "ours / theirs",
                "MiB",
                "accuracy, %",
            ]
            parts.append(markdown_table([f"{model}, {precision}", *header], rows))
            if precision == "float32":
                floor, median = result["roofline"][model]["floor_seconds"], float(rows[0][1])
                parts.append(
                    f"Floor of an epoch of {model}: {floor:.2f} s; ours takes {median / floor:.1f} times that."
                )
    (ours_name, other_name), (ours_runs, other_runs) = zip(*result["start"].items(), strict=True)
    parts.append(
        f"`{ours_name}`: {statistics.median(ours_runs):.1f} s; `{other_name}`: {statistics.median(other_runs):.1f} s; "
        "ratio {:.2f} ({:.2f} to {:.2f}).".format(*ratio(ours_runs, other_runs))
    )
    rows = [
        [
            f"{entry['model']}, {entry['images']:,} images, batch {entry['batch_size']:,}",
            f"{epoch_seconds(entry):.2f}",
            f"{entry['peak_mebibytes']:.0f}",
        ]
        for entry in result["growth"]
    ]
    parts.append(markdown_table(["growth of ours", "s per epoch", "MiB"], rows))
    return "\n\n".join(parts)


def plot(result):
    """Draw the float32 contestants' seconds per epoch and the floor, a panel per model. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt
    import seaborn

    figure, axes = plt.subplots(1, len(MODELS), figsize=(11, 3.6), layout="constrained")
    for ax, model in zip(axes, MODELS, strict=True):
        entries = rounds_of(result, model=model, precision="float32")
        names = [entry["name"] for entry in entries]
        seaborn.stripplot(x=[epoch_seconds(entry) for entry in entries], y=names, hue=names, ax=ax, legend=False)
        floor = result["roofline"][model]["floor_seconds"]
        ax.axvline(floor, color="black", linestyle="--")
        ax.annotate("floor", (floor, -0.35), xytext=(4, 0), textcoords="offset points")
        ax.set(title=model, xlabel="seconds per epoch, a dot per round", ylabel="")
        ax.set_xlim(left=0)
    return figure


def growth_plan(smoke):
    """Return the (images, batch size) pairs of the runs that show how time and memory grow."""
    if smoke:
        return [(400, 32), (800, 64)]
    return [(n, 32) for n in (15_000, 30_000, 60_000, 240_000)] + [(60_000, size) for size in (64, 128, 256, 512, 1024)]


def benchmark(options, unfinished):
    """Do the runs that the unfinished results do not have yet, and keep each there."""
    images = 800 if options.smoke else 60_000
    run(CONFUSION_MATRIX)  # so that there is a saved model

    def keep():
        with atomic_write(unfinished) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")

    result = {"contest": [], "start": {name: [] for name in START}, "growth": []}
    if unfinished.exists():
        result = json.loads(unfinished.read_text())
    if "roofline" not in result:
        result["roofline"] = json.loads(run([HERE / "roofline.py"])[0])
    for done in range(options.rounds):
        for model in MODELS:
            for precision, contestants in CONTESTANTS.items():
                for name in contestants:
                    if len(rounds_of(result, name=name, model=model, precision=precision)) <= done:
                        epochs = 2 if options.smoke else options.epochs
                        entry = contest(name, precision, model=model, epochs=epochs, images=images, seed=done)
                        result["contest"].append(entry)
                        print(f"round {done + 1}: {model}, {precision}, {name}", file=sys.stderr, flush=True)
                        keep()
        for name, command in START.items():
            if len(result["start"][name]) <= done:
                result["start"][name].append(run(command)[1])
        keep()
    measured = {(entry["model"], entry["images"], entry["batch_size"]) for entry in result["growth"]}
    for model in MODELS:
        for each in growth_plan(options.smoke):
            if (model, *each) not in measured:
                images, batch_size = each
                entry = contest(OURS, "float32", model=model, epochs=2, images=images, batch_size=batch_size)
                result["growth"].append(entry)
                keep()
    return result


def main():
    """Run the benchmark; print its table and draw its figure."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--epochs", type=int, default=5)
    flags.add_argument("--smoke", action="store_true", help="a round of each on 800 images, apart from real results")
    options = flags.parse_args()
    folder = ROOT / "saves" / "smoke" if options.smoke else ROOT
    unfinished = ROOT / "saves" / f"benchmark-{options.epochs}-epochs.json"
    if options.smoke:
        options.rounds = 1
        unfinished = folder / "benchmark.json"
        unfinished.unlink(missing_ok=True)
    result = benchmark(options, unfinished)
    print(table(result))
    with atomic_write(folder / "results" / "benchmark.md") as temporary:
        temporary.write_text(table(result) + "\n")
    with atomic_write(folder / "results" / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    with atomic_write(folder / "figures" / "benchmark.png") as temporary:
        plot(result).savefig(temporary, dpi=150)
    unfinished.unlink()


if __name__ == "__main__":
    main()
