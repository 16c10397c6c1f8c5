"""Recipes: data, training, evaluation and pictures of the VAE families. To read and to change.

    options.py              what to train, on what, how long
    data.py                 the data sets by name, and their splits
    idx.py, folder.py       reading MNIST-like files, reading a folder of images
    torchvision_import.py   why `import torchvision` needs care
    objective.py            the loss
    evaluate.py             the figures that are reported
    weights.py              the weights that training starts from
    loop.py                 one epoch after the other
    session.py              a training in its run folder: lock, checkpoints, metrics, Ctrl-C
    report.py               what a person sees meanwhile
    pictures.py             what a trained model looks like
    commands.py             `cli.py train`, `cli.py evaluate`

This package lives in the checkout and is not installed. It imports `vae_export`, never the other way.
"""
