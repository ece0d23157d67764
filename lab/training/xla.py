"""A training step for XLA: Keras' layers, loss, metrics and optimizer as one function of tensors to tensors.

XLA fuses what lies between the matrix products, and updates in place what the loop around the step carries. Three
things are slow in XLA on a CPU, and are done in another way: random numbers (those of Dropout are drawn before the
loop), convolutions (that of one channel is a product of its patches), and weights that are read after their update has
begun (XLA copies them; here, every update waits for all gradients).
"""

import contextlib
import functools
import types

# Not pooling and convolutions of several channels: in XLA on a CPU they took 1.4 to 11 times as long
LAYERS = {"InputLayer", "Flatten", "Reshape", "Cropping2D", "Dense", "EinsumDense", "Dropout", "BatchNormalization"}
LAYERS |= {"Activation", "ReLU", "Softmax"}


def find_xla_obstacle(model):
    """Return what keeps XLA from making the training of a compiled model faster, as text; None if nothing does."""
    import keras
    import tensorflow as tf

    optimizer = model.optimizer
    if tf.config.list_physical_devices("GPU"):
        return "a GPU"
    if optimizer.gradient_accumulation_steps or optimizer.use_ema or hasattr(optimizer, "inner_optimizer"):
        return f"these settings of {type(optimizer).__name__}"
    for layer in model.layers:
        name = type(layer).__name__
        known = type(layer) is getattr(keras.layers, name, None) and (name in LAYERS or _has_one_channel(layer))
        if layer.compute_dtype != "float32":
            return layer.compute_dtype
        if not known or getattr(layer, "noise_shape", None) or len(layer._inbound_nodes) > 1:  # used more than once
            return f"layer {layer.name}"
    return None


def make_xla_step(model):
    """Return the training step of a compiled and built model that suits XLA.

    Returns: step, variables, dropouts: function of (values of the variables, pixels float32, labels, bits) to the new
        values; Keras variables; Dropout layers, for each of which the step expects random bits, uint16 (batch, ...)
    """
    import keras
    import tensorflow as tf

    trainable = model.trainable_variables
    others = [variable for variable in model.non_trainable_variables if variable.dtype == "float32"]  # not the seeds
    variables = [*trainable, *model.optimizer.variables, *others, *model.metrics_variables]
    dropouts = [layer for layer in model.layers if type(layer) is keras.layers.Dropout and layer.rate]

    def step(values, pixels, labels, bits):
        calls = [(layer, functools.partial(_drop, layer, each)) for layer, each in zip(dropouts, bits, strict=True)]
        calls += [(layer, functools.partial(_convolve, layer)) for layer in model.layers if _has_one_channel(layer)]
        with contextlib.ExitStack() as patches:
            for layer, call in calls:
                patches.enter_context(replace_attributes(layer, call=call))
            patches.enter_context(_stateless_updates(model.optimizer, trainable))
            state = list(zip(variables, values, strict=True))
            scope = patches.enter_context(keras.StatelessScope(state, collect_losses=True))
            weights = values[: len(trainable)]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                predictions = model(pixels, training=True)
                loss = model.compute_loss(pixels, labels, predictions, training=True)
            gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
            # a zero that depends on all gradients: no weight is updated before the last gradient has read it
            zero = 0 * tf.add_n([tf.reshape(gradient, [-1])[0] for gradient in gradients])
            model.optimizer.apply([gradient + zero for gradient in gradients], trainable)
            model.metrics[0].update_state(loss, sample_weight=tf.shape(pixels)[0])  # the mean of the loss
            model.compute_metrics(pixels, labels, predictions)
            return [scope.get_current_value(variable) for variable in variables]

    return step, variables, dropouts


@contextlib.contextmanager
def replace_attributes(owner, **attributes):
    """Within this context, an object has attributes that hide those of its class."""
    vars(owner).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del vars(owner)[name]


def _stateless_updates(optimizer, trainable):
    """Return a context in which a Keras optimizer updates the variables of a StatelessScope.

    Keras' general methods can do that; those for TensorFlow, made for tf.distribute, cannot.
    """
    import keras

    for_tensorflow, general = keras.optimizers.Optimizer.__bases__
    names = {name for name in vars(for_tensorflow).keys() & vars(general).keys() if not name.startswith("__")}
    methods = {name: types.MethodType(getattr(general, name), optimizer) for name in names}
    keys = {id(variable): optimizer._var_key(variable) for variable in trainable}
    return replace_attributes(optimizer, **{**methods, "_var_key": lambda variable: keys[id(variable)]})


def _drop(dropout, bits, inputs, training=None):
    """Return what a Dropout layer makes of its inputs; its rate is rounded to a multiple of 1/65536."""
    import tensorflow as tf

    kept = tf.cast(bits, tf.int32) >= round(dropout.rate * (1 << 16))
    return tf.where(kept, inputs * (1 / max(1e-9, 1 - dropout.rate)), 0.0)


def _has_one_channel(layer):
    import keras

    if type(layer) is not keras.layers.Conv2D or layer.data_format != "channels_last":
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
