"""The flags that the scripts' command lines share, and how argparse converts their texts."""

import argparse
import math
import re
from pathlib import Path

from lab.training.recipe import Recipe

LARGEST_SEED = 2**32 - 1
PRECISIONS = ("float32", "tf32", "bfloat16")


def make_parser(description, saves, suffixes, without=()):
    """Return a parser with the flags that all scripts share.

    Args: the script's docstring; default output folder; suffixes of what `--save` names; flags that would do nothing
    """
    layout, recipe = argparse.RawDescriptionHelpFormatter, Recipe()
    flags = argparse.ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False)

    def add(name, **settings):
        if name not in without:
            flags.add_argument(name, **settings)

    add("--epochs", type=whole_number(1), metavar="N", help=f"default {recipe.epochs}")
    add("--batch-size", type=whole_number(1, 60_000), metavar="N", help=f"default {recipe.batch_size}")
    add("--learning-rate", type=positive_float, metavar="X", help=f"default {recipe.learning_rate}")
    add("--precision", choices=PRECISIONS, help="compute dtype, default float32; tf32 for GPUs only")
    add("--threads", type=whole_number(1, 1024), metavar="N", help=f"default {recipe.threads}")
    add("--seed", type=whole_number(0, LARGEST_SEED), default=0, metavar="N", help="default 0")
    data_help = "fashion-mnist, mnist, or a folder of four IDX files (docs/data.md); default fashion-mnist"
    add("--dataset", type=nonempty_path, default=Path("fashion-mnist"), metavar="NAME|DIR", help=data_help)
    add("--data-dir", type=nonempty_path, metavar="DIR", help="folder of the named data set; no other is tried")
    add("--train-images", type=whole_number(10), metavar="N", help="train on the first N only; saved apart")
    add("--output-dir", type=nonempty_path, default=saves, metavar="DIR", help="default saves/")
    add("--retrain", action="store_true", help="train even if a saved result can be reused")
    save_help = f"save there, by default in the output folder ({', '.join(suffixes)})"
    add("--save", type=path_with(suffixes), nargs="?", const=True, metavar="PATH", help=save_help)
    add("--smoke", action="store_true", help="a run of seconds on a small part of the data, saved apart")
    add("--debug", action="store_true", help="show tracebacks")
    return flags


def add_study_flags(flags, variants, seeds, first_seed):
    """Add the flags of a script that compares variants over many runs. Args: `seeds`, how many by default"""
    names, count = list(variants), f"runs of each variant, from --seed on; default {seeds}"
    flags.set_defaults(seed=first_seed)
    flags.add_argument("--seeds", type=whole_number(1, 1000), default=seeds, metavar="N", help=count)
    flags.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    flags.add_argument("--jobs", type=whole_number(1), metavar="N", help="runs at once; default one for each core")
    flags.add_argument("--cluster", type=scheduler_address, metavar="tcp://HOST:PORT", help="a Dask scheduler")
    flags.add_argument("--from-results", action="store_true", help="no runs: the published ones, in results/")


def parse_flags(flags, argv):
    """Parse arguments and refuse those that do not go together."""
    options = flags.parse_args(argv)
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    for name in [name for name, value in vars(options).items() if value == []]:  # some Pythons' reading of `--flag=--`
        flags.error(f"argument --{name.replace('_', '-')}: expected an argument")
    refused = {"retrain": ("resume", "model"), "from_results": ("retrain", "jobs", "cluster", "smoke", "train_images")}
    refused["smoke"] = ("train_images",)
    for name, others in refused.items():
        for other in given.intersection(others) if name in given else ():
            flags.error(f"argument --{name.replace('_', '-')}: not with --{other.replace('_', '-')}")
    if "pixel_range" in given and "model" not in given:
        flags.error("argument --pixel-range: only with --model")
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


def finite_float(text):
    """Convert a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def scheduler_address(text):
    """Convert the address of a Dask scheduler."""
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like tcp://host:8786")
    return text


def nonempty_path(text):
    """Convert a path, `~` expanded; an empty one is a mistake, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("empty path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no such user, or no home
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def path_with(suffixes):
    """Return a type for paths that end in one of the suffixes."""

    def path_with_suffix(text):
        path = nonempty_path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return path

    return path_with_suffix
