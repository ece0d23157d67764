"""What the scripts' command lines share: flags, notes on standard error, exit codes."""

import argparse
import contextlib
import logging
import math
import os
import re
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from lab import LabError, store, study
from lab.data import load_splits
from lab.recipe import POLICIES, SMOKE, Recipe
from lab.statistics import wilson_interval

SAVES = Path(__file__).resolve().parent.parent / "saves"
RESULTS = SAVES.parent / "results"
LARGEST_SEED = 2**32 - 1


def parser(description, save_help=None, suffixes=()):
    """Return a parser with the flags that all scripts share.

    Args:
        description: the script's docstring
        save_help: what `--save` saves
        suffixes: the file name endings that `--save` takes; without any, there is no such flag
    """
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flags.add_argument("--epochs", type=whole_number(1), metavar="N", help=f"default {Recipe.epochs}")
    flags.add_argument("--batch-size", type=whole_number(1, 60_000), metavar="N", help=f"default {Recipe.batch_size}")
    flags.add_argument("--learning-rate", type=positive_float, metavar="X", help=f"default {Recipe.learning_rate}")
    flags.add_argument("--precision", choices=POLICIES, help="of the arithmetic, default float32")
    flags.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, metavar="N", help="default 0")
    flags.add_argument(
        "--data-dir", type=path, metavar="DIR", help="folder of the four .gz files; nothing else is tried"
    )
    flags.add_argument(
        "--output-dir", type=path, default=SAVES, metavar="DIR", help="for what is saved, default saves/"
    )
    flags.add_argument(
        "--retrain", action="store_true", help="train even if there is a saved model; experiments 1 and 2 always do"
    )
    if suffixes:
        flags.add_argument("--save", type=path_with(suffixes), nargs="?", const=True, metavar="PATH", help=save_help)
    flags.add_argument(
        "--smoke", action="store_true", help="all of it in seconds, on a slice of the data, apart from real saves"
    )
    flags.add_argument("--debug", action="store_true", help="show tracebacks")
    return flags


def training_parser(description):
    """Return the parser of a script that trains one model."""
    flags = parser(description, save_help="where to save the model, with its record beside it", suffixes=(".keras",))
    flags.add_argument(
        "--resume", action="store_true", help="go on after the last finished epoch of an interrupted training"
    )
    return flags


def picture_parser(description):
    """Return the parser of a script that draws a picture of what a model does."""
    flags = parser(
        description,
        save_help="save the picture, by default in the output folder (.png, .pdf, .svg)",
        suffixes=(".png", ".pdf", ".svg"),
    )
    flags.add_argument(
        "--model", type=path, metavar="PATH", help="a Keras model file of your own, trained on pixels in [0, 1]"
    )
    return flags


def study_parser(description, variants, seeds):
    """Return the parser of a script that compares variants over many runs; `seeds` is how many by default."""
    flags = parser(
        description, save_help="save the pictures, by default in the output folder", suffixes=(".png", ".pdf", ".svg")
    )
    flags.add_argument(
        "--seeds",
        type=whole_number(1, 1000),
        default=seeds,
        metavar="N",
        help=f"runs of each, from --seed on; default {seeds}",
    )
    flags.add_argument(
        "--variants", nargs="+", choices=variants, default=list(variants), metavar="NAME", help=", ".join(variants)
    )
    flags.add_argument("--jobs", type=whole_number(1), metavar="N", help="runs at once; default one for every core")
    flags.add_argument("--cluster", type=address, metavar="tcp://HOST:PORT", help="a Dask scheduler, instead of --jobs")
    flags.add_argument("--from-results", action="store_true", help="no runs: the published ones, in results/")
    return flags


def parse(flags, argv):
    """Parse and put together what belongs together: `recipe` from its flags, `output_dir` with smoke runs apart."""
    options = flags.parse_args(argv)
    for name, value in vars(options).items():
        if value == []:  # so some versions of Python read `--flag=--`
            flags.error(f"argument --{name.replace('_', '-')}: expected an argument")
    given = {name: getattr(options, name) for name in asdict(Recipe()) if getattr(options, name, None) is not None}
    options.recipe = replace(SMOKE if options.smoke else Recipe(), **given)
    if options.retrain and getattr(options, "resume", False):
        flags.error("argument --retrain: not with --resume")
    if options.retrain and getattr(options, "model", None):
        flags.error("argument --retrain: --model PATH is somebody else's to train")
    if options.seed + getattr(options, "seeds", 1) > LARGEST_SEED + 1:
        flags.error(f"argument --seeds: {options.seeds} from {options.seed} on, but they end at {LARGEST_SEED}")
    if options.smoke:
        options.output_dir /= "smoke"
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # without one, TensorFlow does not start, nor do a study's children
        options.output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(options.output_dir.absolute())
    return options


def save_path(options, name):
    """Return the path that `--save` gives, or else that of `name` in the output folder."""
    return options.save if isinstance(options.save, Path) else options.output_dir / name


def run_of(script, options):
    """Return the model and the record of a training script's run, reused where it may be; `script` is its module."""
    make = store.trained if options.retrain else store.saved_or_trained
    path = options.output_dir / script.SAVED_AS
    return make(script.build_model, path, options.recipe, options.seed, options.data_dir, script.THREADS)


def study_runs(script, options, arms=None):
    """Return the runs that a study's flags ask for, done where they are missing; as `lab.study.run_study`.

    Args: the script's name; its options; (variant, recipe) pairs, by default the options' variants and their recipe.
    """
    arms = arms or [(name, options.recipe) for name in options.variants]
    seeds = range(options.seed, options.seed + options.seeds)
    plan = [study.Key(name, seed, recipe) for seed in seeds for name, recipe in arms]
    if options.from_results:
        return study.published(plan, RESULTS / script)
    return study.run_study(
        script,
        plan,
        options.output_dir / script,
        options.data_dir,
        options.jobs,
        options.cluster,
        anew=options.retrain,
    )


def test_labels(options):
    """Return the labels of the test images on which a study's runs are measured, uint8 (n,)."""
    (split,) = load_splits(["test"], options.data_dir)
    return split.labels[: options.recipe.test_images]


class _Terminated(BaseException):
    """SIGTERM came; raised, so that partial files are removed."""


def _terminate(number, frame):
    raise _Terminated


def run(main):
    """Run a script's `main` and exit: 0 done, 1 failed with one line, 2 wrong usage, 130 interrupted."""
    debug = "--debug" in sys.argv[1:]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal without a sign for a character gets the rest
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lab").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except _Terminated:
        leave(128 + signal.SIGTERM)
    except BrokenPipeError:  # the reader, say `head`, has seen enough; there is nobody left to print to
        leave(1)
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, LabError)
        fail(f"error: {error}" if known else f"error: {type(error).__name__}: {error} (--debug shows where)", 1)


def fail(message, code):
    """Print one line on standard error and exit; signs that a terminal would obey are not sent to it."""
    line = " ".join(message.split())
    print("".join(sign if sign.isprintable() else "?" for sign in line), file=sys.stderr)
    leave(code)


def leave(code):
    """Exit at once: Python's own way out pulls the ground from under TensorFlow's threads, which then may crash."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def report(record):
    """Print what a training run's record says, the test accuracy last."""
    seconds = record["history"]["seconds"]
    test, train = record["test"], record["train"]
    low, high = wilson_interval(round(test["accuracy"] * test["n"]), test["n"])
    print(f"parameters {record['parameters']:,}")
    print(f"time per epoch {statistics.median(seconds):.2f} s (median of {len(seconds)})")
    print(f"training accuracy {train['accuracy']:.4f} (n = {train['n']:,}), loss {train['loss']:.4f}")
    interval = f"95% CI {low:.4f}-{high:.4f}, n = {test['n']:,}"
    print(f"test accuracy {test['accuracy']:.4f} ({interval}), loss {test['loss']:.4f}")


def whole_number(lowest, highest=None):
    """Return a reader of whole numbers from `lowest` to `highest`."""

    def whole_number(text):  # its name is what argparse says was not read
        number = int(text)
        if number < lowest or (highest is not None and number > highest):
            raise argparse.ArgumentTypeError(
                f"{number} is not {f'{lowest} to {highest}' if highest else f'{lowest} or more'}"
            )
        return number

    return whole_number


def positive_float(text):
    """Read a finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return number


def address(text):
    """Read the address of a Dask scheduler."""
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like tcp://host:8786")
    return text


def path(text):
    """Read a path; an empty one is a mistake, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("empty path")
    return Path(text)


def path_with(suffixes):
    """Return a reader of paths that end in one of the suffixes."""

    def read(text):
        if path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return Path(text)

    return read
