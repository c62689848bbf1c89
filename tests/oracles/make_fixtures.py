"""Write PyTorch's results into this folder: an .npz file for each model, one for the optimizers.

    python tests/oracles/make_fixtures.py

Needs torch 2.13.0 (CPU) and NumPy, but not JAX or jaxlm, and takes seconds. The repository holds
the fixtures, so the tests that read them do not need torch.

Weights are multiples of 1/1024. They and the sums of two biases are exact in float32, so jaxlm and
PyTorch start from the same numbers. PyTorch computes in float64, so all differences are rounding
errors of jaxlm. A file holds

    weight/NAME, grad/NAME   parameters by their PyTorch names; gradients of the summed loss
    inputs, targets          int32 [B, T]; targets [B, 1] if only the last word is predicted
    logits, loss             float64 [B, T, V]; summed cross-entropy in nats
    carry_in/X, carry_out/X  h and c, float [L, B, H]; or tokens, int32 [B, N-1]
    carry_grad/X             gradients with respect to carry_in/X
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).parent
BATCH, TIME, VOCAB = 3, 6, 23

# 我 喜欢 玩具, 我 爱 爸爸, 我 讨厌 挨打: two words are inputs, and the third is the target.
TOY_INPUTS_BT = torch.tensor([[0, 1], [0, 3], [0, 5]])
TOY_TARGETS_BT = torch.tensor([[2], [4], [6]])


class LectureNPLM(nn.Module):
    """The lecture's neural probabilistic language model."""

    def __init__(self, vocab_size, n_step, embedding_size, hidden_size):
        super().__init__()
        self.C = nn.Embedding(vocab_size, embedding_size)
        self.linear1 = nn.Linear(n_step * embedding_size, hidden_size)
        self.linear2 = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens_BN):
        x_BX = self.C(tokens_BN).flatten(1)
        return self.linear2(torch.tanh(self.linear1(x_BX)))


class LectureLSTM(nn.Module):
    """The lecture's LSTM: the output of the last step predicts the next word."""

    def __init__(self, vocab_size, embedding_size, hidden_size):
        super().__init__()
        self.C = nn.Embedding(vocab_size, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens_BT):
        h_BTH, carry = self.lstm(self.C(tokens_BT))
        return self.linear(h_BTH[:, -1, :]), carry


class DirectNPLM(nn.Module):
    """Bengio et al. 2003 with W: y = b + W x + U tanh(d + H x), at every window of a sequence."""

    def __init__(self, vocab_size, n_step, embedding_size, hidden_size):
        super().__init__()
        self.n_step = n_step
        self.C = nn.Embedding(vocab_size, embedding_size)
        self.H = nn.Parameter(torch.empty(hidden_size, n_step * embedding_size))
        self.d = nn.Parameter(torch.empty(hidden_size))
        self.W = nn.Parameter(torch.empty(vocab_size, n_step * embedding_size))
        self.U = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.b = nn.Parameter(torch.empty(vocab_size))

    def forward(self, tokens_BS):
        x_BTX = self.C(tokens_BS.unfold(1, self.n_step, 1)).flatten(2)
        return self.b + x_BTX @ self.W.T + torch.tanh(self.d + x_BTX @ self.H.T) @ self.U.T


class RecurrentLM(nn.Module):
    """Embedding, two layers of nn.RNN, nn.GRU or nn.LSTM, and a linear output."""

    def __init__(self, kind, vocab_size, embedding_size, hidden_size, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.rnn = kind(embedding_size, hidden_size, num_layers=2, batch_first=True)
        self.linear = nn.Linear(hidden_size, vocab_size)
        if tied:
            self.linear.weight = self.embedding.weight

    def forward(self, tokens_BT, carry):
        h_BTH, carry = self.rnn(self.embedding(tokens_BT), carry)
        return self.linear(h_BTH), carry


def draw(shape, generator):
    """Multiples of 1/1024 between -1/2 and 1/2, float64."""
    return torch.randint(-512, 513, shape, generator=generator).double() / 1024


def randomised(module, generator):
    """Return `module` in float64 with random parameters and random biases."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(draw(parameter.shape, generator))
    return module


def random_tokens(shape, generator):
    return torch.randint(VOCAB, shape, generator=generator)


def write(name, module, inputs_BT, targets_BT, logits_BTV, carries):
    """Back-propagate the summed loss, and write the fixture.

    Args:
      name: name of the file.
      module: the PyTorch model, whose parameters and gradients are written.
      inputs_BT: input tokens.
      targets_BT: target tokens.
      logits_BTV: the module's logits.
      carries: initial and final carry, by key in the file.
    """
    loss = cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    loss.backward()
    arrays = {
        "inputs": inputs_BT.numpy().astype(np.int32),
        "targets": targets_BT.numpy().astype(np.int32),
        "logits": logits_BTV.detach().numpy(),
        "loss": loss.detach().numpy(),
    }
    # A tied weight has two names. named_parameters gives the first name, that of the embedding.
    for key, parameter in module.named_parameters():
        weight = parameter.detach().numpy()
        arrays[f"weight/{key}"] = weight.astype(np.float32)
        assert np.array_equal(arrays[f"weight/{key}"], weight), f"{key} is not exact in float32"
        arrays[f"grad/{key}"] = parameter.grad.numpy()
    for key, carry in carries.items():
        if not carry.is_floating_point():
            arrays[key] = carry.numpy().astype(np.int32)
            continue
        arrays[key] = carry.detach().numpy()
        if key.startswith("carry_in/"):
            arrays[key.replace("carry_in", "carry_grad")] = carry.grad.numpy()
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def lecture_nplm(name, generator):
    module = randomised(LectureNPLM(7, 2, 2, 2), generator)
    logits_BTV = module(TOY_INPUTS_BT)[:, None]
    write(name, module, TOY_INPUTS_BT, TOY_TARGETS_BT, logits_BTV, {})


def lecture_lstm(name, generator):
    module = randomised(LectureLSTM(7, 2, 2), generator)
    logits_BV, (h, c) = module(TOY_INPUTS_BT)
    carries = {"carry_out/h": h, "carry_out/c": c}
    write(name, module, TOY_INPUTS_BT, TOY_TARGETS_BT, logits_BV[:, None], carries)


def direct_nplm(name, generator):
    n_step = 3
    module = randomised(DirectNPLM(VOCAB, n_step, 4, 5), generator)
    tokens_BS = random_tokens((BATCH, n_step - 1 + TIME), generator)
    targets_BT = random_tokens((BATCH, TIME), generator)
    carries = {
        "carry_in/tokens": tokens_BS[:, : n_step - 1],
        "carry_out/tokens": tokens_BS[:, -(n_step - 1) :],
    }
    logits_BTV = module(tokens_BS)
    write(name, module, tokens_BS[:, n_step - 1 :], targets_BT, logits_BTV, carries)


def recurrent(name, generator, kind, embedding_size, hidden_size, tied=False):
    module = randomised(RecurrentLM(kind, VOCAB, embedding_size, hidden_size, tied), generator)
    tokens_BT = random_tokens((BATCH, TIME), generator)
    targets_BT = random_tokens((BATCH, TIME), generator)
    arrays = ("h", "c") if kind is nn.LSTM else ("h",)
    before = [draw((2, BATCH, hidden_size), generator).requires_grad_() for _ in arrays]
    logits_BTV, after = module(tokens_BT, tuple(before) if kind is nn.LSTM else before[0])
    after = after if kind is nn.LSTM else (after,)
    carries = {f"carry_in/{array}": value for array, value in zip(arrays, before, strict=True)}
    carries |= {f"carry_out/{array}": value for array, value in zip(arrays, after, strict=True)}
    write(name, module, tokens_BT, targets_BT, logits_BTV, carries)


# Each case: the name in jaxlm, PyTorch's class, and the same settings in the words of both.
OPTIMIZERS = [
    ("sgd", torch.optim.SGD, {}, {"weight_decay": 0.01}),
    ("momentum", torch.optim.SGD, {"momentum": 0.8}, {"beta1": 0.8, "weight_decay": 0.01}),
    ("adam", torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}, {"beta1": 0.8, "beta2": 0.95}),
    ("adam", torch.optim.Adam, {}, {"weight_decay": 0.01}),
    ("adamw", torch.optim.AdamW, {"eps": 1e-3}, {"weight_decay": 0.1}),
    # A momentum_decay of 1e6 makes PyTorch's momentum constant, as in Dozat's equations.
    ("nadam", torch.optim.NAdam, {"momentum_decay": 1e6, "eps": 1e-3}, {"weight_decay": 0.01}),
    ("rmsprop", torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-2}, {"beta2": 0.9}),
    ("rmsprop", torch.optim.RMSprop, {"alpha": 0.0, "eps": 1e-8}, {"beta2": 0.0}),
    ("adagrad", torch.optim.Adagrad, {"eps": 1e-2}, {"weight_decay": 0.01}),
]


def optimizers(generator, steps=27):
    """Write the parameters after each of 27 steps of every optimizer, from the same gradients.

    File keys: options (JSON: the name and jaxlm's settings of each case), start/X, gradient/X
    [step, ...], and INDEX/X [step, ...], the parameter after each step of case INDEX.
    """
    start = {"kernel": draw((3, 4), generator), "bias": draw((4,), generator)}
    # Bias gradients are small enough for epsilon to matter. PyTorch would decay a bias too.
    scales = {"kernel": 1.0, "bias": 1e-6}
    gradients = {
        name: scales[name] * draw((steps, *value.shape), generator) for name, value in start.items()
    }
    arrays = {f"start/{name}": value.numpy() for name, value in start.items()}
    arrays |= {f"gradient/{name}": value.numpy() for name, value in gradients.items()}
    options = []
    for index, (name, kind, theirs, ours) in enumerate(OPTIMIZERS):
        params = {key: nn.Parameter(value.clone()) for key, value in start.items()}
        decay = ours.get("weight_decay", 0.0)
        groups = [
            {"params": [params["kernel"]], "weight_decay": decay},
            {"params": [params["bias"]], "weight_decay": 0.0},
        ]
        optimizer = kind(groups, lr=0.05, **theirs)
        after = {key: [] for key in params}
        for step in range(steps):
            for key, value in params.items():
                value.grad = gradients[key][step].clone()
            optimizer.step()
            for key, value in params.items():
                after[key].append(value.detach().clone())
        arrays |= {f"{index}/{key}": torch.stack(values).numpy() for key, values in after.items()}
        epsilon = {"epsilon": theirs["eps"]} if "eps" in theirs else {}
        options.append([name, {"lr": 0.05, **ours, **epsilon}])
    np.savez_compressed(FOLDER / "optimizers.npz", options=json.dumps(options), **arrays)


def main():
    generator = torch.Generator().manual_seed(2003)
    lecture_nplm("lecture_nplm", generator)
    lecture_lstm("lecture_lstm", generator)
    direct_nplm("direct_nplm", generator)
    recurrent("rnn", generator, nn.RNN, 5, 7)
    recurrent("gru", generator, nn.GRU, 5, 7)
    recurrent("lstm", generator, nn.LSTM, 5, 7)
    recurrent("tied_lstm", generator, nn.LSTM, 6, 6, tied=True)
    optimizers(generator)


if __name__ == "__main__":
    main()
