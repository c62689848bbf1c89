"""AWD-LSTM on PTB: its first three epochs on a CPU.

Command    python experiments/awd_lstm.py [folder of corpora]
Hardware   two CPU cores with AVX-512
Minutes    70, with other work on the cores
Expected   valid 287.6, 199.6, 161.5 after each epoch; on a GPU 292.9, 200.1, 160.9: awd_lstm.md
Published  60.7 / 58.8 (valid / test) after 500 epochs

The whole of it is `python -m jaxlm.train --recipe awd-lstm-ptb`: on an H100 nine seconds an epoch,
so an hour and a quarter. Cut off, it goes on with `--resume`.
"""

from commands import run

run("python -m jaxlm.train --recipe awd-lstm-ptb --epochs 3 --corpus ptb --out runs/awd-lstm-3")
