"""Experiment 8: does the gain survive when every model is tuned with the same budget?

A shared recipe may favour one of the models. Therefore each gets five random searches of five trials, each with its own
validation set. A search's best settings are retrained on all training images with two new seeds and evaluated on the
test images once (Bouthillier et al. 2021, arXiv 2103.03098). Dense, which trains faster, also gets 25 longer trials.

python equal_tuning.py
python equal_tuning.py --from-results    # the published runs: tables, sentence and figure in seconds
"""

from dataclasses import replace

import numpy as np

import convolution_gain
from lab import cli, compare, figures
from lab.data import load_test_data
from lab.statistics import crossed_estimate, expected_maximum, probability_of_superiority
from lab.study import RunKey, collect_predicted

SEARCH_SEEDS = 100  # of the first search; those of the trainings that follow start from 0, as in experiment 5
DRAWN = ("learning_rate", "dropout", "weight_decay", "epochs")
GAIN, CHANGE = "tuned: conv - dense", "tuned - untuned: conv - dense"
COMPARED = {
    GAIN: ("conv", "dense"),
    "tuned: conv - fully connected": ("conv", "fully-connected"),
    "tuned: conv - (dense, longer search)": ("conv", "dense-longer"),
}
REPEATS = 2  # trainings with a winner's settings


def validate_on_training_images(train_split, test_split, seed):
    """Return five sixths of the training images to train on, and the others in place of the test images."""
    return train_split.hold_out(1 / 6, seed)


NAMES = ("dense", "conv", "fully-connected")
MODELS = {name: replace(convolution_gain.VARIANTS[name], collect=collect_predicted) for name in NAMES}
MODELS["dense-longer"] = replace(MODELS["dense"], label="dense, longer search")
SEARCHES = {
    f"{name}-search": replace(model, select=validate_on_training_images, collect=lambda *_: {})  # accuracies suffice
    for name, model in MODELS.items()
}
VARIANTS = MODELS | SEARCHES
# number of trials in a search, and the numbers of epochs to choose from
BUDGETS = dict.fromkeys(MODELS, (5, (3, 6, 12))) | {"dense-longer": (25, (3, 6, 12, 30, 60))}


def draw_recipe(recipe, search, trial, epochs):
    """Return the recipe of a search's trial: the same for all models, but for the epochs to choose from."""
    rng = np.random.default_rng([search, trial])
    return replace(
        recipe,
        learning_rate=float(f"{np.exp(rng.uniform(np.log(1e-4), np.log(3e-3))):.3g}"),
        dropout=float(rng.choice([0, 0.2, 0.5])),
        weight_decay=float(rng.choice([0, 1e-4, 1e-2])),
        cosine_decay=True,
        epochs=int(rng.choice(epochs)),
    )


def plan_searches(options):
    """Return the RunKeys of all trials."""
    return [
        RunKey(f"{model}-search", SEARCH_SEEDS + search, draw_recipe(options.recipe, search, trial, epochs))
        for search in cli.seeds(options)
        for model in options.variants
        for trials, epochs in [(2, (1,)) if options.smoke else BUDGETS[model]]
        for trial in range(trials)
    ]


def group_trials(trials):
    """Return the trials by (model, search): dict of lists of (validation accuracy in percent, seconds, recipe)."""
    groups = {}
    for key, run in trials.items():
        group = groups.setdefault((key.variant.removesuffix("-search"), key.seed - SEARCH_SEEDS), [])
        group.append((100 * run.record["test"]["accuracy"], sum(run.record["history"]["seconds"]), key.recipe))
    return groups


def find_winners(trials):
    """Return the trial with the highest validation accuracy of each search, by (model, search)."""
    return {cell: max(group, key=lambda trial: trial[0]) for cell, group in group_trials(trials).items()}


def plan_trainings(winners):
    """Return the RunKeys of the trainings with the winners' recipes on all training images."""
    return [
        RunKey(model, REPEATS * search + repeat, recipe)
        for (model, search), (_, _, recipe) in winners.items()
        for repeat in range(REPEATS)
    ]


def average_trainings(values):
    """Return means over the trainings of each search. Args: (trainings, ...), in the order of the plan"""
    return np.reshape(values, (-1, REPEATS, *np.shape(values)[1:])).mean(axis=1)


def difference(runs, pair, test_labels):
    """Return by how many points two models differ on each image, averaged over trainings: float (searches, images)."""
    return np.subtract(*(100 * average_trainings(compare.is_correct(runs, name, test_labels)) for name in pair))


def compare_models(tuned, untuned, test_labels):
    """Return how the tuned models compare, and how tuning changes the gain: dict of Estimate by name."""
    present = set(compare.variant_names(tuned))
    pairs = {name: pair for name, pair in COMPARED.items() if set(pair) <= present}
    found = {name: crossed_estimate(difference(tuned, pair, test_labels)) for name, pair in pairs.items()}
    if GAIN in found:
        change = difference(tuned, COMPARED[GAIN], test_labels) - difference(untuned, COMPARED[GAIN], test_labels)
        found[CHANGE] = crossed_estimate(change)
    return found


def best_after(trials, model):
    """Return the expected best accuracy after 1, 2, ... trials, (searches, trials), and a trial's mean seconds."""
    groups = [group for (name, _), group in group_trials(trials).items() if name == model]
    best = [[expected_maximum([each[0] for each in group], k + 1) for k in range(len(group))] for group in groups]
    return np.array(best), np.mean([each[1] for group in groups for each in group])


def report(trials, tuned, untuned, found):
    """Return the tables and the conclusion, in Markdown."""
    winners, models, rows = find_winners(trials), compare.variant_names(tuned), []
    for model in models:
        best, seconds = best_after(trials, model)
        spent = f"{best.shape[1]} trials, {best.shape[1] * seconds:.0f} s"
        pairs = (untuned, model.removesuffix("-longer")), (tuned, model)
        accuracies = [average_trainings(compare.accuracies(runs, name, "test")) for runs, name in pairs]
        rows.append([MODELS[model].label, spent, *map(compare.format_mean, (best[:, -1], *accuracies))])
    header = ["each search", "best validation accuracy, %", "test accuracy untuned, %", "tuned, %"]
    parts = [compare.markdown_table([f"{len(winners) // len(models)} searches", *header], rows)]
    if found:
        parts.append(compare.estimate_table("comparison", found, {name: [each] for name, each in found.items()}))
    rows = [
        [f"{MODELS[model].label}, {search}", *(f"{getattr(recipe, name):g}" for name in DRAWN), f"{accuracy:.2f}"]
        for (model, search), (accuracy, _, recipe) in winners.items()
    ]
    parts.append(compare.markdown_table(["winner of search", *DRAWN, "validation accuracy, %"], rows))
    return "\n\n".join(parts + ([conclusion(tuned, found)] if GAIN in found else []))


def conclusion(tuned, found):
    """Return the conclusion in one sentence; docs/plan.md says what "survives" and "undiminished" mean."""
    gain, change = found[GAIN], found[CHANGE]
    undiminished = ", undiminished" if -0.5 <= change.low <= change.high <= 0.5 else ""
    survives = f"survives{undiminished}" if gain.low > 0 else "does not survive"
    pairs = [compare.accuracies(tuned, name, "test") for name in ("conv", "dense")]
    return (
        f"After tuning with the same number of trials, the gain of conv over dense is {compare.format_signed_ci(gain)} "
        f"points; the change from the untuned gain is {compare.format_signed_ci(change)}: the gain {survives} "
        f"(conv is better in {probability_of_superiority(*pairs):.0%} of all pairs of trainings; "
        f"{len(pairs[0]) // REPEATS} searches; {compare.NOT_ADJUSTED})."
    )


def plot(trials, models):
    """Draw the expected best validation accuracy against the trials and the seconds of a search. Returns: Figure"""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for model in models:
        best, seconds = best_after(trials, model)
        counts = np.arange(1, best.shape[1] + 1)
        for ax, x in zip(axes, (counts, seconds * counts), strict=True):
            figures.plot_curve(ax, x, best, MODELS[model].label, convolution_gain.STYLES[model])
    axes[0].set(xscale="log", xticks=(ticks := (1, 2, 5, 10, 25)), xticklabels=ticks, xlabel="trials of a search")
    axes[0].set_ylabel("expected best validation accuracy, %:\nmean and 95% interval over searches")
    axes[1].set(xscale="log", xticks=(ticks := (10, 100, 1000)), xticklabels=ticks, xlabel="seconds of a search")
    axes[1].legend(loc="lower right", frameon=False)
    return figure


def main(argv=None):
    """Run missing trials and trainings; print tables and conclusion, draw the figure."""
    flags = cli.study_parser(__doc__, MODELS, seeds=5)
    options = cli.parse(flags, argv)
    if options.epochs or options.learning_rate:
        flags.error(f"argument {'--epochs' if options.epochs else '--learning-rate'}: the searches choose it")
    if options.seed + options.seeds > (limit := SEARCH_SEEDS // REPEATS):
        flags.error(f"argument {'--seeds' if options.seeds > limit else '--seed'}: searches 0 to {limit - 1} only")
    path = figures.path_to_save(options, "equal_tuning.png")
    trials = cli.study_runs("equal_tuning", options, plan_searches(options))
    plan = plan_trainings(find_winners(trials))
    tuned = cli.study_runs("equal_tuning", options, plan)
    same = dict.fromkeys(RunKey(key.variant.removesuffix("-longer"), key.seed, options.recipe) for key in plan)
    untuned = cli.study_runs("convolution_gain", options, same, retrain=False)
    if len(tuned) < len(plan) or len(untuned) < len(same):
        flags.error("argument --from-results: trainings are missing; without it, they are done")
    test_labels = load_test_data(options.data_dir).first(options.recipe.test_images).labels
    found = compare_models(tuned, untuned, test_labels)
    figures.save(plot(trials, options.variants), path)
    print(report(trials, tuned, untuned, found))
    figures.show()


if __name__ == "__main__":
    cli.run_main(main)
