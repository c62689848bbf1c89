"""Write the Brown corpus as the recipe `bengio-2003` reads it, from the file of NLTK.

Command    python -c "import nltk; nltk.download('brown')"
           python experiments/brown.py ~/nltk_data/corpora/brown.zip FOLDER
           python experiments/reproduce.py bengio-2003 --data FOLDER
Hardware   any
Minutes    0.1
Expected   FOLDER/brown with 800,066, 200,012 and 176,781 tokens, `<eos>` included
Published  1,181,041 words: 800,000, 200,000 and 181,041; a vocabulary of 16,383 (Bengio et al.
           2003, section 4.1)

A line is a paragraph, so that `<eos>` is the mark between paragraphs, which the paper counts too.
Capital letters and punctuation stay. A word that occurs at most three times in the whole corpus is
`<unk>`. The parts follow one another in the order of the files, as in
the paper: the test text is fiction, and the training text is not.
"""

import argparse
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TRAIN, VALID = 800_000, 200_000
"""Tokens of the first two parts, with one mark for each paragraph."""
RARE = 3
"""A word that occurs at most this often is `<unk>`."""


def paragraphs(archive: Path) -> Iterator[list[str]]:
    """Yield the words of each paragraph of the corpus."""
    with zipfile.ZipFile(archive) as files:
        # Names of texts are c, a genre from a to r, and a number of two digits.
        names = [name for name in files.namelist() if name.count("/") == 1 and name[-2:].isdigit()]
        for name in sorted(names):
            words: list[str] = []
            # A line is a sentence, and blank lines stand between paragraphs.
            for line in [*files.read(name).decode("ascii").splitlines(), ""]:
                words += [token.rpartition("/")[0] for token in line.split()]
                if words and not line.strip():
                    yield words
                    words = []


def main() -> None:
    """Write train.txt, valid.txt and test.txt, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="brown.zip of NLTK")
    parser.add_argument("folder", type=Path, help="where the folder brown is made")
    options = parser.parse_args()
    if not zipfile.is_zipfile(options.archive):
        parser.error(f"{options.archive} is no zip file: give the file brown.zip of NLTK")
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    sizes = dict.fromkeys(parts, 0)
    corpus = list(paragraphs(options.archive))
    counts = Counter(word for words in corpus for word in words)
    for words in corpus:
        before = sum(sizes.values())
        name = "train" if before < TRAIN else "valid" if before < TRAIN + VALID else "test"
        parts[name].append(" ".join(word if counts[word] > RARE else "<unk>" for word in words))
        sizes[name] += len(words) + 1
    print(f"vocabulary: {sum(count > RARE for count in counts.values()) + 2:,}")
    target = options.folder / "brown"
    target.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines):,} paragraphs, {sizes[name]:,} tokens with their ends")


if __name__ == "__main__":
    main()
