"""Models of other PyTorch programs: which tensor is which parameter, found by names and shapes.

A recurrent model is an `nn.Embedding`, one or more `nn.LSTM`, `nn.GRU` or `nn.RNN` (or their
cells), and an `nn.Linear`, under any names. The recurrent tensors are found by the names that
PyTorch gives them, such as weight_ih_l0, and the others by their shapes. The numbers are read when
the shapes fit.

Sources of the layouts: PyTorch's examples, word_language_model; Gulordava et al. 2018
(colorlessgreenRNNs); Howard & Ruder 2018 (fastai); Merity et al. 2018 (awd-lstm-lm); Qi et al. 2020
(Stanza's character models).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError
from jaxlm.models.torch_names import WEIGHTS

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""The dtypes of tensors that can be read. All become float32."""
# A tensor of a recurrent module: (module)(kind)_l(layer)(_reverse)(_raw).
NUMBER = re.compile(r"([0-9]{1,9})")
MOST_ORDERED = 6
"""Modules, at most, of which every order is tried."""
RECURRENT_NAME = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<kind>(?:weight|bias)_(?:ih|hh|hr))(?:_l(?P<layer>[0-9]{1,6}))?"
    r"(?P<reverse>_reverse)?(?P<raw>_raw)?"
)
# The model by the number of gates.
MODEL_OF_GATES = {1: "rnn", 3: "gru", 4: "lstm"}
# Parts of names that tell two matrices of one shape apart.
EMBEDDING_WORDS = ("emb", "enc", "wte", "lookup", "wordvec")
DECODER_WORDS = ("dec", "out", "lin", "fc", "softmax", "head", "logit", "vocab")
PROJECTION_WORDS = ("proj", "bottleneck")
# More matrices than these outside of the recurrent layers are in no layout, copies included.
MOST_MATRICES = 12
MOST_TENSORS = 5000
# Names that are shown in one error.
MOST_NAMES = 6


class Stored(NamedTuple):
    """A tensor of a file: its shape and dtype, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    """The dtype, such as "float16"; an integer or another dtype cannot be a parameter."""
    load: Callable[[], np.ndarray]
    """Return the numbers, float32 [shape]."""

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"


class Source(NamedTuple):
    """The source of a tensor's numbers: a tensor of the file, or zeros if `name` is None."""

    name: str | None
    layer: int | None = None
    """Index of the first axis, if the tensor of the file has all layers; None for the whole."""

    def __str__(self) -> str:
        if self.name is None:
            return "zeros (not in the file)"
        return self.name if self.layer is None else f"{self.name}[{self.layer}]"


class Layout(NamedTuple):
    """A model that was recognised in the tensors of a file.

    Attributes:
      title: the layout in words.
      model: name of the model in MODELS.
      network: its settings.
      vocab_size: number of rows of the embedding.
      sources: where each tensor of `jaxlm.models.torch_names.to_torch` comes from, by name.
      notes: what was assumed, a line each.
    """

    title: str
    model: str
    network: dict[str, Any]
    vocab_size: int
    sources: dict[str, Source]
    notes: list[str]


class Layer(NamedTuple):
    """A recurrent layer: the names of its tensors by kind, and its sizes."""

    where: str
    """The module and the number of the layer, for an error."""
    names: dict[str, str]
    inputs: int
    units: int
    gates: int


class Words(NamedTuple):
    """The tensors around the recurrent layers: embedding, output matrix, projection and bias."""

    embedding: str
    decoder: str | None
    """None: the embedding is the output matrix too."""
    project: str | None
    bias: str | None
    score: int
    """How well names and biases fit the roles."""


def recognise(tensors: Mapping[str, Stored]) -> Layout:
    """Return the model that the tensors of a file are.

    Example:
      >>> def stored(*shape):
      ...     return Stored(shape, "float32", lambda: np.zeros(shape, np.float32))
      >>> layout = recognise({
      ...     "module.words.weight": stored(7, 2), "module.out.weight": stored(7, 3),
      ...     "module.out.bias": stored(7), "module.memory.weight_ih_l0": stored(9, 2),
      ...     "module.memory.weight_hh_l0": stored(9, 3), "module.memory.bias_ih_l0": stored(9),
      ...     "module.memory.bias_hh_l0": stored(9)})
      >>> layout.model, layout.network["hidden_size"], str(layout.sources["encoder.weight"])
      ('gru', 3, 'module.words.weight')

    Raises:
      UserError: for tensors that are no such model. The message names tensors that are missing, or
        have no place in the model, or could have several places.
    """
    if len(tensors) > MOST_TENSORS:
        raise UserError(f"{len(tensors):,} tensors: a language model here has fewer")
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            raise UserError(f"the tensor {name} {tensor} is empty")
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"the tensor {name} has the dtype {tensor.dtype}: expected {', '.join(FLOATS)}"
            )
    recurrent, ignored = _recurrent_tensors(tensors)
    rest = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in ignored and RECURRENT_NAME.fullmatch(name) is None
    }
    if not recurrent:
        return _nplm(rest)
    layers = _layers(tensors, recurrent)
    model = _model_of(layers)
    notes = [f"{name} is left out: {why}" for name, why in ignored.items()]
    if model == "rnn":
        notes.append("the weights do not tell tanh from relu: tanh is assumed, as in nn.RNN")
    starts = _start_states(rest, layers, model)
    rest = {name: tensor for name, tensor in rest.items() if name not in starts.values()}
    rest, copies = _without_copies(rest)
    words = _words(rest, copies, layers[0].inputs, layers[-1].units)
    notes += _copy_notes(copies)
    sizes = tuple(layer.units for layer in layers)
    network: dict[str, Any] = {"embedding_size": layers[0].inputs}
    if len(set(sizes)) == 1:
        network |= {"hidden_size": sizes[0], "num_layers": len(sizes)}
    else:
        network["layer_sizes"] = sizes
    network |= {"tied": words.decoder is None, "learned_start": bool(starts)}
    sources = {"encoder.weight": Source(words.embedding)}
    for index, layer in enumerate(layers):
        pattern = f"rnns.{index}.{{}}_l0" if "layer_sizes" in network else f"rnn.{{}}_l{index}"
        sources |= {pattern.format(kind): Source(layer.names.get(kind)) for kind in WEIGHTS}
        for array, name in starts.items():
            sources[f"start.{index}.{array}"] = Source(name, index)
    sources |= _word_sources(words)
    title = _title(tensors, model, words, bool(starts))
    return Layout(title, model, network, tensors[words.embedding].shape[0], sources, notes)


# Recurrent layers.


def _recurrent_tensors(
    tensors: Mapping[str, Stored],
) -> tuple[dict[tuple[str, int], dict[str, str]], dict[str, str]]:
    """Return the names of recurrent tensors by (module, layer) and kind, and tensors to leave out.

    The tensors to leave out have their reasons. In fastai and awd-lstm-lm, weight_hh_l0_raw is the
    parameter, and weight_hh_l0 a copy of it after dropout.
    """
    found: dict[tuple[str, int], dict[str, str]] = {}
    ignored: dict[str, str] = {}
    # Raw weights last: they replace the others.
    matches = [match for name in tensors if (match := RECURRENT_NAME.fullmatch(name)) is not None]
    for match in sorted(matches, key=lambda match: match["raw"] is not None):
        name, kind = match.string, match["kind"]
        if match["reverse"]:
            raise UserError(
                f"the tensor {name} is of a layer that reads from right to left: a bidirectional "
                f"model is no language model"
            )
        if kind == "weight_hr":
            raise UserError(
                f"the tensor {name} is of an LSTM with `proj_size`, which jaxlm does not have"
            )
        module, layer = match["module"], int(match["layer"] or 0)
        wrapped = f"{module}module."
        if match["raw"] and (wrapped, layer) in found:
            module = wrapped
        names = found.setdefault((module, layer), {})
        if match["raw"] and kind in names:
            ignored[names[kind]] = f"{name} is the parameter without dropout"
        names[kind] = name
    return found, ignored


def _layers(
    tensors: Mapping[str, Stored], recurrent: Mapping[tuple[str, int], dict[str, str]]
) -> list[Layer]:
    """Return the layers in their order, after a check of their shapes.

    Numbers in the names of modules tell their order. Other names are taken in the order of the
    file, which is that of the definition, if the shapes fit; else in an order in which they fit.
    """
    by_module: dict[str, list[Layer]] = {}
    for module in dict.fromkeys(module for module, _ in recurrent):
        numbers = sorted(number for name, number in recurrent if name == module)
        if numbers != list(range(len(numbers))):
            lost = next(index for index, number in enumerate(numbers) if index != number)
            raise UserError(f"the tensor {module}weight_ih_l{lost} is missing: a layer is lost")
        by_module[module] = [_layer(tensors, module, n, recurrent[module, n]) for n in numbers]
    modules = sorted(by_module, key=_natural)
    if len({NUMBER.sub("", module) for module in modules}) > 1:
        few = len(modules) <= MOST_ORDERED
        orders = [list(by_module), modules, *(itertools.permutations(modules) if few else ())]
        modules = next((list(order) for order in orders if _fit(by_module, order)), modules)
    layers = [layer for module in modules for layer in by_module[module]]
    for before, layer in itertools.pairwise(layers):
        if layer.inputs != before.units:
            hint = ""
            if layer.inputs == 2 * before.units:
                hint = ", twice as many: a bidirectional model is no language model"
            raise UserError(
                f"the layer {layer.where} reads {layer.inputs} numbers, and the layer "
                f"{before.where} before it has {before.units} units{hint}"
            )
    return layers


def _fit(by_module: Mapping[str, Sequence[Layer]], modules: Sequence[str]) -> bool:
    """Return whether each layer reads as many numbers as the layer before it has units."""
    layers = [layer for module in modules for layer in by_module[module]]
    return all(layer.inputs == before.units for before, layer in itertools.pairwise(layers))


def _layer(tensors: Mapping[str, Stored], module: str, number: int, names: dict[str, str]) -> Layer:
    """Return one layer, after a check of its shapes."""
    where = f"{module}l{number}"
    for kind in ("weight_ih", "weight_hh"):
        if kind not in names:
            raise UserError(f"the tensor {module}{kind}_l{number} is missing")
    if ("bias_ih" in names) != ("bias_hh" in names):
        lost = "bias_hh" if "bias_ih" in names else "bias_ih"
        raise UserError(f"the tensor {module}{lost}_l{number} is missing: expected both or none")
    for kind, name in names.items():
        if len(tensors[name].shape) != (2 if kind.startswith("weight") else 1):
            what = "matrix" if kind.startswith("weight") else "vector"
            raise UserError(f"the tensor {name} {tensors[name]} is no {what}")
    inner, outer = tensors[names["weight_hh"]], tensors[names["weight_ih"]]
    rows, units = inner.shape
    if rows % units or rows // units not in MODEL_OF_GATES:
        raise UserError(
            f"the tensor {names['weight_hh']} {inner} has {rows / units:g} gates of {units} units: "
            f"an RNN has 1, a GRU 3 and an LSTM 4"
        )
    for kind in ("weight_ih", "bias_ih", "bias_hh"):
        if kind in names and tensors[names[kind]].shape[0] != rows:
            raise UserError(
                f"the tensor {names[kind]} {tensors[names[kind]]} does not fit "
                f"{names['weight_hh']} {inner}: expected {rows:,} rows"
            )
    return Layer(where, names, outer.shape[1], units, rows // units)


def _model_of(layers: Sequence[Layer]) -> str:
    """Return the name of the model whose layers all have the same cell."""
    models = {MODEL_OF_GATES[layer.gates]: layer.where for layer in layers}
    if len(models) > 1:
        listed = ", ".join(f"{where} is of a {name}" for name, where in models.items())
        raise UserError(f"the layers are of different cells: {listed}")
    return next(iter(models))


def _start_states(
    rest: Mapping[str, Stored], layers: Sequence[Layer], model: str
) -> dict[str, str]:
    """Return the tensors [L, 1, H] of a learned initial state by "h" and "c"; {} if there are none.

    Their names, such as charlstm_h_init, have a part h or c.
    """
    shape = len(layers), 1, layers[0].units
    found = [name for name, tensor in rest.items() if tensor.shape == shape]
    if not found or any(layer.units != layers[0].units for layer in layers):
        return {}
    arrays = ("h", "c") if model == "lstm" else ("h",)
    named = {
        array: [name for name in found if array in re.split(r"[^a-z0-9]+", _last_part(name))]
        for array in arrays
    }
    if any(len(names) != 1 for names in named.values()) or len(found) != len(arrays):
        raise UserError(
            f"the tensors {_listed(found)} could be a learned initial state: expected "
            f"{' and '.join(arrays)} with names such as h_init"
        )
    return {array: names[0] for array, names in named.items()}


# The embedding and the output layer.


def _without_copies(rest: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the tensors without copies, and the name of the original of each copy.

    A tied model is stored with the embedding under two names, and fastai stores it three times.
    """
    copies: dict[str, str] = {}
    matrices = [name for name, tensor in rest.items() if len(tensor.shape) == 2]
    if len(matrices) > MOST_MATRICES:
        return dict(rest), copies
    # Of two names, that of an embedding is the original.
    matrices.sort(key=lambda name: _hints(name, DECODER_WORDS) - _hints(name, EMBEDDING_WORDS))
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in matrices:
        by_shape.setdefault(rest[name].shape, []).append(name)
    for names in by_shape.values():
        originals: dict[str, np.ndarray] = {}
        for name in names if len(names) > 1 else ():
            array = rest[name].load()
            same = (other for other, found in originals.items() if np.array_equal(found, array))
            original = next(same, None)
            if original is None:
                originals[name] = array
            else:
                copies[name] = original
    return {name: tensor for name, tensor in rest.items() if name not in copies}, copies


def _copy_notes(copies: Mapping[str, str]) -> list[str]:
    return [f"{copy} has the numbers of {name}: one tensor" for copy, name in copies.items()]


def _words(rest: Mapping[str, Stored], copies: Mapping[str, str], inputs: int, units: int) -> Words:
    """Return the roles of the tensors outside of the recurrent layers.

    Args:
      rest: these tensors, without copies.
      copies: the name of the original of each copy.
      inputs: embedding size D.
      units: units of the last layer F.
    Raises:
      UserError: if no assignment uses every tensor, and if two assignments fit equally well.
    """
    found = list(_assignments(rest, copies, inputs, units))
    if not found:
        raise _no_words(rest, inputs, units)
    best = max(words.score for words in found)
    fitting = [words for words in found if words.score == best]
    if len(fitting) > 1:
        pairs = " or ".join(
            f"(embedding {words.embedding}, output {words.decoder or words.embedding})"
            for words in fitting[:MOST_NAMES]
        )
        raise UserError(
            f"the tensors fit in several ways: {pairs}. Rename them, for example to "
            f"encoder.weight and decoder.weight"
        )
    return fitting[0]


def _assignments(
    rest: Mapping[str, Stored], copies: Mapping[str, str], inputs: int, units: int
) -> Iterator[Words]:
    """Yield each way in which every tensor of `rest` has a role."""
    matrices = [name for name, tensor in rest.items() if len(tensor.shape) == 2]
    for embedding in matrices if len(matrices) <= MOST_MATRICES else ():
        V, D = rest[embedding].shape
        if inputs != D:
            continue
        others = [name for name in matrices if name != embedding]
        if not others and units == inputs:
            yield from _with_bias(rest, copies, Words(embedding, None, None, None, 0))
        if len(others) == 1:
            shape = rest[others[0]].shape
            if shape == (V, units):
                yield from _with_bias(rest, copies, Words(embedding, others[0], None, None, 0))
            if shape == (inputs, units) and units != inputs:
                yield from _with_bias(rest, copies, Words(embedding, None, others[0], None, 0))


def _with_bias(
    rest: Mapping[str, Stored], copies: Mapping[str, str], words: Words
) -> Iterator[Words]:
    """Yield `words` with the bias and the score, if it uses all other tensors of `rest`."""
    used = {words.embedding, words.decoder, words.project}
    others = [name for name in rest if name not in used]
    V = rest[words.embedding].shape[0]
    if len(others) > 1 or any(rest[name].shape != (V,) for name in others):
        return
    bias = others[0] if others else None
    # The matrix of the output layer is the one whose module has the bias.
    owner = f"{bias.removesuffix('.bias')}.weight" if bias else None
    names = {copies.get(owner, owner)} if owner else set()
    score = 4 * (words.decoder in names) - 4 * (
        words.embedding in names and words.decoder is not None
    )
    score += _hints(words.embedding, EMBEDDING_WORDS) - _hints(words.embedding, DECODER_WORDS)
    if words.decoder is not None:
        score += _hints(words.decoder, DECODER_WORDS) - _hints(words.decoder, EMBEDDING_WORDS)
        score -= 2 * _hints(words.decoder, PROJECTION_WORDS)
    if words.project is not None:
        score += 2 * _hints(words.project, PROJECTION_WORDS) - 1
    yield words._replace(bias=bias, score=score)


def _word_sources(words: Words) -> dict[str, Source]:
    """Return the sources of the tensors of the output layer."""
    sources = {"decoder.bias": Source(words.bias)}
    if words.decoder is not None:
        sources["decoder.weight"] = Source(words.decoder)
    if words.project is not None:
        sources["project.weight"] = Source(words.project)
    return sources


def _no_words(rest: Mapping[str, Stored], inputs: int, units: int) -> UserError:
    """Return the error for tensors among which no embedding and no output layer is found."""
    tables = [name for name, tensor in rest.items() if tensor.shape[1:] == (inputs,)]
    if not tables:
        return UserError(
            f"no tensor is the embedding, a matrix [words, {inputs}] as the first layer reads "
            f"{inputs} numbers: beside the recurrent layers there {_shown(rest)}"
        )
    fitting = {
        name
        for name, tensor in rest.items()
        if tensor.shape[1:] in ((inputs,), (units,), ()) and len(tensor.shape) <= 2
    }
    extra = [name for name in rest if name not in fitting]
    if extra:
        return UserError(
            f"these tensors have no place in an embedding, recurrent layers and an output layer: "
            f"{_shapes({name: rest[name] for name in extra})}; a model that uses them in between "
            f"computes something else"
        )
    if len(tables) == 1 and len(fitting) <= 2 and inputs != units:
        return UserError(
            f"the output layer is missing, a matrix [{rest[tables[0]].shape[0]}, {units}]: beside "
            f"the recurrent layers there {_shown(rest)}"
        )
    return UserError(
        f"expected an embedding [V, {inputs}], an output matrix [V, {units}] unless it is the "
        f"embedding, and a bias [V]: beside the recurrent layers there {_shown(rest)}"
    )


# The NPLM.


def _nplm(rest: Mapping[str, Stored]) -> Layout:
    """Return the NPLM that tensors are: embedding [V, D], hidden layer [H, n D], output [V, H].

    The matrix `direct` [V, n D] may be there too. A model whose window has one word has H columns
    of the embedding's size; names then tell the embedding from the output matrix.
    """
    rest, copies = _without_copies(rest)
    found = list(_nplm_roles(rest))
    if not found:
        raise UserError(
            f"no recurrent layer (weight_ih_l0, weight_hh_l0) and no NPLM (an embedding [V, D], a "
            f"hidden layer [H, n x D], an output matrix [V, H]): there {_shown(rest)}"
        )
    best = max(score for score, _, _ in found)
    fitting = [item for item in found if item[0] == best]
    if len(fitting) > 1:
        ways = " or ".join(
            f"(embedding {roles['encoder.weight']}, hidden layer {roles['hidden.0.weight']})"
            for _, roles, _ in fitting[:MOST_NAMES]
        )
        raise UserError(f"the tensors fit in several ways: {ways}")
    _, roles, network = fitting[0]
    notes = _copy_notes(copies)
    notes.append("the weights do not tell tanh from other functions: tanh is assumed")
    sources = {name: Source(found_name) for name, found_name in roles.items()}
    V = rest[str(roles["encoder.weight"])].shape[0]
    return Layout("an NPLM (Bengio et al. 2003)", "nplm", network, V, sources, notes)


def _nplm_roles(
    rest: Mapping[str, Stored],
) -> Iterator[tuple[int, dict[str, str | None], dict[str, Any]]]:
    """Yield the score, the tensors by role and the settings of each NPLM that uses all tensors."""
    matrices = [name for name, tensor in rest.items() if len(tensor.shape) == 2]
    vectors = [name for name, tensor in rest.items() if len(tensor.shape) == 1]
    if len(matrices) not in (2, 3, 4) or len(matrices) + len(vectors) != len(rest):
        return
    for embedding, hidden, *others in itertools.permutations(matrices):
        (V, D), (H, X) = rest[embedding].shape, rest[hidden].shape
        shapes = [rest[name].shape for name in others]
        # With `tied`, the embedding is the output matrix.
        expected = [[(V, H)], [(V, H), (V, X)], [] if H == D else None]
        if X % D or shapes not in expected:
            continue
        names = [hidden.removesuffix(".weight") + ".bias"]
        names.append((others[0] if others else embedding).removesuffix(".weight") + ".bias")
        hidden_bias, bias = (name if name in vectors else None for name in names)
        for name in vectors:
            if name in (hidden_bias, bias):
                continue
            if rest[name].shape == (H,) and hidden_bias is None:
                hidden_bias = name
            elif rest[name].shape == (V,) and bias is None:
                bias = name
        fits = (
            set(vectors) == {hidden_bias, bias} - {None}
            and (hidden_bias is None or rest[hidden_bias].shape == (H,))
            and (bias is None or rest[bias].shape == (V,))
        )
        if not fits:
            continue
        roles = {
            "encoder.weight": embedding,
            "hidden.0.weight": hidden,
            "hidden.0.bias": hidden_bias,
            "decoder.bias": bias,
        } | dict(zip(("decoder.weight", "direct.weight"), others, strict=False))
        score = _hints(embedding, EMBEDDING_WORDS) + 4 * (
            f"{embedding.removesuffix('.weight')}.bias" not in vectors
        )
        score += sum(_hints(name, DECODER_WORDS) for name in others[:1])
        score += 2 * sum(_hints(name, ("direct",)) for name in others[1:])
        score += _hints(hidden, ("hid",)) - _hints(hidden, EMBEDDING_WORDS)
        network = {
            "n_step": X // D,
            "embedding_size": D,
            "hidden_size": H,
            "tied": not others,
            "direct": len(others) == 2,
        }
        yield score, roles, network


# Names and texts.


def _title(tensors: Mapping[str, Stored], model: str, words: Words, has_start: bool) -> str:
    """Return the layout in words."""
    if any(name.endswith("_raw") for name in tensors):
        return "an AWD-LSTM, as fastai and awd-lstm-lm save it"
    if has_start:
        return "a recurrent model with a learned initial state, as Stanza's character models"
    modules = {name.split(".")[0] for name in tensors}
    if modules == {"encoder", "rnn", "decoder"}:
        return "encoder, rnn and decoder, as in word_language_model and colorlessgreenRNNs"
    kind = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}[model]
    output = "nn.Linear" if words.decoder else "the embedding as the output matrix"
    return f"nn.Embedding, nn.{kind} and {output}"


def _natural(name: str) -> list[list[tuple[int, str]]]:
    """Return a key that sorts names with numbers in them by number, part by part.

    rnns.2 comes before rnns.10, and lstm before lstm2.
    """
    return [
        [
            (int(piece), "") if NUMBER.fullmatch(piece) else (-1, piece)
            for piece in NUMBER.split(part)
        ]
        for part in name.rstrip(".").split(".")
    ]


def _last_part(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()


def _hints(name: str, parts: Sequence[str]) -> int:
    """Return 1 if one of the `parts` is in the name, else 0."""
    return int(any(part in name.lower() for part in parts))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _shapes(tensors: Mapping[str, Stored]) -> str:
    return _listed([f"{name} {tensor}" for name, tensor in tensors.items()])


def _shown(tensors: Mapping[str, Stored]) -> str:
    if not tensors:
        return "are no tensors"
    return f"{'are' if len(tensors) > 1 else 'is'} {_shapes(tensors)}"
