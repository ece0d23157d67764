"""Where the gain is: which test images one model nearly always gets right and the other hardly ever."""

import numpy as np

from lab.analysis import compare, figures

NEARLY_ALL, HARDLY_ANY = 0.9, 0.1  # of the runs
SHOWN = 20


def rates_correct(runs, pair=("conv", "dense")):
    """Return in which fraction of a variant's runs each image is predicted correctly, two arrays float (n,)."""
    return [compare.is_correct(runs, name).mean(axis=0) for name in pair]


def report(runs):
    """Return in one sentence how many images make up the gain of conv over dense."""
    conv, dense = rates_correct(runs)
    pairs = (conv, dense), (dense, conv)
    gained, lost = (np.count_nonzero((one >= NEARLY_ALL) & (other <= HARDLY_ANY)) for one, other in pairs)
    never = np.count_nonzero((conv == 0) & (dense == 0))
    surplus = [np.maximum(one - other, 0).sum() for one, other in pairs]  # images a run
    return (
        f"Of {len(conv):,} test images, {gained} are right in at least {NEARLY_ALL:.0%} of the runs of conv and in at "
        f"most {HARDLY_ANY:.0%} of those of dense, {lost} the other way round, and {never} in no run of either. The "
        f"gain is a balance: on some images conv is right more often, by {surplus[0]:.0f} images a run, on others "
        f"dense, by {surplus[1]:.0f}."
    )


def plot(runs, images, names):
    """Draw the images that one of conv and dense gets right most often and the other least often.

    Above, those that conv gets right; below, those that dense does; each with its class and what the other model mostly
    takes it for. Args: images uint8 (n, 28, 28); names of the classes. Returns: matplotlib Figure
    """
    rates, labels = dict(zip(("conv", "dense"), rates_correct(runs), strict=True)), compare.shared_labels(runs)
    figure = figures.new((14, 9.6))
    for part, (right, wrong) in zip(figure.subfigures(2, 1), (("conv", "dense"), ("dense", "conv")), strict=True):
        chosen = np.argsort(rates[wrong] - rates[right], kind="stable")[:SHOWN]
        predicted = np.stack([run.arrays["predicted"] for run in compare.runs_for(runs, wrong)])
        runs_of, title = len(predicted), f"Right with {right}, wrong with {wrong}"
        part.suptitle(f"{title}; above: class; below: what {wrong} mostly says, and right runs of {runs_of}")
        for ax, index in zip(part.subplots(2, SHOWN // 2).flat, chosen, strict=False):
            taken_for = np.bincount(predicted[:, index], minlength=10).argmax()
            ax.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            ax.set_title(f"{names[labels[index]]}", fontsize=9)
            counts = [f"{name} {round(runs_of * rates[name][index])}" for name in (right, wrong)]
            ax.set_xlabel(f"{names[taken_for]}\n{', '.join(counts)}", fontsize=9)
            ax.set(xticks=[], yticks=[])
    return figure
