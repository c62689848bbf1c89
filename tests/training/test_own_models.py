"""Custom models and cells: registering, saving, loading, and errors."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from cases import assert_trees_close
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models import describe_model, make_model
from jaxlm.models.adaptive_embedding import describe_embedding, make_embedding
from jaxlm.models.cells import Cell, ElmanCell, GRUCell, LSTMCell, MinGRUCell
from jaxlm.models.heads import describe_head, make_head
from jaxlm.models.windows import prepend_context

if TYPE_CHECKING:
    from decimal import Decimal

V = 11


class Leaky(Cell):
    """A cell with a constant."""

    gates = ("hidden",)

    def __init__(self, share):
        self.share = share

    def activations(self, carry, x_BG, u_BG):
        return {"hidden": jnp.tanh(x_BG + u_BG)}

    def update(self, carry, gates):
        return (self.share * carry[0] + (1 - self.share) * gates["hidden"],)


def tokens(batch=2, time=7, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, time)).astype(np.int32)


def random_params(model, scale=0.5):
    shapes = jax.eval_shape(lambda key: model.init(key, tokens()), jax.random.key(0))["params"]
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda a: jnp.float32(generator.normal(0, scale, a.shape)), shapes)


def small(kind, **settings):
    return kind(vocab_size=V, start_id=0, embedding_size=4, hidden_size=5, **settings)


# Cells


def test_cells_with_different_constants_differ():
    assert Leaky(0.1) == Leaky(0.1) and hash(Leaky(0.1)) == hash(Leaky(0.1))
    assert Leaky(0.1) != Leaky(0.9) and LSTMCell() == LSTMCell() != GRUCell()
    assert repr(Leaky(0.1)) == "Leaky(share=0.1)" and repr(LSTMCell()) == "LSTMCell()"
    scores = []
    for share in (0.1, 0.9):
        model = small(jaxlm.Recurrent, cell=Leaky(share))
        params = random_params(model)
        (found_BT,), _ = model.token_scores(
            params, tokens(), tokens(seed=1), model.initial_carry(2)
        )
        scores.append(np.asarray(found_BT))
    assert np.abs(scores[0] - scores[1]).max() > 0.01


@pytest.mark.parametrize("share", [[0.1], np.ones(3)])
def test_a_cell_that_cannot_be_hashed_is_an_error(registry, share):
    with pytest.raises(UserError, match=r"attribute `share` of Leaky is .*cannot be hashed"):
        jaxlm.register_cell("leaky", Leaky(share))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"weights": ("peephole",)}, "is not `elementwise`"),
        ({"weights": ("peephole",), "elementwise": True, "additive": True}, "exclude `additive`"),
        (
            {"weights": ("peephole",), "elementwise": True, "recurrent_bias": True},
            "exclude `recurrent_bias`",
        ),
    ],
)
def test_attributes_of_a_cell_that_exclude_each_other_are_errors(registry, attributes, message):
    cell = type("Other", (Leaky,), attributes)(0.1)
    with pytest.raises(UserError, match=message):
        jaxlm.register_cell("other", cell)


class SplitCell(Cell):
    """An LSTM's gates without a state c; x and u are split before they are added."""

    gates = ("input", "output")
    additive = True

    def activations(self, carry, x_BG, u_BG):
        parts = zip(*(jnp.split(array, 2, axis=-1) for array in (x_BG, u_BG)), strict=True)
        return dict(zip(self.gates, (jnp.tanh(x_BH + u_BH) for x_BH, u_BH in parts), strict=True))

    def update(self, carry, gates):
        return (0.5 * carry[0] + gates["input"] * gates["output"],)


class InputCell(Cell):
    """A cell without a matrix U that is not a ParallelCell: its step is not affine in h."""

    gates = ("hidden",)
    recurrent = False

    def activations(self, carry, x_BG, u_BG):
        return {"hidden": x_BG + u_BG}

    def update(self, carry, gates):
        return (jnp.tanh(carry[0] + gates["hidden"]),)


@pytest.mark.parametrize("cell", [SplitCell(), InputCell()], ids=["split", "input"])
def test_every_time_loop_gives_the_same_values_and_gradients(cell):
    results = []
    for time_loop in ("scan", "fused", "auto"):
        model = small(jaxlm.Recurrent, cell=cell, time_loop=time_loop)
        run = functools.partial(loss, model)
        results.append(jax.jit(jax.value_and_grad(run))(random_params(model)))
    for found in results[1:]:
        assert_trees_close(found, results[0], atol=1e-5, rtol=1e-5)


def loss(model, params, **options):
    weights_BT = jnp.full((2, 7), 0.5)
    arguments = tokens(), tokens(seed=1), weights_BT
    return model.apply({"params": params}, *arguments, method="objective", **options)[0]


@pytest.mark.parametrize("cell", [MinGRUCell(), ElmanCell(), GRUCell()])
def test_a_mogrifier_with_another_cell_is_an_error(cell):
    with pytest.raises(SettingError, match=r"`cell` \w+\(\): a mogrifier is an LSTM"):
        random_params(small(jaxlm.Mogrifier, cell=cell))


# Names and settings


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_a_recurrent_model_is_loaded_as_its_class(name):
    kind = getattr(jaxlm, name)
    for model in (small(kind), small(jaxlm.Recurrent, cell=kind(V).cell)):
        described, settings = describe_model(model)
        made = make_model(described, settings, V, 0)
        assert described == name.lower() and type(made) is kind and made.cell == model.cell
    assert describe_model(small(jaxlm.LSTM, cell=GRUCell()))[0] == "gru"
    mingru = small(jaxlm.Recurrent, cell=MinGRUCell())
    assert type(make_model(*describe_model(mingru), V, 0)) is jaxlm.Recurrent


class OwnRecurrent(jaxlm.Recurrent):
    """A recurrent model with an LSTM by default."""


class OwnLeaky(jaxlm.LSTM):
    """A recurrent model with another default cell."""

    cell: Cell = Leaky(0.5)


def test_a_cell_that_the_registered_class_does_not_have_is_an_error(registry, text, tmp_path):
    jaxlm.register_model("own", OwnRecurrent)
    sizes = len(text.vocabulary), text.vocabulary.start_id
    model = OwnRecurrent(*sizes, cell=GRUCell(), embedding_size=4, hidden_size=4)
    with pytest.raises(UserError, match=r"registered with LSTMCell\(\), not with GRUCell\(\)"):
        tiny_runs.fit(model, text, tmp_path / "run", steps=1)
    assert describe_model(OwnRecurrent(*sizes))[0] == "own"
    with pytest.raises(UserError, match=r"OwnLeaky is not registered.*jaxlm.register_model"):
        describe_model(OwnLeaky(*sizes))
    jaxlm.register_model("own-leaky", OwnLeaky)
    name, settings = describe_model(OwnLeaky(*sizes))
    assert make_model(name, settings, *sizes) == OwnLeaky(*sizes).clone(dtype=settings["dtype"])
    with pytest.raises(UserError, match=r"OwnLeaky is registered with Leaky\(share=0.5\)"):
        describe_model(OwnLeaky(*sizes, cell=Leaky(0.6)))


def test_names_of_models_and_cells_must_be_unique(registry):
    with pytest.raises(UserError, match=r"^the name 'nplm' is taken by the model NPLM$"):
        jaxlm.register_cell("nplm", Leaky(0.5))
    with pytest.raises(UserError, match=r"^the name 'lstm' is taken by the cell LSTMCell\(\)$"):
        jaxlm.register_cell("lstm", Leaky(0.5))


class Nested(jaxlm.NPLM):
    """A model with a setting of tuples of tuples."""

    groups: tuple[tuple[int, ...], ...] = ((1, 2), (3,))
    """Groups of words."""


@pytest.mark.full
def test_lists_become_tuples(registry, text, tmp_path):
    jaxlm.register_model("nested", Nested)
    model = tiny_runs.make(Nested, text, groups=[[4], [5, 6]])
    tiny_runs.fit(model, text, tmp_path / "run", steps=1, batch_size=2, bptt=4)
    loaded = jaxlm.load(tmp_path / "run").model
    assert loaded.groups == model.groups == ((4,), (5, 6))
    lstm = jaxlm.LSTM(V, 0, layer_sizes=[2, 4], softmax="adaptive", cutoffs=[3, 6])
    params = random_params(lstm)
    hash(lstm)
    log_probs_BV, _ = lstm.next_log_probs(params, tokens())
    assert_allclose(np.exp(log_probs_BV).sum(1), 1, atol=1e-5)


class Undecorated(jaxlm.NGram):
    """An n-gram with a setting that is not a field."""

    slope: int = 3


class Counted(jaxlm.LanguageModel):
    """A model that is trained by counting, but is not an n-gram."""

    trained_by = "counting"
    window = context_size = None
    tokens_in_chunk = initial_carry = token_scores = next_log_probs = summary = None


class Learned(Counted):
    """A model that is trained by gradient, but is not a NeuralModel."""

    trained_by = "gradient"


class Guessed(Counted):
    """A model with an unknown method of training."""

    trained_by = "guessing"


class Hidden(jaxlm.NPLM):
    """A model whose field has a type that only type checkers know."""

    slope: "Decimal | None" = None


class Function(jaxlm.NPLM):
    """A model with a function as a setting."""

    activation: Callable = jnp.tanh


class MaybeFunction(jaxlm.NPLM):
    """A model with an optional function as a setting, which no flag can give."""

    activation: Callable | None = None


class Drawn(jaxlm.NPLM):
    """A model with a default that is created for each instance."""

    slopes: tuple[float, ...] = dataclasses.field(default_factory=tuple)


class Infinite(jaxlm.NPLM):
    """A model with a default that is not equal to itself."""

    slope: float = float("nan")


REFUSED = {
    Undecorated: r"Undecorated cannot be registered: `slope` is no field.*dataclass\(frozen=True\)",
    jaxlm.NeuralModel: r"NeuralModel cannot be trained: it lacks encode, initial_carry, layers",
    Counted: r"trained by counting must be a subclass of jaxlm\.NGram",
    Learned: r"trained by gradient must be a subclass of jaxlm\.NeuralModel",
    Guessed: r"`trained_by` is 'guessing', not 'gradient' or 'counting'",
    Hidden: r"Hidden cannot be registered: the type of a field .*'Decimal' is not defined",
    Function: r"the field `activation` is .*no flag for it",
    MaybeFunction: r"the field `activation` is .*no flag for it",
    Drawn: r"Drawn cannot be registered: the field `slopes` needs a plain default",
    Infinite: r"the field `slope` of Infinite is nan, which config\.json cannot keep",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_class_that_cannot_work_is_not_registered(kind, registry):
    with pytest.raises(UserError, match=REFUSED[kind]):
        jaxlm.register_model("mine", kind)
    assert "mine" not in jaxlm.MODELS


@pytest.mark.parametrize("kind", [Counted, Learned, Guessed])
def test_a_model_that_cannot_be_trained_is_an_error(kind, text):
    model = object.__new__(kind)
    with pytest.raises(UserError, match=REFUSED[kind]):
        tiny_runs.fit(model, text)
    with pytest.raises(UserError, match="str is not a LanguageModel"):
        tiny_runs.fit("nplm", text)


@dataclasses.dataclass(frozen=True)
class DecoratedNGram(jaxlm.NGram):
    """An n-gram with an additional setting and a constant."""

    slope: float = 3.0
    """Slope."""
    LIMIT: ClassVar[int] = 4


def test_a_class_with_settings_and_constants_is_registered(registry):
    jaxlm.register_model("decorated", DecoratedNGram)
    assert jaxlm.MODELS["decorated"].settings["slope"].default == 3.0


def test_a_setting_that_cannot_be_saved_is_an_error_before_training(text, tmp_path):
    model = tiny_runs.make(jaxlm.NPLM, text, init_scale=np.zeros(2))
    with pytest.raises(UserError, match=r"`init_scale` of NPLM is array.*config\.json cannot keep"):
        tiny_runs.fit(model, text, tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


# Models with other logits, embeddings or carries than the library's models


class Doubled(jaxlm.NPLM):
    """A model that doubles the logits."""

    def logits(self, hidden_BTF):
        return 2 * super().logits(hidden_BTF)


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_a_model_with_custom_logits_trains_the_distribution_that_it_predicts(softmax):
    model = small(Doubled, softmax=softmax, sampled_words=3)
    params = random_params(model)
    carry = model.initial_carry(2)
    (scores_BT,), _ = model.token_scores(params, tokens(), tokens(seed=1), carry)
    (exact_BT, *_), _ = model.token_scores(params, tokens(), tokens(seed=1), carry, True)
    assert_allclose(scores_BT, exact_BT, atol=1e-5)
    training = loss(model, params, deterministic=False)
    assert_allclose(training, -0.5 * exact_BT.sum(), rtol=1e-5)
    assert not [note for note in model.notes() if "approximate" in note]
    with pytest.raises(UserError, match=r"unknown positions 'lats'.*did you mean 'last'"):
        model.apply({"params": params}, tokens(), positions="lats")


class Average(jaxlm.NeuralModel):
    """The mean of the last n word vectors. Before the text the vectors are zeros."""

    n_step: int = 5
    """Number of words of context."""

    def setup(self):
        self.embedding = make_embedding(self, self.array_dtype)
        self.output = make_head(self)

    @property
    def window(self):
        return self.n_step

    def initial_carry(self, batch_size):
        return jnp.zeros((batch_size, self.n_step - 1, self.embedding_size))

    def encode(self, tokens_BT, carry, last, deterministic, length):
        time = tokens_BT.shape[1]
        seen_BSD, carry = prepend_context(self.embedding(tokens_BT), carry, length)
        h_BTD = sum(seen_BSD[:, start : start + time] for start in range(self.n_step))
        return (h_BTD[:, -1:] if last else h_BTD) / self.n_step, carry

    def layers(self):
        return describe_embedding(self) | describe_head(self, self.embedding_size)


def test_scores_with_a_custom_carry_do_not_depend_on_batch_size():
    model = Average(V, 0, embedding_size=4)
    params, (ids,) = random_params(model, 2.0), tokens(1, 41, seed=4)
    expected = Scorer(model).stream(params, ids, batch_size=1).log_prob
    for batch_size in (2, 7, 41):
        found = Scorer(model).stream(params, ids, batch_size=batch_size).log_prob
        assert_allclose(found, expected, atol=1e-5)


def test_the_dropout_of_a_custom_model_is_before_the_output():
    model = Average(V, 0, embedding_size=4, dropout=0.5)
    params = random_params(model)
    hidden_BTF, _ = model.apply({"params": params}, tokens())
    rngs = {"dropout": jax.random.key(1)}
    dropped_BTF, _ = model.apply({"params": params}, tokens(), deterministic=False, rngs=rngs)
    kept_BTF = np.asarray(dropped_BTF) != 0
    assert 0.2 < kept_BTF.mean() < 0.8
    assert_allclose(dropped_BTF, np.where(kept_BTF, 2 * hidden_BTF, 0), rtol=1e-4)
    plain_BTF, _ = model.clone(dropout=0.0).apply({"params": params}, tokens(), deterministic=False)
    assert_array_equal(plain_BTF, hidden_BTF)
