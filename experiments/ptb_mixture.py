"""Mix NPLM and Kneser-Ney on PTB, as Bengio et al. 2003 did; then add a unigram cache.

Command    python experiments/ptb_mixture.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    70: 69 for the NPLM's training (experiments/ptb_nplm.py), 1 for the rest
Expected   test: KN5 141.19, NPLM 133.42, both 114.10 (0.5/0.5: 114.46); KN5
           with a cache 125.17; all three 104.67
Published  KN5 141.2, NPLM 140.2, both 116.7; KN5 with a cache 125.7 (Mikolov 2011)

The half-life of the cache, 80 words, is the best of 50, 80 and 120 on the validation split.
"""

from commands import run

run(
    "python -m jaxlm.train --model ngram --corpus ptb --out runs/ngram-ptb",
    "python -m jaxlm.train --model nplm --corpus ptb --n-step 4 --embedding-size 400 "
    "--hidden-size 400 --tied --dropout 0.5 --batching windows --batch-size 512 --lr 1.5e-3 "
    "--schedule cosine --epochs 12 --out runs/nplm-ptb",
    "python -m jaxlm.evaluate runs/ngram-ptb runs/nplm-ptb --mix",
    "python -m jaxlm.evaluate runs/ngram-ptb runs/nplm-ptb --mix --weights .5,.5",
    "python -m jaxlm.evaluate runs/ngram-ptb --mix --unigram-cache 80",
    "python -m jaxlm.evaluate runs/ngram-ptb runs/nplm-ptb --mix --unigram-cache 80",
)
