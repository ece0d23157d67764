"""Compare the recipe with Keras, PyTorch and JAX: seconds per epoch, whole scripts, memory, and a lower bound.

Every contestant is a separate process; the rounds are interleaved, so that a machine that slows down slows all of
them; an epoch is measured after the first one, which compiles. Writes results/benchmark.json, and results/benchmark.md
and figures/benchmark.png from it: one or two hours on two cores. `--short` does less, and keeps its results apart.

A benchmark that was stopped resumes from saves/, at the same commit; a finished one starts from the beginning.

python benchmarks/run.py
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab.analysis.compare import markdown_table  # noqa: E402
from lab.guard.files import atomic_write  # noqa: E402
from lab.study.provenance import checkout_state  # noqa: E402

HERE = ROOT / "benchmarks"
OURS, PLAIN, EXPERT = "ours", "Keras, as in its tutorials", "Keras, 50 steps per call"
BETTER = "Keras, the better of the two"
RATIO = "ours / theirs"
NO_CLAIM = (
    "*no claim*: the range of the rounds' ratios, in parentheses, includes 1; they do not show which is faster. "
    "Keras' better form is chosen anew in each round."
)
KERAS = {PLAIN: ["keras_plain.py"], EXPERT: ["keras_plain.py", "--steps-per-execution", 50]}
OTHERS = {
    "PyTorch": ["torch_eager.py"],
    "PyTorch, compiled": ["torch_eager.py", "--compile"],
    "JAX": ["jax_scan.py"],
}
PACKAGES = {"torch_eager.py": "torch", "jax_scan.py": "jax"}  # without them, their contestants are skipped
OTHERS = {name: command for name, command in OTHERS.items() if importlib.util.find_spec(PACKAGES[command[0]])}
CONTESTANTS = {OURS: ["ours.py"], **KERAS, **OTHERS}  # name: command
MODELS = {"dense": 60_000, "conv": 12_000}  # images of an epoch; some contestants take a minute for 60,000 of conv
SCRIPTS = {"dense": "deep_learning.py", "conv": "deep_learning_conv.py"}
FULL = 60_000
EPOCHS, SCRIPT_EPOCHS = 4, 5
SCRIPT_ROUNDS = 3  # of all rounds, the first; whole scripts take most of the time, and their ratios are far from 1


def run(command):
    """Run a Python command; return the last line that it prints and its wall seconds."""
    command, environment = [sys.executable, *map(str, command)], {**os.environ, "MPLBACKEND": "Agg"}
    started = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command[1:])} failed ({process.returncode}): {process.stderr[-500:]}")
    return (process.stdout.splitlines() or [""])[-1], seconds


def contest(name, **flags):
    """Run one contestant once; return what it says of itself, and the wall seconds of the process."""
    script, *more = CONTESTANTS[name]
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    closing_line, seconds = run([HERE / script, *more, *words])
    return {**json.loads(closing_line), "seconds": round(seconds, 2)}


def whole_script(name, model, seed, smoke):
    """Run experiment 1 or 2 once as a user does, or the same in Keras; return the wall seconds of the process."""
    if name != OURS:
        epochs, images = (2, 320) if smoke else (SCRIPT_EPOCHS, FULL)
        return {"seconds": contest(name, model=model, seed=seed, epochs=epochs, images=images)["seconds"]}
    with tempfile.TemporaryDirectory() as folder:
        size = ["--smoke"] if smoke else ["--epochs", SCRIPT_EPOCHS]
        return {"seconds": round(run([ROOT / SCRIPTS[model], "--seed", seed, "--output-dir", folder, *size])[1], 2)}


def epoch_seconds(entry):
    """Return the median of an entry's epochs after the first, which compiles, in seconds per 60,000 images."""
    return statistics.median(entry["epoch_seconds"][1:]) * FULL / entry["images"]


def format_ratio(numerators, denominators):
    """Return median, lowest and highest of the rounds' ratios, and whether they claim nothing, as text."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    text = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{text}, no claim" if min(ratios) <= 1 <= max(ratios) else text


def compare_seconds(seconds, digits):
    """Return, by name, median seconds and ratio as text. Args: by name, a list of a value per round; digits"""
    if KERAS.keys() <= seconds.keys():
        forms = {name: seconds[name] for name in (OURS, *KERAS)}
        seconds = {**forms, BETTER: [*map(min, *(forms[name] for name in KERAS))], **seconds}
    return {
        name: [f"{statistics.median(each):.{digits}f}", "" if name == OURS else format_ratio(seconds[OURS], each)]
        for name, each in seconds.items()
    }


def rounds_of(result, **wanted):
    """Return the entries of a result's list that have the wanted values, in the order of the rounds."""
    return [entry for entry in result if all(entry[key] == value for key, value in wanted.items())]


def by_name(entries):
    """Return lists of entries by the name of their contestant."""
    return {name: rounds_of(entries, name=name) for name in dict.fromkeys(entry["name"] for entry in entries)}


def median_size_and_accuracy(entries):
    """Return the median of the peak memory and that of the accuracy, as text."""
    memory, accuracy = (statistics.median(e[key] for e in entries) for key in ("peak_mebibytes", "test_accuracy"))
    return f"{memory:.0f}", f"{100 * accuracy:.1f}"


def table(result):
    """Return what a benchmark's result says, in Markdown."""
    parts = []
    for model in MODELS:
        rounds = by_name(rounds_of(result["contest"], model=model, precision="float32"))
        seconds = {name: [*map(epoch_seconds, entries)] for name, entries in rounds.items()}
        rows = []
        for name, cells in compare_seconds(seconds, 2).items():
            memory, accuracy = ("", "") if name == BETTER else median_size_and_accuracy(rounds[name])
            rows.append([name, *cells, memory, accuracy])
        header = ["s per 60,000 images", RATIO, "MiB", "accuracy, %"]
        parts.append(markdown_table([f"{model}, float32", *header], rows))
        epochs, images = (rounds[OURS][0][key] for key in ("epochs", "images"))
        floor = result["roofline"][model]["floor_seconds"]
        parts.append(
            f"{len(rounds[OURS])} rounds of {epochs} epochs of {images:,} images, without the first epoch. Floor of "
            f"{model}: {floor:.2f} s; ours takes {statistics.median(seconds[OURS]) / floor:.1f} times that."
        )
    rows = []
    for model in MODELS:
        rounds = by_name(rounds_of(result["scripts"], model=model))
        seconds = {name: [entry["seconds"] for entry in entries] for name, entries in rounds.items()}
        rows += [[f"{model}: {name}", *cells] for name, cells in compare_seconds(seconds, 1).items()]
    if rows:
        parts.append(markdown_table(["whole script", "s", RATIO], rows))
        parts.append(f"{len(rounds[OURS])} rounds.")
    return "\n\n".join([*parts, NO_CLAIM])


def plot(result):
    """Draw the float32 contestants' seconds per epoch and the floor, a panel per model. Returns: matplotlib Figure"""
    import matplotlib.pyplot as plt
    import seaborn

    figure, axes = plt.subplots(1, len(MODELS), figsize=(11, 3.6), layout="constrained", squeeze=False)
    for ax, model in zip(axes.flat, MODELS, strict=True):
        entries = rounds_of(result["contest"], model=model, precision="float32")
        names = [entry["name"] for entry in entries]
        seaborn.stripplot(x=[epoch_seconds(entry) for entry in entries], y=names, hue=names, ax=ax, legend=False)
        floor = result["roofline"][model]["floor_seconds"]
        ax.axvline(floor, color="black", linestyle="--")
        ax.text(floor, 0.6, " floor", transform=ax.get_xaxis_transform(), va="center")
        ax.set(title=model, xlabel="seconds per 60,000 images, a dot per round", ylabel="")
        ax.set_xlim(left=0)
    return figure


def plan(options, seed):
    """Yield the runs of a round: where the result keeps it, what it is, and a function that does it."""
    for model, images in MODELS.items():
        size = {"epochs": options.epochs, "images": options.images or images}
        for name in CONTESTANTS:
            what = {"name": name, "model": model}
            yield "contest", what, lambda what=what, size=size: contest(**what, **size, seed=seed)
    for model in () if options.short or seed >= SCRIPT_ROUNDS else MODELS:
        for name in (OURS, *KERAS):
            what = {"name": name, "model": model}
            yield "scripts", what, lambda what=what: whole_script(**what, seed=seed, smoke=options.smoke)


def benchmark(options, unfinished):
    """Do the runs that the unfinished results of this commit do not have yet, and keep each there."""
    result = {**checkout_state(), "contest": [], "scripts": []}
    if unfinished.exists() and not options.smoke:
        begun = json.loads(unfinished.read_text())
        result = begun if begun["commit"] == result["commit"] else result
    if "roofline" not in result:
        result["roofline"] = json.loads(run([HERE / "roofline.py"])[0])
    for seed in range(options.rounds):
        for part, what, do in plan(options, seed):
            if not rounds_of(result[part], seed=seed, **what):
                result[part].append({**do(), **what, "seed": seed})
                print(f"round {seed + 1}, {part}: {', '.join(what.values())}", file=sys.stderr, flush=True)
                write(unfinished, result)
    return result


def write(path, result):
    """Write a result as JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def main(argv=None):
    """Run the benchmark; print its table and draw its figure."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--short", action="store_true", help="epochs only: 3 rounds of 12,800 images")
    flags.add_argument("--smoke", action="store_true", help="everything once, with 320 images")
    flags.add_argument("--output-dir", type=Path, metavar="PATH", help="where results/ and figures/ are written")
    options = flags.parse_args(argv)
    options.rounds, options.epochs, options.images, folder = 5, EPOCHS, None, ROOT
    if options.short:
        options.rounds, options.images, folder = 3, 12_800, ROOT / "saves" / "short"
    if options.smoke:
        options.rounds, options.epochs, options.images, folder = 1, 2, 320, ROOT / "saves" / "smoke"
    folder = options.output_dir or folder
    unfinished = folder / "saves" / "benchmark.json"
    result = benchmark(options, unfinished)
    print(table(result))
    with atomic_write(folder / "results" / "benchmark.md") as temporary:
        temporary.write_text(table(result) + "\n")
    write(folder / "results" / "benchmark.json", result)
    with atomic_write(folder / "figures" / "benchmark.png") as temporary:
        plot(result).savefig(temporary, dpi=150)
    unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
