"""Train an LSTM 2x200 with tied embeddings on WikiText-2 for one epoch.

Command    python experiments/wikitext2_lstm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    17 (2,160 tokens/s)
Expected   335.02 / 313.27 (valid / test), seed 0
Published  96.3 test after 40 epochs, 200 units, tied (word_language_model)
"""

from commands import run

run(
    "python -m jaxlm.train --model lstm --corpus wikitext-2 --embedding-size 200 --hidden-size 200 "
    "--num-layers 2 --tied --dropout 0.2 --batch-size 20 --bptt 35 --lr 2e-3 --schedule cosine "
    "--clip 1 --drop-state 0 --epochs 1 --out runs/lstm-wikitext-2",
    "python -m jaxlm.evaluate runs/lstm-wikitext-2",
)
