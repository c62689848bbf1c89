"""Count character n-grams of tiny Shakespeare and of Journey to the West.

Command    python experiments/char_ngrams.py FOLDER   (FOLDER holds xiyouji/)
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    0.1
Expected   tiny Shakespeare: valid 1.519 nats per character; Journey to the West: valid 4.664, test
           4.975
Published  none
"""

from commands import run

run(
    "python -m jaxlm.train --model ngram --corpus tinyshakespeare --tokens chars "
    "--fractions 0.9 0.1 --order 8 --stream --out runs/ngram-shakespeare",
    "python -m jaxlm.train --model ngram --corpus xiyouji --tokens chars --min-count 2 --order 5 "
    "--out runs/ngram-xiyouji",
    "python -m jaxlm.evaluate runs/ngram-xiyouji --split test",
)
