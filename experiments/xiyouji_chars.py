"""Train a character LSTM on Journey to the West, unsegmented Chinese.

Command    python experiments/xiyouji_chars.py FOLDER   (FOLDER holds xiyouji/)
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    11, with tests running on the cores
Expected   valid 4.80 nats per character (perplexity 121.1), test 5.10 (164.5)
Published  none
"""

from commands import run

run(
    "python -m jaxlm.train --model lstm --corpus xiyouji --tokens chars --min-count 2 "
    "--embedding-size 256 --hidden-size 256 --dropout 0.2 --batch-size 32 --bptt 64 --lr 2e-3 "
    "--schedule cosine --drop-state 0 --epochs 10 --out runs/lstm-xiyouji",
    "python -m jaxlm.evaluate runs/lstm-xiyouji --split test",
    "python -m jaxlm.generate runs/lstm-xiyouji --prompt '却说' --length 200 --temperature 0.8 "
    "--seed 3",
)
