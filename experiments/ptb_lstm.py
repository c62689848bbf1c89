"""LSTM 2x200 on PTB: the small recipe of Zaremba et al. 2014.

Command    python experiments/ptb_lstm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    not yet measured
Expected   test 115.57, valid 119.17 (a run stopped after epoch 10 of 13)
Published  120.7 valid, 114.5 test
"""

from commands import run

run(
    "python -m jaxlm.train --recipe zaremba-small --corpus ptb --out runs/lstm-ptb",
    "python -m jaxlm.evaluate runs/lstm-ptb",
)
