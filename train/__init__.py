"""Recipes: data, training, evaluation and pictures of the VAE families. To read and to change.

    options.py, recipes.py  what to train on what; how long and how fast
    preset.py, presets/     options under a name
    data.py                 the data sets by name, and their splits
    protocol.py             what becomes of grey levels before a model sees them
    idx.py, folder.py       reading MNIST-like files, reading a folder of images
    torchvision_import.py   why `import torchvision` needs care
    objective.py            the loss
    schedule.py             the learning rate
    scored.py               a model as its scores see it, in PyTorch or exported
    evaluate.py             the figures that are reported
    importance.py           -log p(x) by importance weighting
    evaluations.py          what `evaluate` found, kept with the run
    outcome.py              what became of a training, from its run folder
    wording.py              what figures may be called
    doctor.py               what a person should know meanwhile
    weights.py              the weights that training starts from
    draws.py                what is drawn, by seed and step
    loop.py                 one epoch after the other
    claim.py                who may write to a run folder
    state.py, settings.py   what resuming needs, and by what it knows a training as the same
    stop.py                 Ctrl-C and SIGTERM wait for the end of a step
    session.py              a training in its run folder: checkpoints, metrics, state
    report.py               what a person sees meanwhile
    events.py               event files for TensorBoard
    pictures/               what a trained model looks like
    commands/               `cli.py train`, `evaluate`, `runs`

This package lives in the checkout and is not installed. It imports `vae_export`, never the other way.
"""
