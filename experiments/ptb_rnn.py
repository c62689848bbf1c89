"""Elman RNN 2x200 on PTB, by the command of the LSTM at a lower rate (at 20 it diverges).

Command    python experiments/ptb_rnn.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    27, beside other trainings
Expected   test 140.4, valid 145.9
Published  124.7 for an RNN with BPTT (Mikolov 2011)
"""

from commands import run

run(
    "python -m jaxlm.train --model rnn --recipe zaremba-small --lr 5 --corpus ptb "
    "--out runs/rnn-ptb",
    "python -m jaxlm.evaluate runs/rnn-ptb",
)
