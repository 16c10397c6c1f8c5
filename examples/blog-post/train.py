"""Train model.py with a plain loop and save its weights: python train.py [epochs]

The data is scikit-learn's digits, which come with the package, enlarged to 28 x 28.
"""

import sys

import torch
import torch.nn.functional as F
from model import Decoder, Encoder
from sklearn.datasets import load_digits


def images():
    """Return 1,797 digits as flat rows (N, 784) in [0, 1]."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    return F.interpolate(digits, size=(28, 28), mode="bilinear").clamp(0, 1).flatten(1)


def train(epochs):
    """Return the trained modules."""
    torch.manual_seed(0)
    encoder, decoder, data = Encoder(), Decoder(), images()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for batch in data[torch.randperm(len(data))].split(128):
            z, mu, logvar = encoder(batch)
            reconstruction = F.binary_cross_entropy(decoder(z), batch, reduction="sum")
            divergence = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()
            loss = (reconstruction + divergence) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1}: {total / len(data):.1f} nats per image")
    return encoder, decoder


if __name__ == "__main__":
    encoder, decoder = train(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, "vae.pt")
    print("saved vae.pt")
