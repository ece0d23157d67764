"""The flags that the scripts' command lines share, and how argparse converts their texts."""

import argparse
import math
import re
from pathlib import Path

LARGEST_SEED = 2**32 - 1
FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def parser(description, defaults, precisions, saves, suffixes=FIGURE_SUFFIXES):
    """Return a parser with the flags that all scripts share, from their docstring, defaults and choices."""
    layout = argparse.RawDescriptionHelpFormatter
    flags = argparse.ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False)
    flags.add_argument("--epochs", type=whole_number(1), metavar="N", help=f"default {defaults.epochs}")
    flags.add_argument("--batch-size", type=whole_number(1, 60_000), metavar="N", help=f"default {defaults.batch_size}")
    flags.add_argument("--learning-rate", type=positive_float, metavar="X", help=f"default {defaults.learning_rate}")
    flags.add_argument("--precision", choices=precisions, help="of the arithmetic, default float32")
    flags.add_argument("--threads", type=whole_number(1, 1024), metavar="N", help=f"default {defaults.threads}")
    flags.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, metavar="N", help="default 0")
    flags.add_argument(
        "--data-dir", type=nonempty_path, metavar="DIR", help="folder of the .gz files; no other is tried"
    )
    flags.add_argument("--output-dir", type=nonempty_path, default=saves, metavar="DIR", help="default saves/")
    flags.add_argument("--retrain", action="store_true", help="train even if a saved result can be reused")
    save_help = f"save there, by default in the output folder ({', '.join(suffixes)})"
    flags.add_argument("--save", type=path_with(suffixes), nargs="?", const=True, metavar="PATH", help=save_help)
    flags.add_argument("--smoke", action="store_true", help="a run of seconds on a slice of the data, saved apart")
    flags.add_argument("--debug", action="store_true", help="show tracebacks")
    return flags


def add_study_flags(flags, variants, seeds):
    """Add the flags of a script that compares variants over many runs. Args: `seeds`, how many by default"""
    names, count = list(variants), f"runs of each variant, from --seed on; default {seeds}"
    flags.add_argument("--seeds", type=whole_number(1, 1000), default=seeds, metavar="N", help=count)
    flags.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    flags.add_argument("--jobs", type=whole_number(1), metavar="N", help="runs at once; default one for each core")
    flags.add_argument("--cluster", type=scheduler_address, metavar="tcp://HOST:PORT", help="a Dask scheduler")
    flags.add_argument("--from-results", action="store_true", help="no runs: the published ones, in results/")


def parse(flags, argv):
    """Parse arguments and refuse those that do not go together."""
    options = flags.parse_args(argv)
    for name in [name for name, value in vars(options).items() if value == []]:  # some Pythons' reading of `--flag=--`
        flags.error(f"argument --{name.replace('_', '-')}: expected an argument")
    for other in ("resume", "model"):
        if options.retrain and getattr(options, other, None):
            flags.error(f"argument --retrain: not with --{other}")
    if getattr(options, "pixels", None) and not options.model:
        flags.error("argument --pixels: only with --model")
    if options.seed + getattr(options, "seeds", 1) > LARGEST_SEED + 1:
        flags.error(f"argument --seeds: {options.seeds} from {options.seed} on, but the largest is {LARGEST_SEED}")
    return options


def whole_number(lowest, highest=None):
    """Return a type for whole numbers from `lowest` to `highest`."""

    def whole_number(text):  # argparse names the type by the function's name
        number = int(text)
        if number < lowest or (highest is not None and number > highest):
            allowed = f"{lowest} to {highest}" if highest else f"{lowest} or more"
            raise argparse.ArgumentTypeError(f"{number} is not {allowed}")
        return number

    return whole_number


def positive_float(text):
    """Convert a finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return number


def scheduler_address(text):
    """Convert the address of a Dask scheduler."""
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like tcp://host:8786")
    return text


def nonempty_path(text):
    """Convert a path; an empty one is a mistake, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("empty path")
    return Path(text)


def path_with(suffixes):
    """Return a type for paths that end in one of the suffixes."""

    def path_with_suffix(text):
        if nonempty_path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return Path(text)

    return path_with_suffix
