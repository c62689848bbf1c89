"""Files of PyTorch in each layout, with random weights: jaxlm and torch compute the same.

Needs PyTorch: pip install torch.
"""

import functools
import itertools
import json
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.errors import UserError
from jaxlm.interop.formats import read_run, write_run
from jaxlm.models.torch_names import to_torch

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
nn = torch.nn
pytestmark = pytest.mark.full

V = 13
WORDS = [f"w{index}" for index in range(V - 2)] + ["<unk>", "<eos>"]


class Net(nn.Module):
    """A recurrent model under names of its own: embedding, recurrent layers, output layer.

    Args:
      names: names of the three modules.
      kind: a recurrent module of torch.nn.
      D, H: embedding size and units.
      tied: whether the output layer has the matrix of the embedding.
      bias: whether the output layer has a bias.
    """

    def __init__(self, names, kind, D, H, tied=False, bias=True, **options):
        super().__init__()
        self.names = names
        embedding, output = nn.Embedding(V, D), nn.Linear(H, V, bias=bias)
        if tied:
            output.weight = embedding.weight
        for name, module in zip(
            names, (embedding, kind(D, H, batch_first=True, **options), output), strict=True
        ):
            setattr(self, name, module)

    def forward(self, tokens_BT, carry):
        embedding, recurrent, output = (getattr(self, name) for name in self.names)
        h_BTH, carry = recurrent(embedding(tokens_BT), carry)
        return output(h_BTH), carry


class Projected(Net):
    """A tied model whose features are projected to the size of the embedding."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        D = self.words.weight.shape[1]
        self.out = nn.Linear(D, V)
        self.out.weight = self.words.weight
        self.proj = nn.Linear(self.memory.hidden_size, D, bias=False)

    def forward(self, tokens_BT, carry):
        h_BTH, carry = self.memory(self.words(tokens_BT), carry)
        return self.out(self.proj(h_BTH)), carry


class Cells(nn.Module):
    """Two GRU cells, called step by step."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(V, 4)
        self.cells = nn.ModuleList([nn.GRUCell(4, 5), nn.GRUCell(5, 5)])
        self.head = nn.Linear(5, V)

    def forward(self, tokens_BT, carry):
        batch, time = tokens_BT.shape
        h_LBH = [torch.zeros(batch, 5)] * 2 if carry is None else list(carry)
        outputs = []
        for step in range(time):
            x_BD = self.table(tokens_BT[:, step])
            for index, cell in enumerate(self.cells):
                x_BD = h_LBH[index] = cell(x_BD, h_LBH[index])
            outputs.append(x_BD)
        return self.head(torch.stack(outputs, 1)), torch.stack(h_LBH)


class WeightDropped(nn.Module):
    """An LSTM whose parameter weight_hh_l0_raw replaces weight_hh_l0, as in fastai 1."""

    def __init__(self, inputs, units):
        super().__init__()
        self.module = nn.LSTM(inputs, units, batch_first=True)
        raw = self.module.weight_hh_l0
        self.weight_hh_l0_raw = nn.Parameter(raw.detach().clone())
        del self.module.weight_hh_l0
        self.module.register_buffer("weight_hh_l0", raw.detach().clone())

    def forward(self, x_BTD, carry):
        m = self.module
        weights = m.weight_ih_l0, self.weight_hh_l0_raw, m.bias_ih_l0, m.bias_hh_l0
        if carry is None:
            zeros = torch.zeros(1, len(x_BTD), m.hidden_size)
            carry = zeros, zeros
        out = torch.lstm(x_BTD, carry, weights, True, 1, 0.0, False, False, True)
        return out[0], (out[1], out[2])


class AWD(nn.Module):
    """fastai's AWD-LSTM: encoder and its copy, three layers of two sizes, a tied decoder."""

    def __init__(self):
        super().__init__()
        encoder = nn.Module()
        encoder.encoder = nn.Embedding(V, 4)
        encoder.encoder_dp = nn.Module()
        encoder.encoder_dp.emb = encoder.encoder
        sizes = (4, 6, 6, 4)
        encoder.rnns = nn.ModuleList(
            WeightDropped(one, two) for one, two in itertools.pairwise(sizes)
        )
        decoder = nn.Module()
        decoder.decoder = nn.Linear(4, V)
        decoder.decoder.weight = encoder.encoder.weight
        self.add_module("0", encoder)
        self.add_module("1", decoder)

    def forward(self, tokens_BT, carry):
        encoder, decoder = getattr(self, "0"), getattr(self, "1")
        x_BTD, after = encoder.encoder(tokens_BT), []
        for index, layer in enumerate(encoder.rnns):
            x_BTD, state = layer(x_BTD, None if carry is None else carry[index])
            after.append(state)
        return decoder.decoder(x_BTD), after


class Stanza(nn.Module):
    """Stanza's character model, with its learned initial state."""

    def __init__(self, layers=2):
        super().__init__()
        self.char_emb = nn.Embedding(V, 5)
        self.charlstm = nn.Module()
        self.charlstm.lstm = nn.LSTM(5, 6, layers, batch_first=True)
        self.charlstm_h_init = nn.Parameter(torch.randn(layers, 1, 6))
        self.charlstm_c_init = nn.Parameter(torch.randn(layers, 1, 6))
        self.decoder = nn.Linear(6, V)

    def forward(self, tokens_BT, carry):
        if carry is None:
            starts = self.charlstm_h_init, self.charlstm_c_init
            carry = tuple(start.expand(-1, len(tokens_BT), -1).contiguous() for start in starts)
        h_BTH, carry = self.charlstm.lstm(self.char_emb(tokens_BT), carry)
        return self.decoder(h_BTH), carry


class Bengio(nn.Module):
    """An NPLM over windows of three words; words before the text are <eos>."""

    def __init__(self, direct=False):
        super().__init__()
        self.C = nn.Embedding(V, 4)
        self.H = nn.Linear(12, 5)
        self.U = nn.Linear(5, V)
        self.direct = nn.Linear(12, V, bias=False) if direct else None

    def forward(self, tokens_BT, carry):
        batch = len(tokens_BT)
        before_BN = torch.full((batch, 2), V - 1) if carry is None else carry
        seen_BS = torch.cat([before_BN, tokens_BT], 1)
        x_BTX = self.C(seen_BS).unfold(1, 3, 1).transpose(2, 3).flatten(2)
        logits = self.U(torch.tanh(self.H(x_BTX)))
        if self.direct is not None:
            logits = logits + self.direct(x_BTX)
        return logits, seen_BS[:, -2:]


PLAIN = ("words", "memory", "out")
LAYOUTS = {
    "word_language_model": lambda: Net(("encoder", "rnn", "decoder"), nn.LSTM, 5, 6, num_layers=2),
    "word_language_model, tied": lambda: Net(
        ("encoder", "rnn", "decoder"), nn.LSTM, 6, 6, tied=True, num_layers=2
    ),
    # 2 x 650 with embeddings of 650, in small.
    "gru": lambda: Net(PLAIN, nn.GRU, 4, 7),
    "gru without biases": lambda: Net(PLAIN, nn.GRU, 4, 7, bias=False),
    "rnn": lambda: Net(PLAIN, nn.RNN, 4, 5, num_layers=3),
    "lstm without a bias of the output": lambda: Net(PLAIN, nn.LSTM, 5, 5, bias=False),
    "tied without a bias": lambda: Net(PLAIN, nn.LSTM, 5, 5, True, False),
    "projected": lambda: Projected(PLAIN, nn.LSTM, 4, 7),
    "as many words as features": lambda: Net(PLAIN, nn.LSTM, V, V),
    "cells": Cells,
    "fastai": AWD,
    "nplm": Bengio,
    "nplm, direct": lambda: Bengio(direct=True),
    "stanza": Stanza,
}


def save(name, net, folder):
    """Save a model as its program does; return the file, and the options to read it."""
    path, vocabulary = folder / "x.pt", folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    if name == "stanza":
        units = ["<PAD>", "<UNK>", "<EMPTY>", "<ROOT>", " ", "\n", *"abcdefg"]
        vocab = {"lang": "", "idx": 0, "cutoff": 0, "lower": False, "_id2unit": units}
        vocab["_unit2id"] = {unit: index for index, unit in enumerate(units)}
        torch.save(
            {
                "vocab": vocab,
                "args": {"char_emb_dim": 5, "cuda": False},
                "state_dict": net.state_dict(),
                "pad": False,
                "is_forward_lm": True,
            },
            path,
        )
        return path, {}
    content = net.state_dict()
    if name == "fastai":
        content = {"model": content, "opt": {"state": {}, "param_groups": []}}
    torch.save(content, path)
    return path, {"vocabulary": vocabulary}


@functools.cache
def made(name):
    """Return a model of PyTorch with random weights."""
    torch.manual_seed(sorted(LAYOUTS).index(name))
    net = LAYOUTS[name]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.5)
    return net


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_carry_and_gradients_equal_those_of_torch(name, tmp_path):
    net, told = made(name), []
    path, options = save(name, net, tmp_path)
    run = read_run(path, tmp_path / "run", tell=told.append, **options)
    assert told[0].startswith("layout: ")
    tokens_BT = np.random.default_rng(1).integers(0, V, (3, 12)).astype(np.int32)
    targets_BT = np.random.default_rng(2).integers(0, V, (3, 12))
    theirs, carry = [], None
    for chunk in np.split(tokens_BT, 3, axis=1):
        logits_BTV, carry = net(torch.from_numpy(chunk).long(), carry)
        theirs.append(logits_BTV)
    theirs_BTV = torch.cat(theirs, 1)
    targets_N = torch.from_numpy(targets_BT).flatten()
    loss = nn.functional.cross_entropy(theirs_BTV.flatten(0, 1), targets_N)
    net.zero_grad()
    loss.backward()
    model = run.model

    def ours(params):
        carry, chunks = model.initial_carry(3), []
        for chunk in np.split(tokens_BT, 3, axis=1):
            hidden_BTF, carry = model.apply({"params": params}, chunk, carry)
            chunks.append(model.apply({"params": params}, hidden_BTF, method="logits"))
        logits_BTV = jnp.concatenate(chunks, 1)
        log_probs_BTV = jax.nn.log_softmax(logits_BTV)
        nll_BT1 = -jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)
        return nll_BT1.mean(), (logits_BTV, carry)

    (found, (logits_BTV, last)), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(
        run.params
    )
    assert_allclose(logits_BTV, theirs_BTV.detach().numpy(), atol=1e-5, rtol=1e-5)
    for our_state, their_state in zip(jax.tree.leaves(last), states(carry), strict=True):
        assert_allclose(our_state, their_state, atol=1e-5, rtol=1e-5)
    assert_allclose(found, loss.item(), rtol=1e-5)
    sources = sources_of(told)
    gradients = to_torch(model, gradient, with_start=True)
    for ours_name, array in gradients.items():
        source, _, layer = sources[ours_name].partition("[")
        if source == "zeros" or (ours_name.find("bias_hh") > 0 and model.cell.additive):
            continue
        grad = parameter_gradient(net, source)
        grad = grad[int(layer.rstrip("]"))].reshape(array.shape) if layer else grad
        assert_allclose(array, grad, atol=1e-4, rtol=1e-4, err_msg=ours_name)
    assert {source.partition("[")[0] for source in sources.values()} - {"zeros"} <= set(
        net.state_dict()
    )


def states(carry):
    """Return the arrays of a carry of torch in jaxlm's order: h, or h and c, of each layer."""
    if isinstance(carry, torch.Tensor) and not carry.is_floating_point():
        return [carry.numpy()]
    if isinstance(carry, torch.Tensor):
        return list(carry.detach().numpy())
    if isinstance(carry, tuple):
        carry = zip(*carry, strict=True)
    layers = [layer if isinstance(layer, tuple) else (layer,) for layer in carry]
    return [state.detach().squeeze(0).numpy() for layer in layers for state in layer]


def sources_of(told):
    """Return the tensor of the file for each tensor of jaxlm, from the lines that were told."""
    lines = [line.split("<-") for line in told if " <- " in line]
    return {ours.strip(): theirs.split()[0] for ours, theirs in lines}


def parameter_gradient(net, name):
    """Return the gradient of a parameter by its name in the state_dict, also of a tied one."""
    parameters = dict(net.named_parameters(remove_duplicate=False))
    return parameters[name].grad.numpy()


def test_what_was_found_and_assumed_is_told(tmp_path):
    def told(name):
        lines = []
        path, options = save(name, made(name), tmp_path)
        read_run(path, tell=lines.append, **options)
        return " ".join(" ".join(lines).split())

    assert "encoder.weight <- words.weight [13, 4]" in told("rnn")
    assert "tanh is assumed" in told("rnn")
    fastai = told("fastai")
    assert "rnns.1.weight_hh_l0 <- 0.rnns.1.weight_hh_l0_raw [24, 6]" in fastai
    assert "0.encoder_dp.emb.weight has the numbers of 0.encoder.weight" in fastai
    stanza = told("stanza")
    assert "start.1.c <- charlstm_c_init[1] [2, 1, 6]" in stanza
    assert "3 tokens are no single character, and in no text: '<PAD>' '<EMPTY>' '<ROOT>'" in stanza
    assert "<eos> ends every line" in told("gru") and "unknown tokens become <unk>" in told("gru")
    assert "decoder.bias <- zeros" in told("tied without a bias")


@pytest.mark.parametrize(
    ("dtype", "zip_file"),
    [("float16", True), ("bfloat16", False), ("float64", True), ("float64", False)],
)
def test_other_dtypes_and_old_files_are_read(zip_file, dtype, tmp_path):
    net, told = made("gru"), []
    path, options = save("gru", net, tmp_path)
    state = {
        f"module.{name}": tensor.to(getattr(torch, dtype))
        for name, tensor in net.state_dict().items()
    }
    torch.save({"epoch": 3, "model": state}, path, _use_new_zipfile_serialization=zip_file)
    run = read_run(path, tell=told.append, **options)
    assert f"note: {dtype} became float32" in told
    expected = state["module.words.weight"].float().numpy()
    np.testing.assert_array_equal(run.params["embedding"]["embedding"], expected)


class Touch:
    """An object whose pickle would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def attack(save_file, tmp_path):
    """Read a file that was saved by `save_file(path)`; return the error's one line."""
    path = tmp_path / "x.pt"
    save_file(path)
    with pytest.raises(UserError) as caught:
        read_run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zip_file", [True, False])
def test_nothing_of_a_file_is_executed(zip_file, tmp_path):
    content = {"state_dict": made("gru").state_dict(), "x": Touch(tmp_path / "touched")}
    options = {"_use_new_zipfile_serialization": zip_file}
    line = attack(lambda path: torch.save(content, path, **options), tmp_path)
    assert "needs the code of" in line and "open" in line
    assert not (tmp_path / "touched").exists()


def test_a_whole_module_is_refused_with_the_way_out(tmp_path):
    line = attack(lambda path: torch.save(made("gru"), path), tmp_path)
    assert "needs the code of" in line and ".Net" in line and ".state_dict(), 'weights.pt')" in line


def test_a_file_of_flair_is_refused_with_the_way_out(tmp_path, monkeypatch):
    module = types.ModuleType("flair.data")
    dictionary = type("Dictionary", (), {"__module__": "flair.data"})
    module.Dictionary = dictionary
    monkeypatch.setitem(sys.modules, "flair", types.ModuleType("flair"))
    monkeypatch.setitem(sys.modules, "flair.data", module)
    content = {"state_dict": made("word_language_model").state_dict(), "dictionary": dictionary()}
    line = attack(lambda path: torch.save(content, path), tmp_path)
    assert "needs the code of flair.data.Dictionary" in line
    assert 'weights_only=False)["state_dict"]' in line


def test_claims_without_numbers_are_refused(tmp_path):
    state = made("gru").state_dict()

    def changed(**tensors):
        return attack(lambda path: torch.save(state | tensors, path), tmp_path)

    wide = torch.zeros(1).expand(10**9, 10**6)
    assert "more numbers than the file holds" in changed(**{"words.weight": wide})
    assert "dtype int64" in changed(count=torch.zeros(2, dtype=torch.int64))
    sparse = torch.zeros(3, 3).to_sparse()
    assert "is torch.sparse_coo" in changed(sparse=sparse)
    line = attack(lambda path: torch.save({"a": state, "b": state}, path), tmp_path)
    assert "weights in several entries, a, b" in line
    assert "holds no state_dict" in attack(lambda path: torch.save([1, 2], path), tmp_path)
    assert "is a damaged .pt file" in attack(lambda path: path.write_bytes(b"x" * 99), tmp_path)


def test_compressed_entries_are_refused(tmp_path):
    def save_bomb(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", b"\0" * 10**6)

    assert "larger than the file holds" in attack(save_bomb, tmp_path)


def test_models_of_stanza_that_jaxlm_cannot_run_are_refused(tmp_path):
    path, _ = save("stanza", made("stanza"), tmp_path)
    content = torch.load(path, weights_only=True)

    def changed(**entries):
        return attack(lambda path: torch.save(content | entries, path), tmp_path)

    assert "reads text from right to left" in changed(is_forward_lm=False)
    assert "has no list _id2unit" in changed(vocab={"_id2unit": 3})
    units = content["vocab"]["_id2unit"][:-1]
    assert "lists 12 tokens, and the embedding has 13 rows" in changed(vocab={"_id2unit": units})
    assert "lower-cased" in changed(vocab=content["vocab"] | {"lower": True})


def test_a_run_is_written_as_pt_and_read_back(tmp_path):
    path, _ = save("stanza", made("stanza"), tmp_path)
    run = read_run(path, tmp_path / "run", tell=lambda line: None)
    write_run(run, tmp_path / "y.pt")
    content = torch.load(tmp_path / "y.pt", weights_only=True)
    assert json.loads(content["jaxlm_config"])["network"]["learned_start"] is True
    again = read_run(tmp_path / "y.pt", tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    assert again.vocabulary == run.vocabulary and again.protocol == run.protocol
