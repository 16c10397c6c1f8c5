"""The images that models are trained and scored on: MNIST and its like, digits, a folder of pictures."""
