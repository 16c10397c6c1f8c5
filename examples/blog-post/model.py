"""A variational autoencoder as a first tutorial writes it: two modules that know nothing of vae-export."""

import torch
from torch import nn


class Encoder(nn.Module):
    """Flat images (N, 784) → a drawn latent, mu and logvar, each (N, 20)."""

    def __init__(self, pixels=784, hidden=400, latent=20):
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Dropout(0.2))
        self.fc2 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.2))
        self.mu = nn.Sequential(nn.Linear(hidden, latent), nn.ReLU())
        self.logvar = nn.Sequential(nn.Linear(hidden, latent), nn.ReLU())

    def forward(self, x):
        h = self.fc2(self.fc1(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        return z, mu, logvar


class Decoder(nn.Module):
    """A latent (N, 20) → flat images (N, 784) in [0, 1]."""

    def __init__(self, pixels=784, hidden=400, latent=20):
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Dropout(0.2))
        self.fc2 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.2))
        self.fc3 = nn.Linear(hidden, pixels)

    def forward(self, z):
        return torch.sigmoid(self.fc3(self.fc2(self.fc1(z))))


def vae():
    """What `--model model.py:vae` calls."""
    return Encoder(), Decoder()
