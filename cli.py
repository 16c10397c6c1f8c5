"""The whole toolkit from a checkout: the commands of `vae-export`, plus `train`, `evaluate` and `runs`.

python cli.py train && python cli.py export --format onnx && python cli.py verify
"""

from vae_export.cli import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()
    from train.cli import evaluate, runs, train
    from vae_export.cli.app import main

    main(train, evaluate, runs)
