"""What the scripts' command lines share: flags and what they mean, which model is used, how a training is printed."""

import argparse
import inspect
import logging
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

OLDEST_KERAS = (3, 10)
FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
SMOKE_IMAGES = {"train_images": 2_000, "test_images": 500}
REFUSED = {  # flag: those that it does not go with, by their names in the options
    "retrain": ("model",),
    "from_results": ("retrain", "jobs", "cluster", "smoke", "train_images"),
    "smoke": ("train_images",),
    "choose_rate": ("learning_rate",),
    "short": ("save", "cluster", "jobs", "from_results", "choose_rate"),
    "both": ("model",),
}

logger = logging.getLogger(__name__)


def _shared_parser(description, suffixes, without=()):
    """Return a parser with the flags that all scripts share.

    Args: the script's docstring; suffixes of what `--save` names; names of flags that would do nothing
    """
    layout, recipe = argparse.RawDescriptionHelpFormatter, Recipe()
    parser = argparse.ArgumentParser(description=description, formatter_class=layout, allow_abbrev=False)

    def add(name, **settings):
        if name not in without:
            parser.add_argument(name, **settings)

    add("--epochs", type=flags.whole_number(1), metavar="N", help=f"default {recipe.epochs}")
    add("--batch-size", type=flags.whole_number(1, 60_000), metavar="N", help=f"default {recipe.batch_size}")
    add("--learning-rate", type=flags.positive_float, metavar="X", help=f"default {recipe.learning_rate}")
    precision_help = "compute dtype, default float32; tf32 for GPUs only"
    add("--precision", choices=("float32", "tf32", "bfloat16"), help=precision_help)
    add("--threads", type=flags.whole_number(1, 1024), metavar="N", help=f"default {recipe.threads}")
    add("--seed", type=flags.whole_number(0, flags.LARGEST_SEED), default=0, metavar="N", help="default 0")
    data_help = "fashion-mnist, mnist, or a folder of four IDX files (docs/data.md); default fashion-mnist"
    add("--dataset", type=flags.nonempty_path, default=Path("fashion-mnist"), metavar="NAME|DIR", help=data_help)
    add("--data-dir", type=flags.nonempty_path, metavar="DIR", help="folder of the named data set; no other is tried")
    add("--train-images", type=flags.whole_number(10), metavar="N", help="train on the first N only; saved apart")
    add("--output-dir", type=flags.nonempty_path, default=published.SAVES, metavar="DIR", help="default saves/")
    add("--retrain", action="store_true", help="train even if a saved result can be reused")
    save_help = f"save there, by default in the output folder ({', '.join(suffixes)})"
    add("--save", type=flags.path_with(suffixes), nargs="?", const=True, metavar="PATH", help=save_help)
    add("--smoke", action="store_true", help="a run of seconds on a small part of the data, saved apart")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def figure_parser(description):
    """Return the parser of a script that draws what a model predicts. Args: the script's docstring"""
    parser = _shared_parser(description, FIGURE_SUFFIXES)
    parser.add_argument("--model", type=flags.nonempty_path, metavar="PATH", help="any compatible Keras model file")
    range_help = "pixel values that --model was trained on, such as 0 255 or -1 1; by default what suits it best"
    parser.add_argument("--pixel-range", type=flags.finite_float, nargs=2, metavar=("LOW", "HIGH"), help=range_help)
    return parser


def study_parser(description, variants, seeds, first_seed=0, without=()):
    """Return the parser of a script that compares variants over many runs.

    Args: the script's docstring; dict of Variant by name; how many seeds by default, and the first; names of flags that
        would do nothing
    """
    parser = _shared_parser(description, FIGURE_SUFFIXES, without)
    parser.set_defaults(seed=first_seed)
    names, count = list(variants), f"runs of each variant, from --seed on; default {seeds}"
    parser.add_argument("--seeds", type=flags.whole_number(1, 1000), default=seeds, metavar="N", help=count)
    names_help = ", ".join(names).replace("%", "%%")
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=names_help)
    jobs_help = "runs at once; default one for each core"
    parser.add_argument("--jobs", type=flags.whole_number(1), metavar="N", help=jobs_help)
    parser.add_argument("--cluster", type=flags.scheduler_address, metavar="tcp://HOST:PORT", help="a Dask scheduler")
    parser.add_argument("--from-results", action="store_true", help="no runs: the published ones, in results/")
    return parser


def parse(parser, argv):
    """Parse arguments and refuse those that do not go together; return options.

    What they mean is in `recipe`, in `dataset`, a DataSet, and in `output_dir`, where parts and other data are apart.

    Raises: LabError, as `find_data_set`, or Keras is too old.
    """
    options = parser.parse_args(argv)
    keras = provenance.library_versions().get("keras")
    if keras and tuple(map(int, keras.split(".")[:2])) < OLDEST_KERAS:
        raise LabError(f"Keras {keras} is too old, 3.10 is the oldest that works: pip install -r requirements.txt")
    given = {name: value for name, value in vars(options).items() if value not in (None, False)}
    for name, others in REFUSED.items():
        for other in others:
            if {name, other} <= given.keys():
                parser.error(f"argument --{name.replace('_', '-')}: not with --{other.replace('_', '-')}")
    if "pixel_range" in given and "model" not in given:
        parser.error("argument --pixel-range: only with --model")
    if options.seed + given.get("seeds", 1) > flags.LARGEST_SEED + 1:
        parser.error(f"argument --seeds: {options.seeds} from {options.seed} on; the largest is {flags.LARGEST_SEED}")

    recipe = Recipe(epochs=1) if options.smoke else Recipe()
    options.recipe = replace(recipe, **{each.name: given[each.name] for each in fields(Recipe) if each.name in given})
    vars(options).update(asdict(options.recipe))
    images = SMOKE_IMAGES if options.smoke else {"train_images": given.get("train_images")}
    options.dataset = find_data_set(str(options.dataset), options.data_dir, **images)
    apart = [options.dataset.name] if options.dataset.name != "fashion-mnist" else []
    apart += ["smoke"] if options.smoke else [f"first-{given['train_images']}"] if "train_images" in given else []
    options.output_dir = options.output_dir.joinpath(*apart)
    ensure_temporary_folder(options.output_dir)
    return options


def parse_arguments(train, argv):
    """Parse the arguments of a script that trains a model, and start TensorFlow with the threads that fix the bits.

    Args: the script's `train`, a function of the options, which have `dataset`, `seed`, `epochs`, `batch_size`,
        `learning_rate` and `checkpoint`; arguments
    """
    parser = _shared_parser(train.__globals__["__doc__"], (".keras",), without=("--retrain",))
    parser.add_argument("--resume", action="store_true", help="resume an interrupted training after its last epoch")
    options = parse(parser, argv)
    start_tensorflow(options.threads, options.precision)
    return _training_options(train, options, options.resume, options.save if isinstance(options.save, Path) else None)


def _training_options(train, options, resume, path=None):
    """Return the options of one script's training: as `parse_arguments`, where its model is saved, what decides it."""
    path = path or options.output_dir / f"{Path(inspect.getfile(train)).stem}.keras"
    require_writable(path)
    decided_by = _describe_training(train, options)
    provenance.require_unedited(train)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint.npz"), decided_by, resume)
    added = {"model_path": path, "provenance": decided_by, "checkpoint": checkpoint}
    return argparse.Namespace(**{**vars(options), **added})


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
    training = _training_options(train, options, resume=not options.retrain)
    if not options.retrain:
        try:
            found = load_saved(training.model_path, training.provenance)
        except LabError as reason:
            logger.info("training: %s", reason)
        else:
            logger.info("reused: %s", training.model_path)
            return found
    return train(training)


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
    if plan is None:
        plan = [runs.RunKey(name, seed, options.recipe) for seed in seeds(options) for name in options.variants]
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
    low, high = wilson_interval(round(record["test_accuracy"] * record["test_images"]), record["test_images"])
    print(f"parameters {record['parameters']:,}")
    print(f"time per epoch {record['seconds_per_epoch']:.2f} s (median of {record['epochs_done']})")
    train = f"(n = {record['train_images']:,}), loss {record['train_loss']:.4f}"
    print(f"training accuracy {record['train_accuracy']:.4f} {train}")
    interval = f"95% CI {low:.4f}-{high:.4f}, n = {record['test_images']:,}"
    print(f"test accuracy {record['test_accuracy']:.4f} ({interval}), loss {record['test_loss']:.4f}", flush=True)
    name = options.model_path.stem
    path = None if figures.has_display() else options.model_path.with_name(f"{name}_learning_curves.png")
    figures.save(figures.plot_learning_curves(record["history"], figures.shorten_name(name)), path)
    figures.show()
