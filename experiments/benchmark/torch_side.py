"""PyTorch's side of the benchmark: nn.LSTM, nn.GRU, nn.RNN, nn.Linear, cross-entropy and Adam.

Adam is fused, and time is the first axis, the fastest layout of nn.LSTM. A GPU uses cuDNN with TF32
allowed. bfloat16 is autocast, as in PyTorch's documentation.
"""

from typing import Any

import torch
from shapes import STREAMS, WORDS
from torch import nn
from torch.nn import functional
from wire import Work, serve

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
KINDS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """Embedding, layers, output."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        size = shape["hidden_size"]
        self.embedding = nn.Embedding(shape["vocab_size"], shape["embedding_size"])
        self.layers = KINDS[shape["model"]](shape["embedding_size"], size, shape["num_layers"])
        self.output = nn.Linear(size, shape["vocab_size"])

    def forward(self, tokens, carry=None):
        hidden, carry = self.layers(self.embedding(tokens), carry)
        return self.output(hidden), carry


class NPLM(nn.Module):
    """Embedding, tanh layer, output."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape["vocab_size"], shape["embedding_size"])
        self.hidden = nn.Linear(shape["n_step"] * shape["embedding_size"], shape["hidden_size"])
        self.output = nn.Linear(shape["hidden_size"], shape["vocab_size"])

    def forward(self, tokens, carry=None):
        return self.output(torch.tanh(self.hidden(self.embedding(tokens).flatten(1)))), carry


def prepare(request: dict[str, Any]) -> Work:
    """Return the work for a shape, a task and a dtype."""
    shape, low = request["shape"], request["dtype"] == "bfloat16"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    window = shape["model"] == "nplm"
    model = (NPLM if window else Recurrent)(shape).to(DEVICE)
    size = (shape["batch"], shape["n_step"]) if window else (shape["time"], shape["batch"])
    vocab_size = shape["vocab_size"]
    tokens = torch.randint(vocab_size, size, device=DEVICE)
    targets = torch.randint(vocab_size, size[:1] if window else size, device=DEVICE)

    def cast():
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=low)

    def loss(carry):
        with cast():
            logits, carry = model(tokens, carry)
        logits = logits.float().reshape(-1, vocab_size)
        return functional.cross_entropy(logits, targets.reshape(-1)), carry

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    state = {"carry": None}

    def step(count: int) -> None:
        for _ in range(count):
            carry = state["carry"]
            if carry is not None:
                carry = (
                    tuple(part.detach() for part in carry)
                    if isinstance(carry, tuple)
                    else carry.detach()
                )
            optimizer.zero_grad(set_to_none=True)
            value, state["carry"] = loss(carry)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0, foreach=True)
            optimizer.step()
        value.item()

    def evaluation(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                value, state["carry"] = loss(state["carry"])
            value.item()

    def generation(count: int) -> None:
        seen = shape["n_step"] or 1
        with torch.inference_mode(), cast():
            for _ in range(count):
                token, carry = torch.zeros((STREAMS, seen), dtype=torch.long, device=DEVICE), None
                for _ in range(WORDS):
                    # Recurrent layers take [T, B]. `token` keeps only the last `seen` words.
                    logits, carry = model(token if window else token.T, carry)
                    chances = torch.softmax(logits.float().reshape(STREAMS, -1), -1)
                    drawn = torch.multinomial(chances, 1)
                    token = torch.cat([token[:, 1:], drawn], 1)
            token.cpu()

    return {"step": step, "evaluation": evaluation, "generation": generation}[request["task"]]


if __name__ == "__main__":
    about = {
        "PyTorch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
    }
    serve(prepare, about)
