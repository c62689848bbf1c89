"""Train Bengio's NPLM on PTB: four words of context, tied embeddings.

Command    python experiments/ptb_nplm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    68, with other trainings on the cores
Expected   test 133.4, valid 144.8
Published  140.2 test for a feed-forward model (Mikolov 2011)
"""

from commands import run

run(
    "python -m jaxlm.train --model nplm --corpus ptb --n-step 4 --embedding-size 400 "
    "--hidden-size 400 --tied --dropout 0.5 --batching windows --batch-size 512 --lr 1.5e-3 "
    "--schedule cosine --epochs 12 --out runs/nplm-ptb",
    "python -m jaxlm.evaluate runs/nplm-ptb",
)
