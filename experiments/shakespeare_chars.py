"""Train a character LSTM on tiny Shakespeare.

Command    python experiments/shakespeare_chars.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    7, with tests running on the cores
Expected   valid 1.739 nats per character
Published  1.55 nats per character (minLSTM, Feng 2024)
"""

from commands import run

run(
    "python -m jaxlm.train --model lstm --corpus tinyshakespeare --tokens chars "
    "--fractions 0.9 0.1 --embedding-size 64 --hidden-size 256 --num-layers 2 --dropout 0.2 "
    "--drop-state 0 --batch-size 32 --bptt 64 --lr 2e-3 --schedule cosine --epochs 6 "
    "--out runs/lstm-shakespeare",
    "python -m jaxlm.evaluate runs/lstm-shakespeare --split valid",
)
