"""GRU 2x200 on PTB, by the command of the LSTM.

Command    python experiments/ptb_gru.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    not yet measured
Expected   not yet measured
Published  none at this size
"""

from commands import run

run(
    "python -m jaxlm.train --model gru --recipe zaremba-small --corpus ptb --out runs/gru-ptb",
    "python -m jaxlm.evaluate runs/gru-ptb",
)
