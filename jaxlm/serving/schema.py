"""The JSON of requests and answers, from which FastAPI makes the schema at /openapi.json."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jaxlm.errors import nearest_setting
from jaxlm.ranges import LARGEST_INT32

Start = Literal["fresh", "warm"] | None
RUN = Field(None, description="Name of the run, as /runs lists it; null for the first run.")
START = Field(
    None,
    description="State before the text: fresh, the initial state; warm, after a stretch of the "
    "training text; null for warm if the run keeps such a stretch.",
)
LARGEST_SEED = (1 << 32) - 1
Count = Annotated[int, Field(ge=1, le=LARGEST_INT32)]


class Request(BaseModel):
    """A body of JSON. Another field, and a value of another type, are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str | None = RUN


class NextRequest(Request):
    """The most probable next words after a text."""

    text: str = Field(description="The text before the next word.")
    top: Count = Field(5, description="Number of words.")
    start: Start = START


class ScoreRequest(Request):
    """The surprisal of each word of sentences."""

    sentences: list[str] = Field(description="The sentences, without line breaks.")
    by: Literal["word", "sentence"] = Field("word", description="What a row is.")
    start: Literal["fresh", "warm", "carried"] | None = Field(
        None,
        description="State before each sentence: as in /next, or carried from the sentence before.",
    )
    first: bool = Field(True, description="Count the first word of each sentence.")
    end: bool = Field(True, description="Count the end of each sentence, as a row <eos>.")
    words: Literal["spaces", "characters"] | None = Field(
        None,
        description="Words are parts between white space, or characters; null for characters in a "
        "text without spaces between words.",
    )
    split: Literal["none", "treebank", "wikitext"] = Field(
        "none", description="Split the sentences as the training text of a run over words."
    )
    detail: bool = Field(True, description="Add entropy and rank.")


class GenerateRequest(Request):
    """Continuations of a prompt."""

    prompt: str = Field("", description="The text to continue.")
    length: Count = Field(100, description="Tokens to generate.")
    samples: Count = Field(1, description="Continuations to generate.")
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="Divide the logits by this; 0 for the most probable token."
    )
    top_k: Count | None = Field(None, description="Sample from the k most probable tokens.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Sample from the fewest tokens whose probabilities sum to p."
    )
    stop: list[str] = Field(
        [], max_length=16, description="End a continuation before the first of these texts."
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = Field(
        0, description="Seed of the random numbers."
    )
    start: Start = START


def within(body: Request, **limits: int) -> dict[str, Any]:
    """Return the fields of a request but `run`; a default above its limit becomes the limit.

    A value that the client gave stays as it is: the service refuses it, if it is too large.

    Example:
      >>> within(NextRequest(text="the"), top=3), within(NextRequest(text="the", top=9), top=3)
      ({'text': 'the', 'top': 3, 'start': None}, {'text': 'the', 'top': 9, 'start': None})
    """
    fields = body.model_dump(exclude={"run"})
    for name in limits.keys() - body.model_fields_set:
        fields[name] = min(fields[name], limits[name])
    return fields


class Answer(BaseModel):
    """The fields of every answer of a run."""

    run: str = Field(description="Name of the run.")
    notes: list[str] = Field(description="What is unusual about the text, such as unknown words.")


class NextWord(BaseModel):
    """A next word."""

    word: str
    probability: float


class NextAnswer(Answer):
    """The next words, the most probable first."""

    words: list[NextWord]


class ScoredRow(BaseModel):
    """A row: a word has `word_id` and `word`, and a sentence has `sentence` and `words`."""

    sentence_id: int
    word_id: int | None = None
    word: str | None = None
    sentence: str | None = None
    words: int | None = None
    tokens: int
    oov: int | bool = Field(description="Whether, or how often, the run reads <unk>.")
    surprisal: float | None = Field(description="Bits; null if not counted, or infinite.")
    entropy: float | None = Field(None, description="Bits.")
    rank: int | None = Field(None, description="1 for the likeliest token.")


class ScoreAnswer(Answer):
    """The rows of the table of `jaxlm.score`."""

    protocol: str = Field(description="Which tokens were counted, and from which state.")
    rows: list[ScoredRow]


class GenerateAnswer(Answer):
    """The continuations, each with its prompt."""

    texts: list[str]


class RunAnswer(BaseModel):
    """A run that is served."""

    name: str
    model: str
    tokens: str = Field(description="What its tokens are.")
    vocabulary: int = Field(description="Number of tokens in its vocabulary.")
    starts: list[str] = Field(description="States before a text; the first is the default.")


class RunsAnswer(BaseModel):
    """The runs, the default one first, and the limits of the service."""

    runs: list[RunAnswer]
    limits: dict[str, float]


class HealthAnswer(BaseModel):
    """The status of the service, and the number of requests that wait for an answer."""

    status: Literal["ok", "failed"]
    waiting: int


class Problem(BaseModel):
    """An error: one line that says what was wrong, and what to do."""

    error: str


LONGEST_SHOWN = 60


def problem_of(errors: Sequence[Any], fields: Sequence[str]) -> str:
    """Return one line for the first of the errors that pydantic found.

    Args:
      errors: the errors.
      fields: names of the fields that the body may have.

    Example:
      >>> problem_of([{"type": "extra_forbidden", "loc": ("body", "topp")}], ["top_p", "seed"])
      'unknown field `topp` (did you mean `top_p`?): choose one of top_p, seed'
    """
    error = errors[0]
    kind, place = error["type"], [part for part in error["loc"] if part != "body"]
    name = str(place[0]) if place else ""
    if kind == "extra_forbidden":
        shown = name if name.isprintable() and len(name) <= LONGEST_SHOWN else shorter(name)
        near = nearest_setting(name, fields)
        hint = f" (did you mean `{near}`?)" if near else ""
        return f"unknown field `{shown}`{hint}: choose one of {', '.join(fields)}"
    if not place or kind == "json_invalid":
        return f"the body must be a JSON object with fields of {', '.join(fields)}"
    if kind == "missing":
        return f"the field `{name}` is missing: give it, and if you like others of " + ", ".join(
            field for field in fields if field != name
        )
    if kind == "string_unicode":
        why = "has a lone surrogate, so it is not valid Unicode: send valid text"
    else:
        why = (
            str(error["msg"])
            .replace("Input should", "must")
            .replace("a valid integer", "an integer")
        )
        why = why.replace("valid ", "")
        why = why.replace("must be a list", 'must be a list, such as ["the cat sat"]')
    item = "".join(f"[{part}]" for part in place[1:] if isinstance(part, int))
    return f"`{name}{item}` {shorter(error.get('input'))}: {why}"


def shorter(value: Any) -> str:
    """Return the value as JSON would show it, cut to one short line of ASCII or letters.

    Example:
      >>> shorter("a" * 100)[-8:], shorter(None), shorter("\\ud800")
      ('aaaaa...', 'null', "'\\\\ud800'")
    """
    names = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return names[value]
    # A huge number or list is not written out first.
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge number"
    if isinstance(value, str | list):
        value = value[: LONGEST_SHOWN + 1]
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
