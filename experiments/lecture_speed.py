"""Time the lecture's 5000 steps in jaxlm and in eager PyTorch, alternating, in one run.

Command    python experiments/lecture_speed.py --torch-python PATH
Hardware   two CPU cores (AMD EPYC with AVX2)
Minutes    2
Expected   jaxlm 77 to 89 times faster (nplm 89, rnn 84, gru 77, lstm 78); with AVX-512 35 to 63,
           because PyTorch is twice as fast there, and later, on shared cores, 59 to 91
Published  none

PATH is a Python that has torch; the default is this Python. jaxlm is timed after compilation, with
the live progress bar on. PyTorch is timed after a warm-up of 100 steps. Each round times both.
"""

import argparse
import statistics
import subprocess
import sys
import time

import jax
from rich.console import Console

import jaxlm
from jaxlm.models import make_model
from jaxlm.runs.log import Log
from jaxlm.training import loop

TORCH = """
import sys, time, torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)  # the fastest for matrices of this size
x, y = torch.tensor([[0, 1], [0, 3], [0, 5]]), torch.tensor([2, 4, 6])

class NPLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.C, self.linear1, self.linear2 = nn.Embedding(7, 2), nn.Linear(4, 2), nn.Linear(2, 7)
    def forward(self, x):
        return self.linear2(torch.tanh(self.linear1(self.C(x).view(-1, 4))))

class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.C, self.linear = nn.Embedding(7, 2), nn.Linear(2, 7)
        self.recurrent = kind(2, 2, batch_first=True)
    def forward(self, x):
        return self.linear(self.recurrent(self.C(x))[0][:, -1])

kinds = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
model = NPLM() if sys.argv[1] == "nplm" else Recurrent(kinds[sys.argv[1]])
criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.1)
for step in range(5100):
    if step == 100:
        began = time.perf_counter()
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
print(time.perf_counter() - began)
"""


class TimedLog(Log):
    """A log that records the end of the first dispatch, which compiles."""

    began = 0.0

    def advance(self, step: int, tokens: int, loss: float) -> None:
        """Record the time and the step of the first call."""
        if not TimedLog.began:
            TimedLog.began, TimedLog.first = time.perf_counter(), step
        super().advance(step, tokens, loss)


def jaxlm_seconds(name: str) -> float:
    """Return seconds for 5000 steps, measured after the first dispatch, with the live bar."""
    recipe = jaxlm.RECIPES["lecture"]["settings"]
    text = jaxlm.read_corpus("toy", eos=False)
    sizes = {"n_step": 2} if name == "nplm" else {}
    model = make_model(name, {"embedding_size": 2, "hidden_size": 2} | sizes, 7)
    options = {key: recipe[key] for key in ("batching", "positions", "batch_size", "lr", "clip")}
    TimedLog.began = 0.0
    loop.Log = TimedLog
    with open("/dev/null", "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True)
        run = jaxlm.fit(model, text, steps=5000, log_every=1000, console=console, **options)
        jax.block_until_ready(run.params)
    return (time.perf_counter() - TimedLog.began) * 5000 / (5000 - TimedLog.first)


def main() -> None:
    """Alternate the two programs, and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("model   PyTorch eager   jaxlm   ratio   (medians, seconds for 5000 steps)")
    for name in ("nplm", "rnn", "gru", "lstm"):
        pytorch_times, jaxlm_times = [], []
        for _ in range(options.rounds):
            done = subprocess.run(
                [options.torch_python, "-c", TORCH, name],
                capture_output=True,
                text=True,
                check=True,
            )
            pytorch_times.append(float(done.stdout))
            jaxlm_times.append(jaxlm_seconds(name))
        ratio = statistics.median(a / b for a, b in zip(pytorch_times, jaxlm_times, strict=True))
        medians = statistics.median(pytorch_times), statistics.median(jaxlm_times)
        print(f"{name:6} {medians[0]:12.3f} {medians[1]:10.3f} {ratio:7.1f}")


if __name__ == "__main__":
    main()
