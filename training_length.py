"""Experiment 6: the fair gain, each model trained as long and as fast as suits it.

Five epochs need not suit all models alike. Here the learning rate and the number of epochs, with cosine decay, are
chosen for each model by its accuracy on held-out training images (docs/plan.md). Then the chosen settings and the
original recipe are trained on all images, five seeds each, and the test images are read.

python training_length.py
python training_length.py --from-results    # the published runs: tables, sentence and figure in seconds
"""

import logging
from dataclasses import replace

import numpy as np

import convolution_gain
import sample_efficiency
from lab.analysis import compare, figures
from lab.guard.errors import LabError, run_main
from lab.study import choice, command_line
from lab.study.runs import RunKey, published_runs

MODELS = {name: convolution_gain.MODELS[name] for name in ("dense", "fully-connected", "conv-shuffled", "conv")}
VARIANTS = {**MODELS, "local": convolution_gain.MODELS["local"], **choice.held_out(MODELS)}
RATES, LENGTHS = (0.0003, 0.001, 0.003), (2, 5, 15)  # learning rates; epochs, each tried at all rates
SMOKE_RATES, SMOKE_LENGTHS = (0.001,), (1,)
LONGER, LONGEST = 3, {"dense": 9}  # times the last length, tried at the best rate of that
SPLITS = 2
FIVE_EPOCHS = "{}, original recipe"
FAIR, FAIR_MINUS_FIVE = "fair gain: conv - dense", "fair gain minus that of the original recipe"
FIVE = {FIVE_EPOCHS.format(name): sign for name, sign in (("conv", 1), ("dense", -1))}
COMPARISONS = {
    FAIR: {"conv": 1, "dense": -1},
    **convolution_gain.FAMILIES["chain"],
    "conv - fully connected": {"conv": 1, "fully-connected": -1},
    "sharing: conv - local, with the settings of conv": {"conv": 1, "local": -1},
    FAIR_MINUS_FIVE: {"conv": 1, "dense": -1, **{name: -sign for name, sign in FIVE.items()}},
}
GAIN_OF_FIVE = "gain of the original recipe: conv - dense"

logger = logging.getLogger(__name__)


def choose(options):
    """Return the accuracies on held-out images in percent by (model, recipe), and each model's chosen Recipe.

    With --from-results, a model is left out if not all that is tried for it is published.

    Raises: LabError, as `lab.study.command_line.study_runs`.
    """
    rates, lengths = (SMOKE_RATES, SMOKE_LENGTHS) if options.smoke else (RATES, LENGTHS)
    names, seeds, found = list(options.variants), command_line.seeds(options)[:SPLITS], {}

    def try_out(candidates):
        # published ones are asked for with those before, because there may be none of these alone
        asked = [*found, *candidates] if options.from_results else candidates
        found.update(choice.held_out_accuracies(__file__, options, asked, seeds))
        for name in dict.fromkeys(name for name, recipe in candidates if (name, recipe) not in found):
            logger.warning("left out: %s, of which not all that is tried is published", name)
            names.remove(name)

    def best_of(name, epochs=None):
        return choice.best_recipe({key: each for key, each in found.items() if epochs in (None, key[1].epochs)}, name)

    candidates = [
        (name, replace(options.recipe, learning_rate=rate, epochs=epochs, cosine_decay=True))
        for epochs in reversed(lengths)  # the longest run first: that keeps all cores busy to the end
        for rate in rates
        for name in names
    ]
    try_out(candidates)
    longer = []
    for name in names:
        best = best_of(name, lengths[-1])
        longer += [(name, replace(best, epochs=n * lengths[-1])) for n in (LONGER, LONGEST.get(name)) if n]
    try_out(longer)
    # where the longest wins, one three times as long is tried
    best = {name: best_of(name) for name in names}
    unsettled = [(name, recipe) for name, recipe in best.items() if recipe.epochs == max(best_by_length(found, name))]
    if unsettled:
        try_out([(name, replace(recipe, epochs=3 * recipe.epochs)) for name, recipe in unsettled])
    return found, {name: best_of(name) for name in names}


def best_by_length(found, name):
    """Return a model's accuracy on held-out images in percent at the best rate tried, by number of epochs, rising."""
    lengths = sorted({recipe.epochs for model, recipe in found if model == name})
    return {n: max(np.mean(v) for (model, r), v in found.items() if (model, r.epochs) == (name, n)) for n in lengths}


def final_runs(options, chosen):
    """Return the runs on all training images with the chosen settings and with the original recipe, by RunKey.

    Those with the original recipe have variants of names of their own, so that both can be compared.
    """
    settings = {**chosen, **({"local": chosen["conv"]} if "conv" in chosen else {})}
    seeds = command_line.seeds(options)
    plan = {RunKey(name, seed, recipe): name for name, recipe in settings.items() for seed in seeds}
    plan |= {RunKey(name, seed, options.recipe): FIVE_EPOCHS.format(name) for name in chosen for seed in seeds}
    in_order = sorted(plan, key=lambda key: (key.variant == "local", -key.recipe.epochs))  # local is not in the gain
    runs = command_line.study_runs(__file__, options, in_order)
    return {key._replace(variant=name): runs[key] for key, name in plan.items() if key in runs}


def report(found, chosen, runs, estimates):
    """Return the tables and the conclusion, in Markdown.

    Args: what `choose` returns; what `final_runs` returns; what `compare.estimates` returns
    """
    rows = [
        [MODELS[name].label, f"{recipe.learning_rate:g}", f"{recipe.epochs}", f"{np.mean(found[name, recipe]):.2f}"]
        + [("chosen, the longest tried" if longest else "chosen") if recipe == chosen[name] else ""]
        for model in chosen
        for name, recipe in sorted(found, key=lambda each: (each[1].epochs, each[1].learning_rate))
        if name == model
        for longest in [recipe.epochs == max(best_by_length(found, name))]
    ]
    header = ["model", "learning rate, falling to 0", "epochs", "accuracy on held-out images, %", ""]
    parts = [compare.markdown_table(header, rows)]
    if chosen.keys() >= {"dense", "conv"}:
        conv, dense = (best_by_length(found, name) for name in ("conv", "dense"))
        rows = [[f"{n}", f"{dense[n]:.2f}", f"{conv[n]:.2f}", f"{conv[n] - dense[n]:+.2f}"] for n in dense if n in conv]
        parts.append(compare.markdown_table(["epochs, both at the best rate tried", "dense", "conv", "points"], rows))

    def describe(name, record):
        decay = ", falling to 0" if record["cosine_decay"] else ""
        return VARIANTS[record["variant"]].label, f"{record['epochs']} epochs, {record['learning_rate']:g}{decay}"

    parts.append(compare.accuracy_table(runs, ["model, on all training images", "setting"], describe))
    if COMPARISONS.keys() & estimates:
        parts.append(compare.estimate_table("at the chosen settings", COMPARISONS, estimates))
    if FAIR in estimates:
        parts.append(compare.estimate_table("for comparison", [GAIN_OF_FIVE], estimates))
        parts.append(conclusion(runs, chosen, estimates))
    return "\n\n".join(parts)


def conclusion(runs, chosen, estimates):
    """Return the conclusion in one sentence."""
    fair, five, gap = (compare.format_signed_ci(estimates[name][0]) for name in (FAIR, GAIN_OF_FIVE, FAIR_MINUS_FIVE))
    lengths = " and ".join(f"{name} for {chosen[name].epochs} epochs" for name in ("dense", "conv"))
    return (
        f"Each model trained as suits it ({lengths}), one 3 x 3 convolution buys {fair} points on the test set; with "
        f"the original recipe it is {five}, a difference of {gap} ({compare.format_seeds(runs)})."
    )


def early_stopping_gain(options):
    """Return the Estimate of conv - dense of experiment 8, with early stopping; None if it is not published."""
    names = {f"{name}-60000": sign for name, sign in (("conv", 1), ("dense", -1))}
    plan = [RunKey(name, seed, options.recipe) for name in names for seed in range(5)]
    try:
        runs = published_runs(sample_efficiency.__file__, plan, options.dataset)
    except LabError:
        return None
    return compare.estimates(runs, {"gain": names})["gain"][0]


def gains_to_draw(estimates, options):
    """Return the Estimates of conv - dense to be drawn, by text, the answer and its parts first."""
    if FAIR not in estimates:
        return {}
    stopped = None if options.dataset.train_images else early_stopping_gain(options)  # that of all images
    parts = {name.partition(":")[0]: name for name in convolution_gain.FAMILIES["chain"] if name in estimates}
    return {
        "as long as suits\neach model": estimates[FAIR][0],
        **{f"of it: {part}".replace(", ", ",\n"): estimates[name][0] for part, name in parts.items()},
        **({"early stopping\n(experiment 8)": stopped} if stopped else {}),
        "original recipe,\nfive epochs": estimates[GAIN_OF_FIVE][0],
    }


def draw(figure, found, chosen, runs, gains):
    """Draw accuracy against training length, and beside it gains, dict of Estimate by text, on an empty Figure."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    plot_lengths(left, found, chosen)
    plot_gains(right, gains)
    right.set_xlabel(f"conv - dense and its parts, points on the test set\n[95% CI, {compare.seed_count(runs)}]")


def plot_lengths(ax, found, chosen):
    """Draw the accuracy on held-out images against the training length. Args: Axes; what `choose` returns"""
    for name, recipe in chosen.items():
        best = best_by_length(found, name)
        ax.plot(best.keys(), best.values(), figures.STYLES[name], markersize=5, label=MODELS[name].label)
        ax.plot(recipe.epochs, best[recipe.epochs], "o", color="none", markeredgecolor="black", markersize=12)
    ticks = sorted({recipe.epochs for _, recipe in found})
    ax.set(xscale="log", xlabel="epochs, at the best learning rate tried (circle: chosen)")
    ax.set_ylabel(f"held-out accuracy, %: mean of {len(next(iter(found.values())))} splits")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    lengths = [f"{name} {recipe.epochs}" for name, recipe in chosen.items() if name in ("dense", "conv")]
    ax.set_title(f"Epochs chosen on held-out images: {', '.join(lengths)}")
    ax.legend(loc="lower right", frameon=False)


def plot_gains(ax, gains):
    """Draw gains, one above the other, the answer in black. Args: Axes; dict of Estimate by text, the answer first"""
    for row, (mean, low, high, _) in enumerate(gains.values()):
        color = "0.6" if row else "black"
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="s", color=color, capsize=4)
        ax.annotate(f"{mean:+.2f}", (mean, row), (0, 8), textcoords="offset points", ha="center")
    ax.set_yticks(range(len(gains)), list(gains))
    ax.set_ylim(len(gains) - 0.5, -0.7)
    ax.axvline(0, color="0.7", linewidth=1)
    ax.set_title(f"The convolution buys {next(iter(gains.values())).mean:.2f} points" if gains else "")


def parse(argv):
    """Parse arguments; return options."""
    without = ["--epochs", "--learning-rate"]  # they are chosen
    return command_line.parse(command_line.study_parser(__doc__, MODELS, seeds=5, first_seed=20, without=without), argv)


def study(options):
    """Do the runs that are missing; return what `choose` and `final_runs` return, and the Estimates."""
    found, chosen = choose(options)
    runs = final_runs(options, chosen)
    comparisons = {**COMPARISONS, GAIN_OF_FIVE: FIVE}
    return found, chosen, runs, compare.estimates(runs, comparisons)


def main(argv=None):
    """Run what is missing; print tables and conclusion, draw the figure."""
    options = parse(argv)
    path = figures.path_to_save(options, "training_length.png")
    found, chosen, runs, estimates = study(options)
    print(report(found, chosen, runs, estimates), flush=True)
    figure = figures.new((11, 4.4))
    draw(figure, found, chosen, runs, gains_to_draw(estimates, options))
    figures.save(figure, path)
    figures.show()


if __name__ == "__main__":
    run_main(main)
