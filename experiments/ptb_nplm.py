"""Bengio's NPLM on PTB, four words of context.

Command    python experiments/ptb_nplm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    not yet measured
Expected   not yet measured
Published  140.2 for a feed-forward model (Mikolov 2011)
"""

from commands import run

run(
    "python -m jaxlm.train --model nplm --corpus ptb --n-step 4 --embedding-size 200 "
    "--hidden-size 400 --dropout 0.3 --batching windows --batch-size 512 --lr 1e-3 --schedule "
    "cosine --epochs 12 --out runs/nplm-ptb",
    "python -m jaxlm.evaluate runs/nplm-ptb",
)
