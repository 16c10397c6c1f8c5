"""The images that models are trained and scored on: MNIST and its kin, digits, a folder of images."""
