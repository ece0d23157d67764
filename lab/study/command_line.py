"""What the scripts' command lines share: what their flags mean, which model they use, how a training is printed."""

import argparse
import functools
import inspect
import logging
import statistics
from dataclasses import asdict, fields, replace
from pathlib import Path

from lab.analysis import figures
from lab.analysis.statistics import wilson_interval
from lab.guard.errors import LabError
from lab.guard.files import ensure_temporary_folder, require_writable
from lab.guard.models import load_compatible_model
from lab.study import flags, provenance, published, runs
from lab.study.data_sets import find_data_set
from lab.study.records import Checkpoint, load_saved
from lab.training.data import data_digest, load_test_data
from lab.training.recipe import Recipe
from lab.training.startup import start_tensorflow

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
SMOKE_IMAGES = {"train_images": 2_000, "test_images": 500}

logger = logging.getLogger(__name__)


def figure_parser(description):
    """Return the parser of a script that draws what a model predicts. Args: the script's docstring"""
    parser = flags.make_parser(description, published.SAVES, FIGURE_SUFFIXES)
    parser.add_argument("--model", type=flags.nonempty_path, metavar="PATH", help="any compatible Keras model file")
    range_help = "pixel values that --model was trained on, such as 0 255 or -1 1; by default what suits it best"
    parser.add_argument("--pixel-range", type=flags.finite_float, nargs=2, metavar=("LOW", "HIGH"), help=range_help)
    return parser


def study_parser(description, variants, seeds, first_seed=0, without=()):
    """Return the parser of a script that compares variants over many runs.

    Args: the script's docstring; dict of Variant by name; how many seeds by default, and the first; names of flags that
        would do nothing
    """
    parser = flags.make_parser(description, published.SAVES, FIGURE_SUFFIXES, without)
    flags.add_study_flags(parser, variants, seeds, first_seed)
    return parser


def parse(parser, argv):
    """Parse arguments; what they mean is in `recipe`, `dataset` and `output_dir`, with parts and other data apart."""
    options = flags.parse_flags(parser, argv)
    given = {each.name: getattr(options, each.name, None) for each in fields(Recipe)}
    options.recipe = replace(
        Recipe(epochs=1) if options.smoke else Recipe(),
        **{name: value for name, value in given.items() if value is not None},
    )
    vars(options).update(asdict(options.recipe))
    train_images = getattr(options, "train_images", None)
    images = SMOKE_IMAGES if options.smoke else {"train_images": train_images}
    options.dataset = find_data_set(str(options.dataset), options.data_dir, **images)
    apart = [options.dataset.name] if options.dataset.name != "fashion-mnist" else []
    apart += ["smoke"] if options.smoke else [f"first-{train_images}"] if train_images else []
    options.output_dir = options.output_dir.joinpath(*apart)
    ensure_temporary_folder(options.output_dir)
    return options


def parse_arguments(train, argv):
    """Parse the arguments of a script that trains a model, and start TensorFlow with the threads that fix the bits.

    Args: the script's `train`, a function of the options, which have `dataset`, `seed`, `epochs`, `batch_size`,
        `learning_rate` and `checkpoint`; arguments
    """
    parser = flags.make_parser(train.__globals__["__doc__"], published.SAVES, (".keras",), without=("--retrain",))
    parser.add_argument("--resume", action="store_true", help="resume an interrupted training after its last epoch")
    options = parse(parser, argv)
    start_tensorflow(options.threads, options.precision)
    path = options.save if isinstance(options.save, Path) else None
    return _settled(train, _options_for(train, options, path, options.resume))


def _options_for(train, options, path=None, resume=True):
    """Return the options of one script's training: as `parse_arguments`, and where its model is saved."""
    path = path or options.output_dir / f"{Path(inspect.getfile(train)).stem}.keras"
    require_writable(path)
    decided_by = functools.cache(lambda: _describe_training(train, options))
    checkpoint = Checkpoint(path.with_suffix(".checkpoint.npz"), decided_by, resume)
    added = {"model_path": path, "provenance": decided_by, "checkpoint": checkpoint}
    return argparse.Namespace(**{**vars(options), **added})


def _settled(train, training):
    """Return the options of a training that begins, what decides it described: its script may be edited meanwhile."""
    training.provenance()
    provenance.require_unedited(train)
    return training


def _describe_training(train, options):
    """Return what decides the model that a script trains, a dict of JSON types; the script counts as a whole."""
    files = provenance.own_files([train])
    return {
        **asdict(options.recipe),
        "seed": options.seed,
        "data_set": options.dataset.name,
        "data_sha256": data_digest(options.dataset),
        "images_used": [options.dataset.train_images, options.dataset.test_images],
        "training_code": provenance.training_code(),
        "script": provenance.code_digest(files),
        **provenance.library_versions(),
        "packages": provenance.package_versions(files),
    }


def load_or_train(train, options):
    """Return the model and the record of a script's training, reused if nothing that decides them has changed.

    Args: the script's `train`, for example `deep_learning.train`; options, as from `parse`
    """
    start_tensorflow(options.threads, options.precision)
    training = _options_for(train, options, resume=not options.retrain)
    if not options.retrain:
        try:
            found = load_saved(training.model_path, training.provenance())
        except LabError as reason:
            logger.info("training: %s", reason)
        else:
            logger.info("reused: %s", training.model_path)
            return found
    return train(_settled(train, training))


def given_or_trained_model(train, options):
    """Return the model that `--model` gives, or else that of a script, loaded or trained. Args: as `load_or_train`"""
    if not options.model:
        return load_or_train(train, options)[0]
    start_tensorflow(options.threads, options.precision)
    return load_compatible_model(options.model, *load_test_data(options.dataset).first(500), options.pixel_range)


def study_runs(script, options, plan=None):
    """Return the runs that a study's flags ask for, done if they are missing; as `lab.study.runs.run_study`.

    Args: the script's `__file__`; options, as from `parse`; RunKeys, by default each of the options' variants with
        each of their seeds
    """
    plan = plan or [runs.RunKey(name, seed, options.recipe) for seed in seeds(options) for name in options.variants]
    if options.from_results:
        return runs.published_runs(script, plan, options.dataset)
    folder = options.output_dir / Path(script).stem
    return runs.run_study(script, plan, folder, options.dataset, options.jobs, options.cluster, options.retrain)


def seeds(options):
    """Return the seeds that `--seed` and `--seeds` ask for."""
    return range(options.seed, options.seed + options.seeds)


def print_record(record, options):
    """Print what the record of a training says, the test accuracy last; draw its learning curves.

    Args: what `save` returned; options, as from `parse_arguments`
    """
    history = record["history"]
    low, high = wilson_interval(round(record["test_accuracy"] * record["test_images"]), record["test_images"])
    print(f"parameters {record['parameters']:,}")
    print(f"time per epoch {statistics.median(history['seconds']):.2f} s (median of {len(history['seconds'])})")
    train = f"(n = {record['train_images']:,}), loss {record['train_loss']:.4f}"
    print(f"training accuracy {record['train_accuracy']:.4f} {train}")
    interval = f"95% CI {low:.4f}-{high:.4f}, n = {record['test_images']:,}"
    print(f"test accuracy {record['test_accuracy']:.4f} ({interval}), loss {record['test_loss']:.4f}", flush=True)
    name = options.model_path.stem
    path = None if figures.has_display() else options.model_path.with_name(f"{name}_learning_curves.png")
    figures.save(figures.plot_learning_curves(history, name), path)
    figures.show()
