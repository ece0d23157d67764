"""Compare the recipe with Keras, PyTorch and JAX: seconds per epoch, whole scripts, memory, lower bound and growth.

Every contestant is a separate process; the rounds are interleaved, so that a machine that slows down slows all of
them; an epoch is measured after the first one, which compiles. Writes results/benchmark.json, and results/benchmark.md
and figures/benchmark.png from it: an hour on two cores. `--short` takes ten minutes, and keeps its results apart.

A benchmark that was stopped resumes from saves/; a finished one starts from the beginning.

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

from lab.analysis.compare import markdown_table  # noqa: E402
from lab.guard.files import atomic_write  # noqa: E402

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
MODELS = {"dense": 60_000, "conv": 12_000}  # images of an epoch; some contestants take a minute for 60,000 of conv
FULL = 60_000
EPOCHS, SCRIPT_EPOCHS = 4, 5
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
    """Return the median of an entry's epochs after the first, which compiles, in seconds per 60,000 images."""
    return statistics.median(entry["epoch_seconds"][1:]) * FULL / entry["images"]


def format_ratio(numerators, denominators):
    """Return median, lowest and highest of the rounds' ratios, as text."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def rounds_of(result, **wanted):
    """Return the entries of a result's list that have the wanted values, in the order of the rounds."""
    return [entry for entry in result if all(entry[key] == value for key, value in wanted.items())]


def table(result):
    """Return what a benchmark's result says, in Markdown."""
    parts, contest = [], result["contest"]
    for precision in CONTESTANTS:
        for model in MODELS:
            ours = rounds_of(contest, name=OURS, model=model, precision=precision)
            rows = []
            for name in dict.fromkeys(entry["name"] for entry in rounds_of(contest, model=model, precision=precision)):
                entries = rounds_of(contest, name=name, model=model, precision=precision)
                seconds = statistics.median(map(epoch_seconds, entries))
                memory = statistics.median(entry["peak_mebibytes"] for entry in entries)
                accuracy = 100 * statistics.median(entry["test_accuracy"] for entry in entries)
                ratios = format_ratio(map(epoch_seconds, ours), map(epoch_seconds, entries))
                rows.append([name, f"{seconds:.2f}", ratios, f"{memory:.0f}", f"{accuracy:.1f}"])
            if not rows:
                continue
            header = ["s per 60,000 images", RATIO, "MiB", "accuracy, %"]
            parts.append(markdown_table([f"{model}, {precision}", *header], rows))
            images = ours[0]["images"]
            parts.append(
                f"{len(ours)} rounds of {ours[0]['epochs']} epochs of {images:,} images, without the first epoch."
            )
            if precision == "float32":
                floor, median = result["roofline"][model]["floor_seconds"], float(rows[0][1])
                parts[-1] += f" Floor of {model}: {floor:.2f} s; ours takes {median / floor:.1f} times that."
    rows = []
    for model in MODELS if result["scripts"] else ():
        ours, plain = (rounds_of(result["scripts"], model=model, name=name) for name in (OURS, PLAIN))
        pairs = [[entry["seconds"] for entry in entries] for entries in (ours, plain)]
        memory = statistics.median(entry["peak_mebibytes"] for entry in ours)
        seconds = [f"{statistics.median(each):.1f}" for each in pairs]
        rows.append([f"{model}, {ours[0]['epochs']} epochs", *seconds, format_ratio(*pairs), f"{memory:.0f}"])
    if rows:
        parts.append(markdown_table(["whole script", "ours, s", "Keras, s", RATIO, "ours, MiB"], rows))
    (ours_name, other_name), (ours_runs, other_runs) = zip(*result["start"].items(), strict=True)
    if ours_runs:
        parts.append(
            f"`{ours_name}`: {statistics.median(ours_runs):.1f} s; `{other_name}`: "
            f"{statistics.median(other_runs):.1f} s; ratio {format_ratio(ours_runs, other_runs)}."
        )
    rows = [
        [
            f"{entry['model']}, {entry['images']:,} images, batch {entry['batch_size']:,}",
            f"{statistics.median(entry['epoch_seconds'][1:]):.2f}",
            f"{entry['peak_mebibytes']:.0f}",
        ]
        for entry in result["growth"]
    ]
    if rows:
        parts.append(markdown_table(["growth of ours", "s per epoch", "MiB"], rows))
    return "\n\n".join(parts)


def plot(result):
    """Draw the float32 contestants' seconds per epoch and the floor, a panel per model. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt
    import seaborn

    figure, axes = plt.subplots(1, len(MODELS), figsize=(11, 3.6), layout="constrained")
    for ax, model in zip(axes, MODELS, strict=True):
        entries = rounds_of(result["contest"], model=model, precision="float32")
        names = [entry["name"] for entry in entries]
        seaborn.stripplot(x=[epoch_seconds(entry) for entry in entries], y=names, hue=names, ax=ax, legend=False)
        floor = result["roofline"][model]["floor_seconds"]
        ax.axvline(floor, color="black", linestyle="--")
        ax.text(floor, 0.6, " floor", transform=ax.get_xaxis_transform(), va="center")
        ax.set(title=model, xlabel="seconds per 60,000 images, a dot per round", ylabel="")
        ax.set_xlim(left=0)
    return figure


def growth_plan(smoke):
    """Return the (images, batch size) pairs of the runs that show how time and memory grow."""
    if smoke:
        return [(400, 32), (800, 64)]
    return [(n, 32) for n in (15_000, 30_000, 60_000, 240_000)] + [(60_000, size) for size in (64, 128, 256, 512, 1024)]


def benchmark(options, unfinished):
    """Do the runs that the unfinished results do not have yet, and keep each there."""
    result = {"contest": [], "scripts": [], "start": {name: [] for name in START}, "growth": []}
    if unfinished.exists():
        result = json.loads(unfinished.read_text())

    def keep():
        with atomic_write(unfinished) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")

    def do_round(entries, done, name, precision, model, **flags):
        if len(rounds_of(entries, name=name, model=model, precision=precision)) <= done:
            entries.append(contest(name, precision, model=model, seed=done, **flags))
            print(f"round {done + 1}: {model}, {precision}, {name}", file=sys.stderr, flush=True)
            keep()

    if "roofline" not in result:
        result["roofline"] = json.loads(run([HERE / "roofline.py"])[0])
    if not options.short:
        run(CONFUSION_MATRIX)  # so that there is a saved model
    measured = {(entry["model"], entry["images"], entry["batch_size"]) for entry in result["growth"]}
    for model in MODELS if not options.short else ():
        for each in growth_plan(options.smoke):
            if (model, *each) not in measured:
                images, batch_size = each
                entry = contest(OURS, "float32", model=model, epochs=2, images=images, batch_size=batch_size)
                result["growth"].append(entry)
                keep()
    for done in range(options.rounds):
        for model, images in MODELS.items():
            images = options.images or images
            for precision, contestants in CONTESTANTS.items():
                for name in contestants if precision == "float32" or not options.short else ():
                    do_round(result["contest"], done, name, precision, model, epochs=options.epochs, images=images)
        if options.short:
            continue
        for model in MODELS:
            epochs, images = (2, options.images) if options.smoke else (SCRIPT_EPOCHS, FULL)
            for name in (OURS, PLAIN):
                do_round(result["scripts"], done, name, "float32", model, epochs=epochs, images=images)
        for name, command in START.items():
            if len(result["start"][name]) <= done:
                result["start"][name].append(run(command)[1])
        keep()
    return result


def main():
    """Run the benchmark; print its table and draw its figure."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--short", action="store_true", help="epochs in float32 only: 3 rounds of 12,800 images")
    flags.add_argument("--smoke", action="store_true", help="everything once, with 800 images")
    options = flags.parse_args()
    options.rounds, options.epochs, options.images = 5, EPOCHS, None
    folder = ROOT
    if options.short:
        options.rounds, options.images, folder = 3, 12_800, ROOT / "saves" / "short"
    if options.smoke:
        options.rounds, options.epochs, options.images, folder = 1, 2, 800, ROOT / "saves" / "smoke"
    unfinished = folder / "saves" / "benchmark.json"
    if options.smoke:
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
