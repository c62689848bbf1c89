"""Train n-grams and LSTMs on WikiText-2, by words and by sub-words, and measure BLiMP.

Command    python experiments/blimp.py FOLDER   (FOLDER holds wikitext-2/ and blimp/)
Hardware   two CPU cores
Minutes    not measured in one go; the LSTM by sub-words took 72 with AVX2, beside other work
Expected   perplexity on valid: 5-gram by words 234.86, LSTM by words 112.41, 5-gram by sub-words
           66.84 a sub-word, LSTM by sub-words 54.19. BLiMP, mean over the paradigms: 53.13, 58.93,
           52.56 and 55.51. The tables are in blimp.md. The figures over sub-words were measured
           when a line break was not a token of its own, and new runs differ from them
Published  5-gram 61.0, LSTM 70.1 (Warstadt et al. 2020), both trained on 83 million words

WikiText-2 has 2 million words, a fortieth of the published models' text. Its punctuation is split
from the words, so `--split wikitext` splits BLiMP's sentences in the same way, for all four runs.
"""

import sys

from commands import find_corpus, run

LSTM = "python -m jaxlm.train --recipe wt2-2h-cpu --corpus wikitext-2 --dtype bfloat16 --epochs 8"
SUB_WORDS = "--tokens bpe --vocab-size 8000"
# The recipe's second cutoff, 10,000, is beyond the sub-words.
CUTOFFS = "--cutoffs 4000"
NAMES = ("ngram-words", "lstm-words", "ngram-bpe", "lstm-bpe")
RUNS = " ".join(f"runs/{name}-wikitext-2" for name in NAMES)


def main() -> None:
    """Train the four runs, print their perplexities, and measure the pairs."""
    pairs = find_corpus("blimp")
    if pairs == "blimp":
        print("error: give the folder that holds wikitext-2/ and blimp/", file=sys.stderr)
        sys.exit(2)
    ngram = "python -m jaxlm.train --model ngram --corpus wikitext-2 --order 5"
    run(
        f"{ngram} --out runs/ngram-words-wikitext-2",
        f"{LSTM} --out runs/lstm-words-wikitext-2",
        f"{ngram} {SUB_WORDS} --out runs/ngram-bpe-wikitext-2",
        f"{LSTM} {SUB_WORDS} {CUTOFFS} --out runs/lstm-bpe-wikitext-2",
        f"python -m jaxlm.evaluate {RUNS} --split valid",
        f"python -m jaxlm.pairs {RUNS} {pairs} --split wikitext --out blimp.tsv",
        f"python -m jaxlm.pairs {RUNS} {pairs} --split wikitext --by paradigm",
    )


if __name__ == "__main__":
    main()
