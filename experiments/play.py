"""Build docs/play/index.html: small models of two books that run in the reader's browser.

Command    python experiments/play.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC), shared with other work
Minutes    33
Expected   a page under 6 MB
Published  none
"""

from commands import run

FOLDER = "runs/play"
SHAKESPEARE = "--corpus tinyshakespeare --tokens chars --sample-every 0"
JOURNEY = "--corpus xiyouji --tokens chars --vocab-size 2500 --sample-every 0"
NEURAL = "--batch-size 32 --bptt 64 --schedule cosine"

run(
    f"python -m jaxlm.train --model ngram {SHAKESPEARE} --order 5 --stream "
    f"--out {FOLDER}/shakespeare-ngram",
    f"python -m jaxlm.train --model ngram {JOURNEY} --order 3 --stream "
    f"--out {FOLDER}/journey-ngram",
    f"python -m jaxlm.train --model lstm {SHAKESPEARE} {NEURAL} --embedding-size 32 "
    f"--hidden-size 256 --lr 4e-3 --epochs 12 --max-minutes 9 --out {FOLDER}/shakespeare-lstm",
    f"python -m jaxlm.train --model lstm {JOURNEY} {NEURAL} --embedding-size 96 --tied "
    f"--hidden-size 224 --dropout 0.1 --lr 4e-3 --epochs 10 --max-minutes 14 "
    f"--out {FOLDER}/journey-lstm",
    f"python -m jaxlm.train --model nplm {SHAKESPEARE} {NEURAL} --n-step 8 --embedding-size 16 "
    f"--hidden-size 384 --lr 2e-3 --epochs 10 --max-minutes 4 --out {FOLDER}/shakespeare-nplm",
    f"python -m jaxlm.train --model nplm {JOURNEY} {NEURAL} --n-step 5 --embedding-size 64 --tied "
    f"--hidden-size 192 --lr 2e-3 --epochs 10 --max-minutes 6 --out {FOLDER}/journey-nplm",
)
