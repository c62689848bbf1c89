"""AWD-LSTM on PTB: its first three epochs on a CPU.

Command    python experiments/awd_lstm.py [folder of corpora]
Hardware   two CPU cores with AVX-512
Minutes    70, with other work on the cores
Expected   valid 287.6, 199.6, 161.5 after epochs 1 to 3; on a GPU 292.9, 200.1, 160.9 (awd_lstm.md)
Published  60.7 / 58.8 (valid / test) after 500 epochs

The full training is `python -m jaxlm.train --recipe awd-lstm-ptb`. On an H100 an epoch takes nine
seconds, and 500 epochs an hour and a quarter. After an interruption, add `--resume`.
"""

from commands import run

run("python -m jaxlm.train --recipe awd-lstm-ptb --epochs 3 --corpus ptb --out runs/awd-lstm-3")
