"""Losses of the semi-supervised GAN (paper, Methods, "GAN"), for any Keras backend.

    L_discriminator = L_supervised + L_unsupervised + L_generated
    L_generator = mean squared difference of features

The supervised networks use Keras' own cross-entropies.
"""

import keras
from keras import ops


def supervised_loss(labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Give -E log p(y | x) of labeled frames.

    Args:
        labels: [N], integer classes.
        logits: [N, K].

    Returns:
        scalar.
    """
    return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def real_loss(real_logit: keras.KerasTensor) -> keras.KerasTensor:
    """Give -E log p(real | x) of unlabeled frames: binary cross-entropy against "real".

    Args:
        real_logit: [N, 1], positive for real.

    Returns:
        scalar.
    """
    return ops.mean(ops.softplus(-real_logit))


def generated_loss(real_logit: keras.KerasTensor) -> keras.KerasTensor:
    """Give -E log p(generated | x) of generated frames: binary cross-entropy against "generated".

    Args:
        real_logit: [N, 1], positive for real.

    Returns:
        scalar.
    """
    return ops.mean(ops.softplus(real_logit))


def feature_matching_loss(generated: keras.KerasTensor, unlabeled: keras.KerasTensor) -> keras.KerasTensor:
    """Give the mean squared difference of the batches' mean features.

    Args:
        generated: [N, F], features of generated frames.
        unlabeled: [M, F], features of unlabeled frames.

    Returns:
        scalar.
    """
    return ops.mean(ops.square(ops.mean(generated, axis=0) - ops.mean(unlabeled, axis=0)))
