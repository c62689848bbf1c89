"""LSTM 2x200 on WikiText-2.

Command    python experiments/wikitext2_lstm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    not yet measured
Expected   not yet measured
Published  96.3 test after 40 epochs, 200 units, tied (word_language_model)
"""

from commands import run

run(
    "python -m jaxlm.train --recipe zaremba-small --corpus wikitext-2 --epochs 2 "
    "--full-epochs 1 --out runs/lstm-wikitext-2",
    "python -m jaxlm.evaluate runs/lstm-wikitext-2",
)
