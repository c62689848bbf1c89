"""Draw the pictures of docs/images that show the pages of jaxlm, with the system's Chromium.

Command    python experiments/screenshots.py RUNS   (RUNS holds the runs below)
Hardware   any
Minutes    not measured; training the runs takes most of the time
Expected   eleven PNG files of at most 200 kB each in docs/images
Published  none

These commands train the runs. Their texts are in the public domain:

    python -m jaxlm.train --model lstm --out RUNS/toy-lstm
    python -m jaxlm.train --model nplm --out RUNS/toy-nplm
    python -m jaxlm.train --model ngram --out RUNS/toy-ngram
    python -m jaxlm.train --model lstm --corpus tinyshakespeare --num-layers 2 --hidden-size 256 \\
        --embedding-size 64 --dropout 0.1 --epochs 8 --lr 2e-3 --out RUNS/shakespeare-lstm
    python -m jaxlm.train --model ngram --corpus tinyshakespeare --tokens chars --order 5 \\
        --out RUNS/shakespeare-ngram
    python -m jaxlm.train --model lstm --corpus $PWD/xiyouji.txt --num-layers 2 --hidden-size 256 \\
        --embedding-size 128 --epochs 8 --lr 2e-3 --out RUNS/xiyouji-lstm
    python -m jaxlm.train --model ngram --corpus $PWD/xiyouji.txt --order 4 \\
        --out RUNS/xiyouji-ngram

xiyouji.txt is the novel Journey to the West. Its path is absolute, because the script reads the
novel from within RUNS. The script needs playwright, Pillow and a Chromium on PATH.
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parents[1] / "docs/images"
LARGEST = 200_000
COLOURS = (256, 128, 64, 32)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HAMLET = """To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them. To die: to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd. To die, to sleep;
To sleep: perchance to dream: ay, there's the rub;
"""
LECTURE = "我 喜欢 玩具\n我 爱 爸爸\n我 讨厌 挨打"


@dataclass(frozen=True)
class Shot:
    """A picture of a page.

    Attributes:
      name: the name of the file.
      runs: names of the runs.
      text: the text that they read; None for the beginning of the first run's validation text.
      section: the view of the page that is drawn; None for the top of the page.
      width: width of the window in pixels.
      lang: language of the page.
      clicks: what is clicked before, as selectors of CSS.
      report: whether the page is the report of the first run.
      height: height of the window in pixels.
    """

    name: str
    runs: tuple[str, ...]
    text: str | None
    section: str | None = None
    width: int = 1280
    lang: str = "en"
    clicks: tuple[str, ...] = ()
    report: bool = False
    height: int = 860

    @property
    def views(self) -> tuple[str, ...] | None:
        """The views of the page; None for all."""
        if self.report:
            from jaxlm.inspection.report import REPORT_VIEWS

            return REPORT_VIEWS
        return None if self.section is None else ("surprise", self.section)


SHAKESPEARE = ("shakespeare-lstm", "shakespeare-ngram")
XIYOUJI = ("xiyouji-lstm", "xiyouji-ngram")
TOY = ("toy-lstm", "toy-nplm", "toy-ngram")
SHOTS = (
    Shot("show", SHAKESPEARE, HAMLET),
    Shot("show-phone", XIYOUJI, None, width=390, lang="zh", height=844),
    Shot("show-toy", TOY, LECTURE, "next", clicks=("#surprise [data-token='8']",)),
    Shot("show-gates", SHAKESPEARE, HAMLET, "gates"),
    Shot("show-gradients", SHAKESPEARE, HAMLET, "gradients"),
    Shot("show-unrolled", XIYOUJI, None, "unrolled", lang="zh"),
    Shot("show-vectors", XIYOUJI, None, "vectors"),
    Shot("show-senses", XIYOUJI, None, "senses", lang="zh"),
    Shot("show-backoff", XIYOUJI, None, "backoff"),
    Shot("show-counts", TOY, LECTURE, "counts"),
    Shot("report", ("toy-lstm",), LECTURE, report=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, and print their names and sizes."""
    parser = argparse.ArgumentParser(description="Draw pictures of the pages.")
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--out", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("--only", nargs="*", help="names of pictures (none: all)")
    asked = parser.parse_args(argv)
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"no Chromium on PATH: looked for {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # The pages name the runs as they are given: without the folder.
    os.chdir(asked.runs)
    pages: dict[Any, str] = {}
    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        for shot in SHOTS:
            if asked.only and shot.name not in asked.only:
                continue
            key = shot.runs, shot.text, shot.lang, shot.views
            if key not in pages:
                pages[key] = content_of(shot)
            size = save(picture(browser, pages[key], shot), out / f"{shot.name}.png")
            print(f"{shot.name}.png  {size / 1000:.0f} kB")
        browser.close()
    return 0


def content_of(shot: Shot) -> str:
    """Return the page of a picture."""
    import jaxlm
    from jaxlm.inspection.pages.building import page
    from jaxlm.inspection.pages.texts import default_text
    from jaxlm.inspection.pages.views import Options

    runs = [jaxlm.load(name) for name in shot.runs]
    text = default_text(runs[0])[0] if shot.text is None else shot.text
    title = f"How {runs[0].name} learned" if shot.report else ""
    options = Options(lang=shot.lang)
    return page(runs, text, options, title=title, views=shot.views, keep_missing=False)


def picture(browser: Any, content: str, shot: Shot) -> bytes:
    """Return the picture as PNG: a view, or what the window shows at first."""
    view = {"width": shot.width, "height": shot.height}
    context = browser.new_context(viewport=view, offline=True, color_scheme="light")
    page = context.new_page()
    page.set_content(content)
    page.wait_for_selector("html[data-ready=true]")
    for selector in shot.clicks:
        page.click(selector)
    if shot.section is None:
        drawn = page.screenshot()
    else:
        # The contents, which stay in sight, would cover the view.
        page.add_style_tag(content="nav { position: static !important }")
        section = page.query_selector(f"#{shot.section}")
        section.scroll_into_view_if_needed()
        # A strip paints itself in the next frame.
        page.wait_for_timeout(300)
        box = section.bounding_box()
        top = box["y"] + page.evaluate("scrollY")
        clip = {"x": 0, "y": top + 1, "width": shot.width, "height": box["height"] - 2}
        drawn = page.screenshot(full_page=True, clip=clip)
    context.close()
    return drawn


def save(png: bytes, path: Path) -> int:
    """Write a picture with as many colours as fit into LARGEST bytes, and return its size."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        buffer = io.BytesIO()
        # Without dithering flat colours stay flat, and the file small.
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


if __name__ == "__main__":
    sys.exit(main())
