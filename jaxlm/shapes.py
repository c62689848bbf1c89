"""The axis alphabet, and the one assertion that holds arrays to it.

    B  batch                 D  embedding_size        V  vocab_size
    T  time                  H  hidden_size           L  num_layers
    N  context words (n_step)  G  gates x hidden_size   F  features the output layer reads
    K  steps in one dispatch

An array's name ends in its axes: `x_BTD` is [batch, time, embedding_size]. `check(x_BTD, "BTD",
D=200)` asserts at trace time what the name says, and costs nothing at run time.
"""

import chex
import jax


def check(array: jax.Array, axes: str, **sizes: int | None) -> None:
    """Asserts that `array` has one axis per letter of `axes`, each of the size given for its letter
    (any, if none is given).

    Raises AssertionError that names both shapes.
    """
    dimensions = chex.Dimensions(**{letter: sizes.get(letter) for letter in axes})
    chex.assert_shape(array, dimensions[axes])
