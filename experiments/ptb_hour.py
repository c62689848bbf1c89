"""An LSTM that learns PTB in an hour; what a cache and dynamic evaluation add; KN5 and both mixed.

Command    python experiments/ptb_hour.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX2)
Minutes    64: 59 of training, 5 to adapt
Expected   test: LSTM 81.76; with a cache, dynamic evaluation and a temperature 71.14; mixed with
           KN5 (141.19) and a unigram cache 73.65
Published  none

How many epochs an hour has is the machine's affair (24.7 of them here), and the figures with it. On
two cores with bfloat16 units `--recipe ptb-1h-bfloat16` in the place of ptb-1h-cpu had 29.6 epochs
in 55 minutes: 76.96, then 67.58, and 70.19.
"""

from commands import run

run(
    "python -m jaxlm.train --recipe ptb-1h-cpu --corpus ptb --out runs/ptb-1h-cpu-0",
    "python -m jaxlm.train --model ngram --corpus ptb --out runs/ngram-ptb",
    "python -m jaxlm.evaluate runs/ptb-1h-cpu-0 --cache 500 --dynamic --dynamic-steps 20 "
    "--temperature auto",
    "python -m jaxlm.evaluate runs/ngram-ptb runs/ptb-1h-cpu-0 --mix --unigram-cache 80",
)
