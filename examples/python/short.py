"""python short.py [BUNDLE] tests a bundle and draws 16 images with `vae_export`, which needs no torch."""

import sys

import vae_export

model = vae_export.load(*sys.argv[1:2] or ["artifacts/reference/mnist.zip"])
images = model.sample(16, seed=0)  # (16, 1, 28, 28) float32 in [0, 1]
print(images.shape, images.dtype)
test = model.self_test()
print(test)
test.require()  # raises, and so exits with 1, if an output is wrong
