"""The axis alphabet, and the one assertion that holds arrays to it.

    B  batch                 D  embedding_size        V  vocab_size
    T  time                  H  hidden_size           L  num_layers
    N  words in the carry    G  gates x hidden_size   F  features, of any number
    K  steps in one dispatch

An array's name ends in its axes: `x_BTD` is [batch, time, embedding_size]. A digit is the size of
an axis: `log_prob_BT1`, `uniform_2B`. `check(x_BTD, "BTD", D=200)` asserts at trace time what the
name says, and costs nothing at run time.

Some axes occur in a few files only. A file uses each of these letters with one meaning:

    N  tokens of a batch, B x T               K  chunks, segments, clusters, softmaxes or windows
    C  tokens of a chunk; blocks of words     W  words of a slice, cluster, window, block or memory
    S  context words and T tokens; samples;   R  features of a cluster; rows; time steps that remain
       segments, or time steps of a segment   X  concatenated features of several words
    O  outputs of a layer                     J  heads; values of a flatness
    I  indices to search                      P  positions that are seen; 1 + T positions
    M  axes merged, such as K x W; models     E  extra rows
    A  features of all heads, J x d           Q  queries of a block
"""

import chex
import jax


def check(array: jax.Array, axes: str, **sizes: int | None) -> None:
    """Asserts that `array` has one axis per letter of `axes`, each of the size given for its letter
    (any, if none is given).

    A symbolic size, with which `jax.export` traces a program for any batch or time, is not checked.

    Raises AssertionError that names both shapes.
    """
    fixed = {letter: size for letter, size in sizes.items() if isinstance(size, int)}
    dimensions = chex.Dimensions(**{letter: fixed.get(letter) for letter in axes})
    chex.assert_shape(array, dimensions[axes])
