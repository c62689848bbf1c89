"""LSTM 2x200 on PTB: the small recipe of Zaremba et al. 2014.

Command    python experiments/ptb_lstm.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    41, beside another training (18 alone, by the 11,000 tokens/s of its first 400 steps)
Expected   test 113.2, valid 118.1
Published  120.7 valid, 114.5 test
"""

from commands import run

run(
    "python -m jaxlm.train --recipe zaremba-small --corpus ptb --out runs/lstm-ptb",
    "python -m jaxlm.evaluate runs/lstm-ptb",
)
