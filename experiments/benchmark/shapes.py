"""The shapes that are timed, with lower bounds on their arithmetic and memory traffic."""

from dataclasses import asdict, dataclass
from typing import Any

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Shape:
    """A model and a batch.

    `n_step` is the window size of the NPLM, whose batch is `batch` windows with one prediction
    each (time 1).
    """

    model: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    batch: int
    time: int = 1
    num_layers: int = 1
    n_step: int = 0
    accelerator_only: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for JSON."""
        return asdict(self)

    @property
    def inner_matrices(self) -> int:
        """Number of elements of all weight matrices, without embedding and output matrix."""
        if self.model == "nplm":
            return self.n_step * self.embedding_size * self.hidden_size
        gates, size = GATES[self.model], self.hidden_size
        first = (self.embedding_size + size) * gates * size
        return first + (self.num_layers - 1) * 2 * size * gates * size

    @property
    def parameters(self) -> int:
        """Number of parameters, without biases."""
        output = self.hidden_size * self.vocab_size
        return self.vocab_size * self.embedding_size + self.inner_matrices + output

    def tokens(self, task: str) -> int:
        """Number of predictions in one repetition of the task."""
        return STREAMS * WORDS if task == "generation" else self.batch * self.time

    def flops(self, task: str) -> float:
        """Return the FLOP of the products in one repetition of the task.

        A step has three times the products of a forward pass: values, and the gradients of both
        operands. A generated token needs one forward pass.
        """
        forward = 2.0 * (self.inner_matrices + self.hidden_size * self.vocab_size)
        return forward * self.tokens(task) * (3 if task == "step" else 1)

    def traffic(self, task: str) -> float:
        """Return the unavoidable memory traffic of float32 parameters, in bytes.

        Adam reads p, m, v and g, and writes p, m and v. A forward pass reads the matrices;
        generation reads them for every word.
        """
        if task == "step":
            return 7 * 4.0 * self.parameters
        read = 4.0 * (self.inner_matrices + self.hidden_size * self.vocab_size)
        return read * (WORDS if task == "generation" else 1)


STREAMS, WORDS = 20, 200

SHAPES: dict[str, Shape] = {
    "small": Shape("lstm", 10_000, 200, 200, batch=20, time=20, num_layers=2),
    "medium": Shape("lstm", 10_000, 650, 650, batch=20, time=35, num_layers=2),
    "long": Shape("lstm", 10_000, 256, 256, batch=32, time=256),
    "wt2": Shape("lstm", 33_278, 650, 650, batch=20, time=35, num_layers=2),
    "gru medium": Shape("gru", 10_000, 650, 650, batch=20, time=35, num_layers=2),
    "rnn medium": Shape("rnn", 10_000, 650, 650, batch=20, time=35, num_layers=2),
    "nplm": Shape("nplm", 10_000, 100, 200, batch=512, n_step=5),
    "nplm 33k": Shape("nplm", 33_278, 100, 200, batch=512, n_step=5),
    "nplm wide": Shape("nplm", 10_000, 256, 1024, batch=1024, n_step=13),
    "awd b20": Shape(
        "lstm", 10_000, 400, 1150, batch=20, time=70, num_layers=3, accelerator_only=True
    ),
    "awd b80": Shape(
        "lstm", 10_000, 400, 1150, batch=80, time=70, num_layers=3, accelerator_only=True
    ),
}

TASKS = ("step", "evaluation", "generation")
DTYPES = ("float32", "bfloat16")

# To measure how cost grows, one axis of the small shape is varied at a time.
GROWTH: dict[str, tuple[int, ...]] = {
    "time": (5, 10, 20, 40, 80, 160),
    "batch": (5, 10, 20, 40, 80, 160),
    "hidden_size": (50, 100, 200, 400, 800),
    "vocab_size": (2_500, 5_000, 10_000, 20_000, 40_000),
}
