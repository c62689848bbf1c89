"""GRU 2x200 on PTB, by the command of the LSTM.

Command    python experiments/ptb_gru.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    41, beside another training
Expected   test 156.4, valid 162.0: the rate, 20, is too high for a GRU
Published  none at this size
"""

from commands import run

run(
    "python -m jaxlm.train --model gru --recipe zaremba-small --corpus ptb --out runs/gru-ptb",
    "python -m jaxlm.evaluate runs/gru-ptb",
)
