"""Train an LSTM on PTB in an hour; evaluate it with a cache, dynamically, and mixed with KN5.

Command    python experiments/ptb_hour.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX2)
Minutes    64: 59 of training, 5 to adapt
Expected   test: LSTM 81.76; with a cache, dynamic evaluation and a temperature 71.14; mixed with
           KN5 (141.19) and a unigram cache 73.65
Published  none

The number of epochs in an hour, and so the perplexities, depend on the machine (24.7 epochs here).
On two cores with bfloat16 units, `--recipe ptb-1h-bfloat16` in place of ptb-1h-cpu had 37.5 epochs
in 59 minutes. Its perplexities are 74.03, 65.68 (64.87 with `--cache 2000 --dynamic-steps 10`) and
68.05.
"""

from commands import run

run(
    "python -m jaxlm.train --recipe ptb-1h-cpu --corpus ptb --out runs/ptb-1h-cpu-0",
    "python -m jaxlm.train --model ngram --corpus ptb --out runs/ngram-ptb",
    "python -m jaxlm.evaluate runs/ptb-1h-cpu-0 --cache 500 --dynamic --dynamic-steps 20 "
    "--temperature auto",
    "python -m jaxlm.evaluate runs/ngram-ptb runs/ptb-1h-cpu-0 --mix --unigram-cache 80",
)
