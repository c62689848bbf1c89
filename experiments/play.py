"""Build docs/play/index.html: small models of two books that run in the reader's browser.

Command    python experiments/play.py FOLDER   (holds tinyshakespeare/ and xiyouji/)
           python experiments/play.py --page (only builds the page, from the trained runs)
Hardware   two CPU cores (AMD EPYC with AVX-512), shared with other work
Minutes    6
Expected   a page of 5.6 MB. Nats per character on valid for n-gram, NPLM, LSTM: 1.561, 1.887, 1.535
           (tiny Shakespeare, its last tenth); 4.639, 5.180, 4.549 (Journey to the West)
Published  none
"""

import datetime
import sys
from pathlib import Path

from commands import run

import jaxlm
from jaxlm.inspection.play.building import Shelf, play_page

FOLDER = "runs/play"
SHAKESPEARE = "--corpus tinyshakespeare --fractions 0.9 0.1 --tokens chars --sample-every 0"
JOURNEY = "--corpus xiyouji --tokens chars --vocab-size 2500 --sample-every 0"
NEURAL = "--batch-size 32 --bptt 64 --schedule cosine"

COMMANDS = (
    f"python -m jaxlm.train --model ngram {SHAKESPEARE} --order 5 --stream "
    f"--out {FOLDER}/shakespeare-ngram",
    f"python -m jaxlm.train --model ngram {JOURNEY} --order 3 --stream "
    f"--out {FOLDER}/journey-ngram",
    f"python -m jaxlm.train --model lstm {SHAKESPEARE} {NEURAL} --embedding-size 32 "
    f"--hidden-size 256 --lr 4e-3 --epochs 12 --out {FOLDER}/shakespeare-lstm",
    f"python -m jaxlm.train --model lstm {JOURNEY} {NEURAL} --embedding-size 96 --tied "
    f"--hidden-size 224 --dropout 0.1 --lr 4e-3 --epochs 10 "
    f"--out {FOLDER}/journey-lstm",
    f"python -m jaxlm.train --model nplm {SHAKESPEARE} {NEURAL} --n-step 8 --embedding-size 16 "
    f"--hidden-size 384 --lr 2e-3 --epochs 6 --out {FOLDER}/shakespeare-nplm",
    f"python -m jaxlm.train --model nplm {JOURNEY} {NEURAL} --n-step 5 --embedding-size 64 --tied "
    f"--hidden-size 192 --lr 2e-3 --epochs 4 --out {FOLDER}/journey-nplm",
)
if sys.argv[1:] != ["--page"]:
    run(*COMMANDS)


def shelf(name: str, title: dict[str, str], text: str) -> Shelf:
    """Return the three models of a book, and the beginning of a text for them."""
    kinds = ("ngram", "nplm", "lstm")
    return Shelf(title, [jaxlm.load(f"{FOLDER}/{name}-{kind}") for kind in kinds], text)


page = play_page(
    [
        shelf("journey", {"en": "Journey to the West", "zh": "西游记"}, "行者笑道：“师父"),
        shelf("shakespeare", {"en": "Tiny Shakespeare", "zh": "莎士比亚"}, "ROMEO:\nBut soft, "),
    ],
    foot={"command": "python experiments/play.py", "date": str(datetime.date.today())},
)
out = Path(__file__).parents[1] / "docs/play/index.html"
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(page, encoding="utf-8")
print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
