"""The whole toolkit from a checkout: the commands of `vae-export`, plus `train`, `evaluate` and `runs`.

python cli.py train && python cli.py export --format onnx && python cli.py verify
"""

from vae_export.cli import prepare

if __name__ == "__main__":
    prepare()
    from vae_export.cli.app import main

    main("train.cli:train", "train.cli:evaluate", "train.cli:runs")
