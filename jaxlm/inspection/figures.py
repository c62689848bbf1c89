"""Figures for papers, drawn with matplotlib into a PDF, SVG or PNG file.

The same call writes the same bytes. Text stays text in PDF and SVG files, so that it can be
searched and edited.
"""

import importlib.util
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len

from jaxlm.data.files import replacing
from jaxlm.errors import SettingError, UserError, choose, reason
from jaxlm.inspection.pages.building import labels_of
from jaxlm.inspection.pages.view_gates import layers_of
from jaxlm.inspection.pages.view_gradients import part_of
from jaxlm.inspection.pages.view_surprise import limits_of, taught_surprisal
from jaxlm.inspection.pieces import read
from jaxlm.inspection.traces import GATES, STATES, Trace, models_with_gates, recorded_names, trace
from jaxlm.runs.log import METRICS, read_records
from jaxlm.runs.plots import draw_curves
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.gradients import GradientByLag

# Inches. A column of a paper, and the width of its page.
COLUMN, PAGE = 3.4, 6.8
POINTS = 8
STYLE: dict[Any, Any] = {
    "font.size": POINTS,
    "axes.titlesize": POINTS,
    "legend.fontsize": POINTS - 1,
    "xtick.labelsize": POINTS - 1,
    "ytick.labelsize": POINTS - 1,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "axes.unicode_minus": False,
    # TrueType fonts in PDF files and text elements in SVG files: the text stays text.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # The names of elements do not change from call to call.
    "svg.hashsalt": "jaxlm",
    # Okabe and Ito 2008: colours that colour-blind people can tell apart.
    "axes.prop_cycle": "cycler('color', ['0072b2', 'd55e00', '009e73', 'cc79a7', '8a6d00', "
    "'56b4e9', '555555', '000000'])",
}
# Files of one figure have the same bytes if they hold no date.
METADATA = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {"Software": None},
}
# Tokens of a figure at most: more could not be read on a page.
MOST_TOKENS = {"surprise": 600, "gates": 120}
MOST_UNITS = 48
MOST_WORDS = 70


@dataclass(frozen=True)
class Asked:
    """The runs, the text and the options of a figure.

    Attributes:
      runs: the runs.
      labels: a short name for each run.
      text: the text that the runs read; "" if none is given.
      start: "fresh", "warm" or None; see `jaxlm.inspection.trace`.
      layer: the layer whose gates are drawn, such as "layers_0"; None for the last layer.
    """

    runs: Sequence[Run]
    labels: Sequence[str]
    text: str
    start: str | None
    layer: str | None


def figure(
    kind: str,
    runs: Run | Sequence[Run],
    text: str = "",
    *,
    out: str | Path,
    start: str | None = None,
    layer: str | None = None,
) -> list[str]:
    """Draw a figure into a file, and return notes on what the figure does not show.

    | kind | what it shows |
    |---|---|
    | surprise | the text, coloured by the bits of each token, for each run |
    | gates | gates and states of a layer of the first run that has gates, over the text |
    | gradients | how the gradient of a loss fades by lag, trained (solid) and untrained (dashed) |
    | map | word vectors of the first run on a plane (PCA) |
    | curve | training and validation perplexity by step |

    Args:
      kind: the kind of the figure.
      runs: a run, or several runs to compare.
      text: the text that the runs read; `map` and `curve` need none.
      out: the file, whose name ends in .pdf, .svg or .png.
      start: the state from which the text is read; see `jaxlm.inspection.trace`.
      layer: for `gates`, the layer, such as "layers_0"; None for the last layer.
    Raises:
      UserError: if matplotlib (extra `plots`) is not installed, if the runs have nothing to draw,
        and if a figure that reads a text gets none.
      SettingError: for a file with another ending, or that cannot be written.
    """
    draw = choose(FIGURES, kind, "figure")
    path = Path(out)
    check_figure(kind, path)
    import matplotlib

    several = [runs] if isinstance(runs, Run) else list(runs)
    asked = Asked(several, labels_of(several), text, start, layer)
    notes: list[str] = []
    with matplotlib.rc_context(STYLE):
        _save(draw(asked, notes), path)
    return notes


def check_figure(kind: str, out: Path) -> None:
    """Raise UserError if a figure cannot be drawn into this file, before a model works for it."""
    choose(FIGURES, kind, "figure")
    if out.suffix.lower() not in METADATA:
        raise SettingError("out", out, f"the name of a figure ends in {', '.join(METADATA)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "figures are drawn with matplotlib, which is not installed: pip install matplotlib"
        )


def _save(made: Any, path: Path) -> None:
    """Write a figure by way of a partial file."""
    suffix = path.suffix.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, open(partial, "wb") as file:
            made.savefig(file, format=suffix[1:], dpi=300, metadata=METADATA[suffix])
    except OSError as error:
        raise SettingError("out", path, f"cannot be written: {reason(error)}") from None


# ---- fonts --------------------------------------------------------------------------------------
# Fonts with Chinese characters that systems have, best first; any other font comes after them.
PREFERRED = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "SimHei")
# Fonts that draw each character as a picture or as a code.
UNFIT = ("emoji", "lastresort", "symbol", "dingbat")


def use_fonts(texts: Iterable[str], notes: list[str]) -> None:
    """Set the fonts of matplotlib so that they have every character of `texts`.

    matplotlib's own font comes first. Installed fonts follow that have what it lacks.

    Args:
      texts: texts of the figure.
      notes: gets a sentence if no installed font has some of the characters.
    """
    import matplotlib
    from matplotlib import font_manager, ft2font

    own = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    families = ["DejaVu Sans"]
    seen = {character for text in texts for character in text if not character.isspace()}
    missing = {character for character in seen if not own.get_char_index(ord(character))}
    if missing:
        # The list that matplotlib keeps may be older than the fonts of the system.
        listed = {font.fname for font in font_manager.fontManager.ttflist}
        for path in sorted(set(font_manager.findSystemFonts()) - listed):
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):
                continue
    fonts = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and str(font.weight) in ("400", "normal", "regular")
    }
    order = [*(name for name in PREFERRED if name in fonts), *sorted(set(fonts) - set(PREFERRED))]
    for name in order:
        if not missing:
            break
        if any(word in name.lower().replace(" ", "") for word in UNFIT):
            continue
        try:
            font = ft2font.FT2Font(fonts[name])
        except (OSError, RuntimeError):
            continue
        found = {character for character in missing if font.get_char_index(ord(character))}
        if found:
            families.append(name)
            missing -= found
    matplotlib.rcParams["font.family"] = families
    if missing:
        named = ", ".join(
            f"{character} ({unicodedata.name(character, f'U+{ord(character):04X}').lower()})"
            for character in sorted(missing)[:3]
        )
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        notes.append(f"no installed font has {named}{more}: the figure shows boxes instead")


# ---- what is drawn ------------------------------------------------------------------------------
def _new_figure(width: float, height: float, **options: Any) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def _read(run: Run, asked: Asked, kind: str, notes: list[str]) -> Trace:
    """Return the trace of the text; add a note if a figure shows only its first tokens."""
    if not asked.text:
        raise UserError(f"the figure {kind} needs a text: give it after the runs")
    most = MOST_TOKENS[kind]
    reading = read(run, asked.text, asked.start)
    count = len(reading.ids)
    if count > most:
        notes.append(f"the text has {count:,} tokens: the figure shows the first {most}")
    # The mean of the surprisal is that of the whole text. Its gates would fill the memory.
    cut = kind != "surprise" and count > most
    text = asked.text[: int(reading.spans[most - 1, 1])] if cut else asked.text
    units: dict[str, list[int]] | None = {} if kind == "surprise" else None
    found = trace(run, text, start=asked.start, count=1, units=units, counts=False)
    notes.append(f"{run.name}: {found.note}")
    return found


def _visible(token: str) -> str:
    """Return a token with signs for blanks and line breaks."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").strip(" ")
    shown = "".join(character if character.isprintable() else "·" for character in shown)
    # matplotlib reads a formula between dollar signs.
    return (shown or "␣").replace("$", r"\$")


def lines_end(found: Trace) -> list[bool]:
    """Return for each token whether a line of the text ends with it."""
    begins = found.spans[:, 0].tolist()
    ends = [*begins[1:], len(found.text)]
    return ["\n" in found.text[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _surprise(asked: Asked, notes: list[str]) -> Any:
    """Draw the text of each run, line by line, with the surprisal of a token behind it."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle

    traces = [_read(run, asked, "surprise", notes) for run in asked.runs]
    most = MOST_TOKENS["surprise"]
    words = [
        [" " if token == " " else _visible(token) for token in found.tokens[:most]]
        for found in traces
    ]
    # One scale for all runs.
    darkest = max(limits_of(run)[-1] for run in asked.runs)
    use_fonts([*(word for line in words for word in line), *asked.labels], notes)
    renderer, font = RendererAgg(10, 10, 72), FontProperties(size=POINTS)
    pitch, frame = 1.55 * POINTS, PAGE * 72 - 4
    boxes: list[tuple[float, float, float, float, str, float]] = []
    titles: list[tuple[float, str]] = []
    y = 0.0
    for run, label, found, shown in zip(asked.runs, asked.labels, traces, words, strict=True):
        surprisal = taught_surprisal(run, found)
        known = surprisal[np.isfinite(surprisal)]
        mean = f": {known.mean():.2f} bits per token" if len(known) else ""
        titles.append((y, f"{label}{mean}"))
        # Characters stand together as words do.
        gap, between = (0.3, 0.0) if max(map(len, shown)) == 1 else (1.5, 0.6)
        x, y = 0.0, y + 1.2 * pitch
        ends = lines_end(found)
        for end, word, bits in zip(ends, shown, surprisal, strict=False):
            width = renderer.get_text_width_height_descent(word, font, False)[0] + 2 * gap
            if x and x + width > frame:
                x, y = 0.0, y + pitch
            boxes.append((x, y, width, gap, word, bits))
            x += width + between
            if end:
                x, y = 0.0, y + pitch
        y += 1.4 * pitch if x else 0.4 * pitch
    legend = 3.6 * pitch
    height = y + legend
    frame = min(frame, max(COLUMN * 72, max(x + width for x, _, width, *_ in boxes)))
    made = _new_figure((frame + 4) / 72, height / 72)
    axes = made.add_axes((0, legend / height, 1, y / height))
    axes.set(xlim=(-2, frame + 2), ylim=(y, 0))
    axes.axis("off")
    colours, norm = colormaps["YlOrRd"], Normalize(0, darkest, clip=True)
    for top, title in titles:
        axes.text(0, top + 0.55 * pitch, title, va="center", weight="bold")
    for x, top, width, gap, word, bits in boxes:
        known = np.isfinite(bits)
        face = colours(norm(bits)) if known else (1, 1, 1, 1) if np.isnan(bits) else (0, 0, 0, 1)
        light = np.dot(face[:3], (0.299, 0.587, 0.114))
        axes.add_patch(Rectangle((x, top + 0.05 * pitch), width, 0.9 * pitch, color=face, lw=0))
        ink = "black" if light > 0.55 else "white"
        axes.text(x + gap, top + 0.68 * pitch, word, va="baseline", color=ink)
    wide = 0.9 * COLUMN * 72 / (frame + 4)
    bar = made.add_axes((6 / frame, 2.3 * pitch / height, wide, 0.5 * pitch / height))
    made.colorbar(ScalarMappable(norm, colours), cax=bar, orientation="horizontal")
    bar.set_xlabel(f"surprisal (bits); {darkest:.0f} or more is the darkest", labelpad=1)
    return made


def _gates(asked: Asked, notes: list[str]) -> Any:
    """Draw each gate and each state of a layer: units from top to bottom, tokens to the right."""
    run, label = _run_with_gates(asked)
    found = _read(run, asked, "gates", notes)
    layer = asked.layer or found.layers[-1]
    states = found.states(layer)
    # The gate of an Elman network is its state, and is drawn once.
    names = list(layers_of(found)[layer])
    count = min(len(found), MOST_TOKENS["gates"])
    arrays = {name: found[f"{layer}/{name}"][:count].T for name in names}
    units = _chosen_units(arrays, states)
    width = next(iter(arrays.values())).shape[0]
    if len(units) < width:
        notes.append(f"{layer} has {width} units: the figure shows the {len(units)} that vary most")
    words = [_visible(token) for token in found.tokens[:count]]
    use_fonts([*words, label], notes)
    room = 72 * (PAGE - 1.2) / count
    size = min(POINTS, room / 1.05)
    upright = 0.6 * size * max(map(cell_len, words)) <= room
    panel = min(0.85, max(0.4, 0.03 * len(units)))
    made = _new_figure(PAGE, 0.7 + (panel + 0.08) * len(names), layout="constrained")
    rows = made.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(rows, names, strict=True):
        array = arrays[name][units]
        # A gate is between 0 and 1. A state and a candidate have both signs.
        signed = bool(array.min() < 0)
        most = float(np.abs(array).max())
        # A few large cell states would leave all others white.
        high = float(np.quantile(np.abs(array), 0.99)) or most or 1.0
        # The scale of a candidate, which is a tanh, ends at 1 and not at 0.998.
        high = 1.0 if 0.9 < high < 1 else high
        low, high = (-high, high) if signed else (0.0, max(1.0, high))
        picture = axes.imshow(
            array,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r" if signed else "Reds",
            vmin=low,
            vmax=high,
        )
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_yticks([])
        axes.tick_params(axis="x", length=0)
        extend = "neither" if most <= 1.05 * high else "both" if signed else "max"
        ticks = [low, 0, high] if signed else [low, high]
        bar = made.colorbar(picture, ax=axes, pad=0.01, aspect=8, ticks=ticks, extend=extend)
        bar.ax.set_yticklabels([f"{tick:.3g}" for tick in ticks])
    rows[-1].set_xticks(range(count), words, rotation=0 if upright else 90, fontsize=size)
    made.suptitle(f"{label}, {layer}", fontsize=POINTS)
    return made


def _run_with_gates(asked: Asked) -> tuple[Run, str]:
    """Return the first run whose model has gates or states, and its label."""
    from jaxlm.models.neural import NeuralModel

    for run, label in zip(asked.runs, asked.labels, strict=True):
        if isinstance(run.model, NeuralModel):
            kinds = recorded_names(run.model)[1].values()
            if any(kind in (GATES, STATES) for kind in kinds):
                return run, label
    raise UserError(
        f"{', '.join(asked.labels)}: no gates to draw. Runs of these models have gates: "
        f"{', '.join(models_with_gates())}"
    )


def _chosen_units(arrays: dict[str, np.ndarray], states: Sequence[str]) -> np.ndarray:
    """Return the units that vary most in the first state, in the order of what they share.

    Units that rise and fall together are neighbours: the order is that of the first principal
    component. Ties go to the lower number.
    """
    name = states[0] if states else next(iter(arrays))
    array = arrays[name].astype(np.float64)
    chosen = np.sort(np.argsort(-array.std(axis=1), kind="stable")[:MOST_UNITS])
    centred = array[chosen] - array[chosen].mean(axis=1, keepdims=True)
    left = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    # A singular vector has no sign of its own.
    left *= np.sign(left[np.argmax(np.abs(left))]) or 1.0
    return chosen[np.argsort(-left, kind="stable")]


def _gradients(asked: Asked, notes: list[str]) -> Any:
    """Draw the norm of the gradient by lag: trained and untrained, for each run that is neural."""
    from jaxlm.inspection.gradients import gradient_by_lag
    from jaxlm.models.neural import NeuralModel

    if not asked.text:
        raise UserError("the figure gradients needs a text: give it after the runs")
    use_fonts(asked.labels, notes)
    made = _new_figure(COLUMN, 2.6, layout="constrained")
    axes = made.add_subplot()
    drawn = 0
    for index, (run, label) in enumerate(zip(asked.runs, asked.labels, strict=True)):
        if not isinstance(run.model, NeuralModel):
            notes.append(f"{label} is an n-gram: it has no gradient")
            continue
        if run.protocol.last_only:
            why = (
                "learnt the last token of each line alone: the losses of other tokens are arbitrary"
            )
            notes.append(f"{label} {why}")
        drawn += 1
        colour = f"C{index}"
        trained = gradient_by_lag(run, part_of(run, asked.text), start=asked.start)
        untrained = _untrained(run, asked)
        for found, style in (
            (trained, {"label": label}),
            (untrained, {"linestyle": "--", "linewidth": 0.9}),
        ):
            lags, shares = _shares(found)
            axes.plot(lags, shares, color=colour, **style)
            if found.below_one_percent is not None:
                here = lags == found.below_one_percent
                axes.plot(lags[here], shares[here], "o", color=colour, markersize=3.5)
    if not drawn:
        raise UserError(f"{', '.join(asked.labels)}: an n-gram has no gradient; give a neural run")
    axes.set(xlabel="lag k (tokens)", ylabel="norm of the gradient, lag 1 = 1", yscale="log")
    axes.plot([], [], "--", color="0.4", linewidth=0.9, label="untrained")
    axes.plot([], [], "o", color="0.4", markersize=3.5, label="under 1% of lag 1")
    axes.legend(frameon=False)
    axes.grid(True, alpha=0.3)
    return made


def _untrained(run: Run, asked: Asked) -> "GradientByLag":
    """Return the gradient by lag of the run's model with parameters that are not trained."""
    import jax

    from jaxlm.inspection.gradients import gradient_by_lag

    part = part_of(run, asked.text)
    return gradient_by_lag(run, part, key=jax.random.key(0), start=asked.start)


def _shares(found: "GradientByLag") -> tuple[np.ndarray, np.ndarray]:
    """Return the lags from 1 on, and their norms as shares of the norm of lag 1."""
    from_one = found.lags >= 1
    lags, norms = found.lags[from_one], found.norms[from_one]
    shares = norms / norms[0] if len(norms) and norms[0] else norms
    # A logarithmic axis has no place for 0.
    return lags, np.where(shares > 0, shares, np.nan)


def _map(asked: Asked, notes: list[str]) -> Any:
    """Draw the vectors of the first words of the vocabulary on the plane of their PCA."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from jaxlm.inspection.word_vectors import map2d, vectors

    words, vectors_VD = vectors(asked.runs[0])
    points = map2d(vectors_VD)[:MOST_WORDS]
    shown = [_visible(word) for word in words[:MOST_WORDS]]
    if len(words) > len(shown):
        notes.append(f"the map shows the first {len(shown)} words of {len(words):,}")
    use_fonts([*shown, *asked.labels], notes)
    made = _new_figure(COLUMN, COLUMN, layout="constrained")
    axes = made.add_subplot()
    axes.plot(points[:, 0], points[:, 1], "o", markersize=1.8, color="C0")
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-6)
    axes.set(xlim=(low[0] - margin[0], high[0] + 2 * margin[0]))
    axes.set(ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes.set(xlabel="first component", ylabel="second component", title=asked.labels[0])
    axes.grid(True, alpha=0.3)
    # The places of the labels are measured in pixels.
    FigureCanvasAgg(made).draw()
    left_out = _label_points(axes, points, shown)
    if left_out:
        notes.append(f"{left_out} labels are left out, because they would cover others")
    return made


def _label_points(axes: Any, points: np.ndarray, labels: Sequence[str]) -> int:
    """Write a label beside each point; return how many found no free place."""
    taken: list[Any] = []
    left_out = 0
    renderer = axes.figure.canvas.get_renderer()
    for point, label in zip(points, labels, strict=True):
        for dx, dy, ha, va in PLACES:
            text = axes.annotate(
                label,
                point,
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=POINTS - 1.5,
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:
            left_out += 1
    return left_out


# Offsets in points from a point to its label, best first, and the label's alignment.
PLACES = (
    (2, 1, "left", "bottom"),
    (-2, 1, "right", "bottom"),
    (2, -1, "left", "top"),
    (-2, -1, "right", "top"),
    (0, 3, "center", "bottom"),
    (0, -3, "center", "top"),
)


def _curve(asked: Asked, notes: list[str]) -> Any:
    """Draw training and validation perplexity by step."""
    records = []
    for run, label in zip(asked.runs, asked.labels, strict=True):
        found = [] if run.folder is None else read_records(run.folder / METRICS)
        if not found:
            notes.append(f"{label} has no learning curve: its folder has no {METRICS}")
        named = {"run": label} if len(asked.runs) > 1 else {}
        records += [record | named for record in found]
    if not records:
        raise UserError(f"{', '.join(asked.labels)}: no learning curve, as there is no {METRICS}")
    use_fonts(asked.labels, notes)
    made = _new_figure(COLUMN, 2.4, layout="constrained")
    draw_curves(made.add_subplot(), records)
    return made


FIGURES: dict[str, Callable[[Asked, list[str]], Any]] = {
    "surprise": _surprise,
    "gates": _gates,
    "gradients": _gradients,
    "map": _map,
    "curve": _curve,
}
"""The figures by name: (what is asked for, notes to add to) -> a figure of matplotlib."""
READING = ("surprise", "gates", "gradients")
"""The figures that read a text."""
