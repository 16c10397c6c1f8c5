"""Train VAEs: recipes to read and to change.

A training reads from left to right: `data/` loads and splits the images, `recipes` and `config` say what is trained and
how fast, `trainer` does the steps on the `loss`, `session` scores each epoch (`scoring`) and keeps the best weights as
the checkpoint of a run folder, from which a stopped training is resumed (`resume`, `run_folder`).

    data ─▶ recipe ─▶ trainer ─▶ session ─▶ checkpoint

`fit` is all of that in one call, for a notebook and for the command. The commands are in `cli/`. This package lives in
the checkout and is not installed; it imports `vae_export`, never the other way round.
"""
