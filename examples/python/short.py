"""python short.py BUNDLE: the same with `vae_export` installed, which needs no torch either."""

import sys

import vae_export

model = vae_export.load(sys.argv[1])
images = model.sample(16, seed=0)  # (16, 1, 28, 28) float32 in [0, 1]
print(images.shape, images.dtype, "self-test passed" if model.self_test().passed else "self-test FAILED")
