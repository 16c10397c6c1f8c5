"""The whole toolkit from a checkout: the commands of `vae-export`, plus `train` and `evaluate`.

python cli.py train && python cli.py export --format onnx && python cli.py verify
"""

from train.commands import evaluate, train
from vae_export.cli import main

if __name__ == "__main__":
    main(train, evaluate)
