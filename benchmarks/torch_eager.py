"""Contestant: PyTorch, eager with fused Adam, or with --compile the whole training step as one compiled graph.

python benchmarks/torch_eager.py --model conv --epochs 5 --compile
"""

import time

import contestant

EPSILON = 1e-7  # Keras' default; PyTorch's own is 1e-8


def build_model(name):
    """Return the untrained model, from pixels (n, 1, 28, 28) to logits, with Keras' initial weights."""
    from torch import nn

    if name == "dense":
        first = [nn.Flatten(), nn.Linear(28 * 28, 128), nn.ReLU()]
    else:
        first = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(26 * 26 * 32, 128)]
    model = nn.Sequential(*first, nn.Dropout(0.2), nn.Linear(128, 10))
    for layer in model:
        if hasattr(layer, "weight"):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def eager_step(model):
    """Return the training step: (images, labels, indices of the batch) to nothing."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=EPSILON, fused=True)

    def step(images, labels, batch):
        loss = cross_entropy(model(images.index_select(0, batch)), labels.index_select(0, batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def compiled_step(model):
    """Return the same step with gathering, both passes and Adam in one graph: compiling only the model is slower."""
    import torch
    from torch.func import functional_call, grad
    from torch.nn.functional import cross_entropy

    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = torch.zeros(())

    def loss(weights, images, labels):
        return cross_entropy(functional_call(model, weights, (images,)), labels)

    def update(weights, means, squares, count, images, labels, batch):
        gradients = grad(loss)(weights, images.index_select(0, batch), labels.index_select(0, batch))
        count += 1
        rate = 1e-3 * torch.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for name, gradient in gradients.items():
            means[name].lerp_(gradient, 0.1)
            squares[name].lerp_(gradient * gradient, 0.001)
            weights[name].sub_(rate * means[name] / (squares[name].sqrt() + EPSILON))

    update = torch.compile(update, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})

    def step(images, labels, batch):
        with torch.no_grad():
            update(weights, means, squares, count, images, labels, batch)

    return step


def train_epoch(step, images, labels):
    """Train on all images once, in a new order."""
    import torch

    for batch in torch.randperm(len(images)).split(contestant.BATCH_SIZE):
        step(images, labels, batch)


def evaluate(model, images, labels):
    """Return the accuracy."""
    import torch

    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in images.split(contestant.EVALUATION_BATCH)])
    return (logits.argmax(1) == labels).float().mean().item()


def main(argv=None):
    """Train, evaluate, and print the closing line."""
    parser = contestant.parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="compile the whole training step")
    options = parser.parse_args(argv)
    contestant.keep_freed_memory()
    import torch

    if options.model == "dense":
        torch.set_num_threads(1)  # products so small are done before a second thread has woken up
    torch.set_flush_denormal(True)  # as TensorFlow and XLA do; Adam's means of dark pixels' weights decay to denormals
    torch.manual_seed(options.seed)
    (train_images, train_labels), (test_images, test_labels) = (
        (torch.from_numpy(images)[:, None], torch.tensor(labels, dtype=torch.long))
        for images, labels in contestant.load_scaled(options.images)
    )

    model = build_model(options.model)
    step = (compiled_step if options.compile else eager_step)(model)
    epoch_seconds = []
    for _ in range(options.epochs):
        started = time.perf_counter()
        train_epoch(step, train_images, train_labels)
        epoch_seconds.append(time.perf_counter() - started)
    accuracy = evaluate(model, test_images, test_labels)
    contestant.report(options, epoch_seconds, accuracy, ("torch",))


if __name__ == "__main__":
    main()
