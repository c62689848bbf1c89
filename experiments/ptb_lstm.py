"""Train an LSTM 2x200 on PTB: the small recipe of Zaremba et al. 2014.

Command    python experiments/ptb_lstm.py [folder of corpora]
Hardware   one CPU core (AMD EPYC with AVX2), shared with another training, at times paused
Minutes    122; estimates: 76 alone on the core (150 ms per step), 38 on two cores (76 ms per step)
Expected   test 114.1, valid 117.4
Published  120.7 valid, 114.5 test
"""

from commands import run

run(
    "python -m jaxlm.train --recipe zaremba-small --corpus ptb --out runs/lstm-ptb",
    "python -m jaxlm.evaluate runs/lstm-ptb",
)
