"""A training step for XLA (https://openxla.org/xla): a Keras model, its loss, metrics and optimizer as one function.

XLA fuses what lies between the matrix products, and updates in place what the loop around the step carries. Three
things are slow in XLA on a CPU and are done in another way: random numbers (those of Dropout are drawn before the
loop), convolutions (that of one channel is a product of its patches), and weights that are read after their update has
begun (XLA copies them; here, every update waits for all gradients).

This is the only file that relies on more than Keras' documented interface; `make_xla_step` looks all of it up before
the first step. Whoever calls it has another way to train: lab/training/loop.py.
"""

import contextlib
import types

LAYERS = {"Flatten", "Reshape", "Cropping2D", "Dense", "EinsumDense", "Dropout", "BatchNormalization", "Activation"}
LAYERS |= {"ReLU", "Softmax"}
NOT_MEASURED_ON_A_GPU = {"Cropping2D", "EinsumDense", "BatchNormalization"}


def find_xla_obstacle(model, on_gpu=False):
    """Return what keeps XLA from making the training of a compiled model faster, as text; None if nothing does."""
    import keras

    optimizer = model.optimizer
    if type(model) is not keras.Sequential:
        return f"{type(model).__name__} is not a plain Sequential model"
    if optimizer.gradient_accumulation_steps or optimizer.use_ema or hasattr(optimizer, "inner_optimizer"):
        return f"these settings of {type(optimizer).__name__} need Keras' own fit"
    for layer in model.layers:
        name = type(layer).__name__
        known = type(layer) is getattr(keras.layers, name, None) and (name in LAYERS or _has_one_channel(layer))
        if layer.compute_dtype != "float32":
            return f"XLA has no fast {layer.compute_dtype} on a CPU"
        if not known or getattr(layer, "noise_shape", None):
            return f"layer {layer.name} is slower under XLA on a CPU"
        if on_gpu and name in NOT_MEASURED_ON_A_GPU:
            return f"layer {layer.name} was not measured on a GPU"
    return None


def make_xla_step(model):
    """Return the training step of a compiled and built Sequential model that suits XLA.

    Returns: step, variables, dropouts: function of (values of the variables, pixels float32, labels, bits) to the new
        values; Keras variables; Dropout layers, for each of which the step expects random bits, uint16 (batch, ...)
    Raises: AttributeError, ValueError or IndexError, this version of Keras lacks something that the step relies on;
        TypeError, the optimizer's class replaces methods that the step replaces.
    """
    import keras
    import tensorflow as tf

    trainable, optimizer = model.trainable_variables, model.optimizer
    others = [variable for variable in model.non_trainable_variables if variable.dtype == "float32"]  # not the seeds
    variables = [*trainable, *optimizer.variables, *others, *model.metrics_variables]
    dropouts = [layer for layer in model.layers if type(layer) is keras.layers.Dropout and layer.rate]
    [layer.seed_generator.state for layer in dropouts]  # of `draw_bits`: looked up now, not in the first step
    mean_loss = model.metrics[0]  # Keras keeps the mean of the loss there, and has no documented name for it
    stateless_methods = _find_stateless_methods(optimizer, trainable)

    def predict(pixels, bits):
        bits = dict(zip(map(id, dropouts), bits, strict=True))
        for layer in model.layers:
            if id(layer) in bits:
                pixels = _drop(layer, bits[id(layer)], pixels)
            elif _has_one_channel(layer):
                pixels = _convolve(layer, pixels)
            else:
                pixels = layer(pixels, training=True)
        return pixels

    def step(values, pixels, labels, bits):
        state = list(zip(variables, values, strict=True))
        weights = values[: len(trainable)]
        with keras.StatelessScope(state, collect_losses=True) as scope, override(optimizer, stateless_methods):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                predictions = predict(pixels, bits)
                loss = model.compute_loss(pixels, labels, predictions, training=True)
            gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
            # a zero that depends on all gradients: no weight is updated before the last gradient has read it
            zero = 0 * tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])
            optimizer.apply([gradient + zero for gradient in gradients], trainable)
            mean_loss.update_state(loss, sample_weight=tf.shape(pixels)[0])
            model.compute_metrics(pixels, labels, predictions)
            return [scope.get_current_value(variable) for variable in variables]

    return step, variables, dropouts


def _find_stateless_methods(optimizer, trainable):
    """Return the methods with which a Keras optimizer updates the variables of a StatelessScope, by name.

    Keras' general methods can do that; those for TensorFlow, made for tf.distribute, cannot, and hide the general ones.
    """
    import keras

    for_tensorflow, general = keras.optimizers.Optimizer.__bases__
    names = {name for name in vars(for_tensorflow).keys() & vars(general).keys() if not name.startswith("__")}
    for name in names:
        if getattr(type(optimizer), name) is not getattr(for_tensorflow, name):
            raise TypeError(f"{type(optimizer).__name__} has its own {name}")
    keys = {id(variable): optimizer._var_key(variable) for variable in trainable}
    methods = {name: types.MethodType(getattr(general, name), optimizer) for name in names}
    return {**methods, "_var_key": lambda variable: keys[id(variable)]}


@contextlib.contextmanager
def override(owner, attributes):
    """Within this context, an object has attributes that hide those of its class."""
    vars(owner).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del vars(owner)[name]


def _drop(dropout, bits, inputs):
    """Return what a Dropout layer makes of its inputs; its rate is rounded to a multiple of 1/65536."""
    import tensorflow as tf

    kept = tf.cast(bits, tf.int32) >= round(dropout.rate * (1 << 16))
    return tf.where(kept, inputs * (1 / max(1e-9, 1 - dropout.rate)), 0.0)


def _has_one_channel(layer):
    import keras

    if type(layer) is not keras.layers.Conv2D or layer.data_format != "channels_last" or layer.activity_regularizer:
        return False
    return layer.kernel.shape[2] * layer.groups == 1


def _convolve(layer, images):
    """Return a Conv2D's outputs for images of one channel as the product of their patches by the kernel."""
    import tensorflow as tf

    height, width, _, filters = layer.kernel.shape
    steps = (1, height, width, 1), (1, *layer.strides, 1), (1, *layer.dilation_rate, 1)
    patches = tf.image.extract_patches(images, *steps, layer.padding.upper())
    outputs = tf.tensordot(patches, tf.reshape(layer.kernel, (-1, filters)), 1)
    return layer.activation(outputs + layer.bias if layer.use_bias else outputs)
