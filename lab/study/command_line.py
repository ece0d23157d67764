"""What the scripts' command lines share: parsers, what their flags mean, and how a training's results are printed."""

import logging
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path

from lab import study
from lab.data import file_digests, load_test_data
from lab.plumbing import arguments
from lab.plumbing.arguments import nonempty_path, whole_number  # noqa: F401 - for the scripts
from lab.plumbing.errors import run_main  # noqa: F401 - for the scripts
from lab.plumbing.files import ensure_temporary_folder
from lab.plumbing.photographs import read_photograph  # noqa: F401 - for the scripts
from lab.plumbing.provenance import describe_training
from lab.plumbing.results import Training
from lab.plumbing.untrusted_models import load_compatible_model
from lab.recipe import POLICIES, SMOKE, Recipe, initialize_model, predict
from lab.statistics import wilson_interval

SAVES = Path(__file__).resolve().parent.parent / "saves"
RESULTS = SAVES.parent / "results"

logger = logging.getLogger(__name__)


def figure_parser(description):
    """Return the parser of a script that draws what a model predicts. Args: the script's docstring"""
    flags = arguments.parser(description, Recipe(), POLICIES, SAVES)
    flags.add_argument("--model", type=nonempty_path, metavar="PATH", help="any compatible Keras model file")
    pixels_help = "largest pixel value that --model was trained on; default 1, or 255 if one of its layers rescales"
    flags.add_argument("--pixels", type=int, choices=(1, 255), help=pixels_help)
    return flags


def study_parser(description, variants, seeds):
    """Return the parser of a script that compares variants over many runs. Args: `seeds`, how many by default"""
    flags = arguments.parser(description, Recipe(), POLICIES, SAVES)
    arguments.add_study_flags(flags, variants, seeds)
    return flags


def parse(flags, argv):
    """Parse arguments and add what they mean: `recipe`, and `output_dir` with smoke runs apart."""
    options = arguments.parse(flags, argv)
    given = {name: getattr(options, name) for name in asdict(Recipe()) if getattr(options, name, None) is not None}
    options.recipe = replace(SMOKE if options.smoke else Recipe(), **given)
    if options.smoke:
        options.output_dir /= "smoke"
    ensure_temporary_folder(options.output_dir)
    return options


def run_training(script, argv):
    """Train a script's model as its command line says, and print its record. Args: name of the module; arguments"""
    script = sys.modules[script]
    flags = arguments.parser(script.__doc__, Recipe(), POLICIES, SAVES, suffixes=(".keras",))
    flags.add_argument("--resume", action="store_true", help="resume an interrupted training after its last epoch")
    options = parse(flags, argv)
    path = options.save if isinstance(options.save, Path) else options.output_dir / script.SAVED_AS
    training = _training(script, path, options)
    _, record = training.load_or_start() if options.resume else training.start()
    print_record(record)


def load_or_train(script, options):
    """Return the model and the record of a script's training, reused if nothing that decides them has changed.

    Args: module with `build_model`, `train` and `SAVED_AS`, for example `deep_learning`; options, as from `parse`
    """
    training = _training(script, options.output_dir / script.SAVED_AS, options)
    return training.start() if options.retrain else training.load_or_start()


def _training(script, path, options):
    def describe():
        functions = initialize_model, script.build_model, script.train
        return describe_training(*functions, options.recipe, options.seed, file_digests())

    return Training(script.train, path, options.recipe, options.seed, options.data_dir, describe)


def given_or_trained_model(script, options):
    """Return the model that `--model` gives, or else the script's, loaded or trained. Args: as `load_or_train`"""
    if not options.model:
        return load_or_train(script, options)[0]
    model = load_compatible_model(options.model, options.pixels)
    if not getattr(options, "image", None):
        images, labels = load_test_data(options.data_dir).first(500)
        accuracy = (predict(model, images).argmax(axis=1) == labels).mean()
        if accuracy < 0.5:
            advice = "was it trained on other pixel values? Try --pixels 255 or --pixels 1"
            found = f"correct for {accuracy:.0%} of 500 test images, chance is 10%"
            logger.warning("warning: %s is %s; %s", options.model, found, advice)
    return model


def study_runs(script, options, plan=None, retrain=None):
    """Return the runs that a study's flags ask for, done if they are missing; as `lab.study.run_study`.

    Args: name of the script's module; options, as from `parse`; RunKeys, by default each of the options' variants with
        each of their seeds; `retrain` instead of the options'
    """
    plan = plan or [study.RunKey(name, seed, options.recipe) for seed in seeds(options) for name in options.variants]
    folder = script.rpartition(".")[2]
    if options.from_results:
        return study.published_runs(script, plan, RESULTS / folder)
    retrain = options.retrain if retrain is None else retrain
    where = options.data_dir, options.jobs, options.cluster
    return study.run_study(script, plan, options.output_dir / folder, *where, retrain)


def seeds(options):
    """Return the seeds that `--seed` and `--seeds` ask for."""
    return range(options.seed, options.seed + options.seeds)


def print_record(record):
    """Print what the record of a training says, the test accuracy last."""
    seconds = record["history"]["seconds"]
    test, train = record["test"], record["train"]
    low, high = wilson_interval(round(test["accuracy"] * test["n"]), test["n"])
    print(f"parameters {record['parameters']:,}")
    print(f"time per epoch {statistics.median(seconds):.2f} s (median of {len(seconds)})")
    print(f"training accuracy {train['accuracy']:.4f} (n = {train['n']:,}), loss {train['loss']:.4f}")
    interval = f"95% CI {low:.4f}-{high:.4f}, n = {test['n']:,}"
    print(f"test accuracy {test['accuracy']:.4f} ({interval}), loss {test['loss']:.4f}")
