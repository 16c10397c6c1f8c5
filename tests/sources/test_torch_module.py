"""A function of the user's, in a file or a package, and files of weights become a source."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vae_export import export, load, verify
from vae_export.capture import Captured
from vae_export.contract import Condition
from vae_export.errors import ModelError, UsageError, VaeExportError
from vae_export.sources import load_source

#: A decoder that takes several draws of each row, where the encoder gives the mean of one.
METHODS = """
class Draws(VAE):
    def decode(self, z):
        rows, draws, width = z.shape
        return super().decode(z.mean(1))

def encoder_alone():
    return Draws().encode, None

def decoder_alone():
    return None, Draws().decode
"""
BLOG = Path(__file__).parents[2] / "examples" / "blog-post"
#: What the file of a user may hold.
CODE = """
import types

import torch
from torch import nn

class VAE(nn.Module):
    def __init__(self, latent=4):
        super().__init__()
        self.body = nn.Linear(36, 16)
        self.fc_mu, self.fc_var = nn.Linear(16, latent), nn.Linear(16, latent)
        self.out = nn.Linear(latent, 36)

    def encode(self, x):
        h = torch.relu(self.body(x.flatten(1)))
        return [self.fc_mu(h), self.fc_var(h)]

    def decode(self, z):
        return torch.sigmoid(self.out(z)).view(-1, 1, 6, 6)

class Plain(VAE):
    def encode(self, x):
        return self.fc_mu(torch.relu(self.body(x.flatten(1))))

    def decode(self, z):
        return self.out(z)

def conv():
    return nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1)), nn.Sequential(nn.ConvTranspose2d(4, 1, 2, 2), nn.Tanh())

def map_decoder():
    return None, nn.Sequential(nn.ConvTranspose2d(4, 1, 2, 2), nn.Tanh())

def decoder():
    return None, nn.Sequential(nn.Linear(4, 36), nn.Sigmoid())

class Counts(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.rate, self.scale, self.give = nn.Linear(4, 36), nn.Linear(4, 36), give

    def forward(self, z):
        return self.give(self.rate(z), torch.exp(self.scale(z)))

def counts():
    return None, Counts(lambda rate, scale: {"scale": scale, "rate": rate})

def student():
    return None, Counts(lambda rate, scale: torch.distributions.StudentT(3.0, rate, scale))

def pair():
    return None, Counts(lambda rate, scale: (scale, torch.distributions.Laplace(rate, scale)))

class Rows(nn.Module):
    # Reads 6 rows of 6 numbers, and no picture.
    def __init__(self, channels=1):
        super().__init__()
        self.rows, self.out, self.channels = nn.LSTM(6, 8, batch_first=True), nn.Linear(4, 36 * channels), channels

    def encode(self, x):
        return self.rows(x)[0][:, -1]

    def decode(self, z):
        return torch.sigmoid(self.out(z)).view(-1, self.channels, 6, 6)

def two_channels():
    return Rows(2)

class Codes(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.up = nn.Sequential(nn.ConvTranspose2d(3, 1, 2, 2), nn.Sigmoid())

    def encode(self, x):
        return (x[:, 0, ::2, ::2] * 4.99).long(), x.mean()

    def decode(self, codes):
        return self.up(self.table(codes).permute(0, 3, 1, 2))

class Quantised(nn.Module):
    # Two quantised maps for the decoder beside their codes, and the codebook is no nn.Embedding.
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Parameter(torch.randn(5, 1)), nn.Linear(18, 36)

    def encode(self, x):
        codes = (x[:, 0, ::2, ::2] * 4.99).long()
        latent = self.table[codes][..., 0]
        return latent, -latent, x.mean(), codes, codes

    def decode(self, top, bottom):
        return self.out(torch.cat([top, bottom], 1).flatten(1)).view(-1, 1, 6, 6)

class TakesCodes(Quantised):
    def decode(self, top, bottom):
        return super().decode(self.table[top][..., 0], self.table[bottom][..., 0])

class HeadsOutside(nn.Module):
    # `encoder` gives features; the heads lie beside it, and `forward` alone uses them.
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(16, 4), nn.Linear(16, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 36), nn.Sigmoid(), nn.Unflatten(1, (1, 6, 6)))

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        return self.decoder(mu + torch.randn_like(mu) * torch.exp(logvar / 2)), mu, logvar

class Steps(nn.Module):
    # Mean and logvar of each of 6 steps in the last axis.
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(6, 8), nn.Linear(4, 6)

    def encode(self, x):
        return self.body(x[:, 0])

    def decode(self, z):
        return torch.sigmoid(self.out(z))[:, None]

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body, self.out = nn.Embedding(20, 4), nn.Linear(24, 6), nn.Linear(3, 120)

    def encode(self, tokens):
        return self.body(self.table(tokens).flatten(1)).chunk(2, 1)

    def decode(self, z):
        return self.out(z).view(-1, 6, 20)

class Tokens(nn.Module):
    # Tokens of any number, and scores of each of 20 for each of them.
    def __init__(self):
        super().__init__()
        self.table, self.body, self.out = nn.Embedding(20, 4), nn.Linear(4, 6), nn.Linear(3, 20)

    def encode(self, tokens):
        return self.body(self.table(tokens)).chunk(2, -1)

    def decode(self, z):
        return self.out(z)

class Labelled(VAE):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 4)

    def encode(self, x, label):
        mean, logvar = super().encode(x)
        return mean + self.embed(label), logvar

    def decode(self, z, label):
        return super().decode(z + self.embed(label))

class LabelledFromOne(Labelled):
    def encode(self, x, label):
        return super().encode(x, label - 1)

    def decode(self, z, label):
        return super().decode(z, label - 1)

class Ladder(VAE):
    def __init__(self):
        super().__init__()
        self.top, self.join = nn.Linear(36, 4), nn.Linear(2, 4)

    def encode(self, x):
        return [tuple(super().encode(x)), tuple(self.top(x.flatten(1)).chunk(2, 1))]

    def decode(self, low, high):
        return super().decode(low + self.join(high))

class Listed(Ladder):
    def encode(self, x):
        (mean1, logvar1), (mean2, logvar2) = super().encode(x)
        return [mean1, mean2], [logvar1, logvar2]

    def decode(self, latents):
        return super().decode(*latents)

class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(1, 4, 4, 4), nn.Conv2d(1, 2, 2, 2)
        self.up, self.out = nn.ConvTranspose2d(2, 1, 2, 2), nn.ConvTranspose2d(2, 1, 2, 2)

    def encode(self, x):
        return {"mean1": self.coarse(x)[:, :2], "logvar1": self.coarse(x)[:, 2:],
                "mean2": self.fine(x)[:, :1], "logvar2": self.fine(x)[:, 1:]}

    def decode(self, coarse, fine):
        return torch.sigmoid(self.out(torch.cat([self.up(coarse), fine], 1)))

class Named(Labelled):
    # An argument with a default lies before the condition.
    def encode(self, x, *, label):
        return super().encode(x, label)

    def decode(self, z, scale=2.0, label=None):
        return super().decode(scale * z, label)

class AnyName(Labelled):
    def encode(self, x, **kwargs):
        return super().encode(x, kwargs["label"])

    def decode(self, z, **kwargs):
        return super().decode(z, kwargs["label"])

class Autocast(VAE):
    def encode(self, x):
        with torch.autocast("cpu"):
            return super().encode(x)

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def decode(self, z):
        return super().decode(z)

class Batches(VAE):
    # It was trained in batches of 16, and takes no other.
    def encode(self, x):
        h = torch.relu(self.body(x.view(16, 36)))
        return self.fc_mu(h), self.fc_var(h)

    def decode(self, z):
        return torch.sigmoid(self.out(z)).view(16, 1, 6, 6)

    def forward(self, x):
        mean, logvar = self.encode(x)
        return self.decode(mean + torch.exp(logvar) * torch.randn_like(mean))

class OneRow(VAE):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def decode(self, z):
        steps, _ = self.rnn(z[:, None], torch.zeros(1, 1, 4))
        return super().decode(steps[:, 0])

class Sparse(VAE):
    def __init__(self):
        super().__init__()
        self.register_buffer("links", torch.eye(4).to_sparse())

    def decode(self, z):
        return super().decode(torch.sparse.mm(self.links, z.T).T)

class Scripted(VAE):
    def __init__(self):
        super().__init__()
        self.body = torch.jit.script(self.body)

def scripted_pair():
    return torch.jit.script(nn.Linear(6, 8)), nn.Linear(4, 6)

class Namespace(VAE):
    def encode(self, x):
        mu, logvar = super().encode(x)
        return types.SimpleNamespace(hidden=x, mu=mu, log_var=logvar, beta=1.0)

class Series(nn.Module):
    # A linear layer behind an LSTM: its values are small on random latents, and have no range.
    def __init__(self):
        super().__init__()
        self.body, self.rnn, self.out = nn.Linear(3, 8), nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)

    def encode(self, x):
        return self.body(x.mean(1)).chunk(2, 1)

    def decode(self, z):
        return self.out(self.rnn(z[:, None].repeat(1, 12, 1))[0])

class Bounded(Series):
    def decode(self, z):
        return torch.tanh(super().decode(z))

class Sided(VAE):
    def encode(self, x, style):
        return super().encode(x + style.mean(1)[:, None, None, None])

    def decode(self, z, size, style):
        return super().decode(z * size + style)

def compiled(): return torch.compile(VAE(), backend="eager")
def compiled_pair(): return None, torch.compile(nn.Sequential(nn.Linear(4, 36), nn.Sigmoid()), backend="eager")
def lazy(): return None, nn.Sequential(nn.LazyLinear(36), nn.Sigmoid())
def meta(): return VAE().to("meta")
def module(): return VAE()
def raises(): raise ValueError("no luck")
def nothing(): return None
def tensor(): return torch.zeros(3)
def three(): return VAE(), VAE(), VAE()
def linear(): return nn.Linear(3, 3)
def needs(width): return VAE(width)
text = "not a function"
instance = nn.Identity()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_latent_encoding_and_range_are_inferred_and_recorded(file: Path) -> None:
    source = load_source(f"{file}:VAE", data_shape="1x6x6")
    assert source.contract.to_json() == {
        "image_shape": [1, 6, 6],
        "image_range": [0.0, 1.0],
        "latent_shape": [4],
        "prior": "standard normal",
        "likelihood": None,
    }
    assert source.provenance["source"] == "mine.py:VAE"
    assert source.provenance["class"] == "VAE"
    inferred = source.provenance["inferred"]
    assert (inferred["latent_shape"], inferred["encoding"], inferred["data_range"]) == ([4], "gaussian", [0.0, 1.0])


def test_each_part_has_its_own_weights_alone(file: Path) -> None:
    source = load_source(f"{file}:VAE", data_shape="1x6x6")
    assert {name.split(".")[1] for name in source.encoder.state_dict()} == {"body", "fc_mu", "fc_var"}
    assert {name.split(".")[1] for name in source.decoder.state_dict()} == {"out"}


def test_moments_are_told_from_a_latent_by_the_decoder(file: Path) -> None:
    source = load_source(f"{file}:conv", data_shape="1x8x8")
    assert source.contract.encoding == "gaussian"
    assert source.contract.latent_shape == (4, 4, 4)
    assert source.contract.data_range == (-1.0, 1.0)
    assert source.provenance["inferred"]["other_sizes"] == "1x2*hx2*w"
    assert source.provenance["notes"] == ["the modules run at other sizes too: --data-shape 1x2*hx2*w leaves them free"]


def test_heads_beside_the_encoder_are_found_in_forward(file: Path, tmp_path: Path) -> None:
    source = load_source(f"{file}:HeadsOutside", data_shape="1x6x6")
    assert (source.contract.encoding, source.contract.latent_shape) == ("gaussian", (4,))
    assert source.provenance["notes"][0].startswith("encoder: mean and logvar are those of forward(), because .encoder")
    artifact, _ = export(source, tmp_path / "out", parts=["encoder"])
    data = np.zeros((2, 1, 6, 6), np.float32)
    with torch.no_grad():
        _, mean, logvar = source.recognised.encoder.module.module(torch.from_numpy(data))
    found = load(artifact.folder).encode(data)
    np.testing.assert_allclose(found[0], mean, atol=1e-5)
    np.testing.assert_allclose(found[1], logvar, atol=1e-5)


def test_moments_of_steps_are_halves_of_the_last_axis(file: Path) -> None:
    contract = load_source(f"{file}:Steps", data_shape="1x6x6").contract
    assert (contract.encoding, contract.latent_shape) == ("gaussian", (6, 4))


def test_latent_of_free_sizes_is_inferred(file: Path) -> None:
    contract = load_source(f"{file}:conv", data_shape="1x2*hx2*w").contract
    assert contract.data_shape == (1, "2*h", "2*w")
    assert contract.latent_shape == (4, "h", "w")
    shifted = load_source(f"{file}:conv", data_shape="1x4*hx4*w").contract
    assert shifted.latent_shape == (4, "2*h", "2*w")


def test_single_latent_is_deterministic_and_wide_values_warn(file: Path) -> None:
    source = load_source(f"{file}:Plain", data_shape="1x6x6")
    assert source.contract.encoding == "deterministic"
    assert source.contract.data_range == (0.0, 1.0)
    assert not source.contract.output.is_bounded
    (note,) = source.provenance["notes"]
    assert note.startswith("warning: data is taken to lie in [0, 1], and the decoder gives -")
    free = load_source(f"{file}:Plain", data_shape="1x6x6", data_range="none")
    assert free.contract.data_range is None
    assert "notes" not in free.provenance


def test_small_values_are_no_range(file: Path) -> None:
    torch.manual_seed(0)
    assert load_source(f"{file}:Series", data_shape="12x3").contract.data_range is None
    assert load_source(f"{file}:Bounded", data_shape="12x3").contract.data_range == (-1, 1)


def test_decoder_alone_needs_its_latent(file: Path) -> None:
    with pytest.raises(UsageError, match="latent of a decoder alone is not known; pass --latent-shape"):
        load_source(f"{file}:decoder", data_shape="1x6x6")
    source = load_source(f"{file}:decoder", data_shape="1x6x6", latent_shape="4")
    assert source.parts == ("decoder",)


def test_codes_are_recognised_with_the_size_of_the_codebook(file: Path) -> None:
    contract = load_source(f"{file}:Codes", data_shape="1x6x6").contract
    assert (contract.encoding, contract.codebook_size, contract.latent_shape) == ("codes", 5, (3, 3))
    assert load_source(f"{file}:Codes", data_shape="1x6x6", codes=4).contract.codebook_size == 4


def test_codes_that_the_decoder_does_not_take_need_no_number(file: Path) -> None:
    contract = load_source(f"{file}:Quantised", data_shape="1x6x6").contract
    assert contract.encoding == "deterministic"
    assert [latent.name for latent in contract.latents] == ["top", "bottom"]
    with pytest.raises(UsageError, match=r"number of codes is not clear; pass --codes"):
        load_source(f"{file}:TakesCodes", data_shape="1x6x6")
    assert load_source(f"{file}:TakesCodes", data_shape="1x6x6", codes=5).contract.encoding == "codes"


@pytest.mark.parametrize(("function", "output"), [("counts", "rate"), ("student", "loc"), ("pair", "1.loc")])
def test_output_of_the_decoder_is_named(file: Path, function: str, output: str) -> None:
    stated: dict[str, Any] = {"data_shape": "36", "latent_shape": "4", "data_range": "none"}
    with pytest.raises(ModelError, match="--decoder-output"):
        load_source(f"{file}:{function}", **stated)
    source = load_source(f"{file}:{function}", **stated, decoder_output=output)
    assert source.provenance["inferred"]["decoder_output"] == output
    export(source, formats=["onnx"], parts=["decoder"], out=file.parent / function)
    latent = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    assert source.decoder is not None
    expected = source.decoder(torch.from_numpy(latent)).detach().numpy()
    np.testing.assert_allclose(load(file.parent / function).decode(latent), expected, rtol=1e-5, atol=1e-6)
    assert float(expected.min()) < 0  # the rate alone can be negative here; shape and scale are not


def test_other_outputs_are_shown_with_their_values(file: Path) -> None:
    stated: dict[str, Any] = {"data_shape": "36", "latent_shape": "4", "data_range": "none"}
    source = load_source(f"{file}:counts", **stated, decoder_output="rate")
    [note] = source.provenance["notes"]
    assert re.fullmatch(
        r"decoder: rate \(-[\d.]+ to [\d.]+\) is taken as the data; of its shape are also scale \([\d.]+ to [\d.]+\); "
        "the values are those of random latents",
        note,
    )
    assert "notes" not in load_source(f"{file}:pair", **stated, decoder_output="1.loc").provenance


def test_data_shape_that_is_not_the_decoders_is_refused(file: Path) -> None:
    message = (
        "data and output of the decoder have unlike shapes: --data-shape; expected 1x6x6, as the decoder gives, "
        "got 6x6; pass --data-shape 1x6x6"
    )
    with pytest.raises(UsageError, match=message):
        load_source(f"{file}:VAE", data_shape="6x6")
    with pytest.raises(UsageError, match=message.replace("got 6x6", "got 6x6x1")):
        load_source(f"{file}:VAE", data_shape="6x6x1")
    with pytest.raises(UsageError, match="expected 1x8x8, as the decoder gives, got 8x8; pass --data-shape 1x8x8"):
        load_source(f"{file}:map_decoder", data_shape="8x8", latent_shape="4x4x4")


@pytest.mark.parametrize(("function", "given"), [("Rows", "1x6x6"), ("two_channels", "2x6x6")])
def test_decoder_may_give_another_shape_than_the_encoder_takes(file: Path, function: str, given: str) -> None:
    source = load_source(f"{file}:{function}", data_shape="6x6")
    assert source.contract.output_shape == tuple(map(int, given.split("x")))
    warning = f"warning: the decoder gives {given} for data of 6x6: its output is not held against the data"
    assert any(note.startswith(warning) for note in source.provenance["notes"])


@pytest.mark.parametrize("output", ["mode", "rate.log", "7", "scale."])
def test_output_that_the_decoder_does_not_give_is_one_line(file: Path, output: str) -> None:
    stated: dict[str, Any] = {"data_shape": "36", "latent_shape": "4", "data_range": "none"}
    with pytest.raises(ModelError, match=r"decoder gives no such output: --decoder-output; expected .*rate \(3, 36\)"):
        load_source(f"{file}:counts", **stated, decoder_output=output)


def test_tokens_are_integers_below_their_number(file: Path) -> None:
    contract = load_source(f"{file}:Text", data_shape="6", tokens=20).contract
    assert str(contract.data) == "data (N, 6) int64 in [0, 19]"
    assert (contract.encoding, contract.latent_shape, contract.output_shape) == ("gaussian", (3,), (6, 20))
    with pytest.raises(UsageError, match="--data-range does not go with --tokens"):
        load_source(f"{file}:Text", data_shape="6", tokens=20, data_range="0,1")
    with pytest.raises(ModelError, match="encoder cannot be run: data .N, 6. int64 in .0, 20.; got IndexError"):
        load_source(f"{file}:Text", data_shape="6", tokens=21)


@pytest.mark.parametrize(
    ("function", "shapes", "latents", "listed"),
    [
        ("Ladder", {}, {"low": (4,), "high": (2,)}, 0),
        ("Listed", {}, {"z1": (4,), "z2": (2,)}, 2),
        ("Listed", {"latent_shape": "a=4,b=2"}, {"a": (4,), "b": (2,)}, 2),
    ],
)
def test_several_latents_are_inferred_or_stated(
    file: Path, function: str, shapes: dict[str, Any], latents: dict[str, tuple[int, ...]], listed: int
) -> None:
    source = load_source(f"{file}:{function}", data_shape="1x6x6", **shapes)
    assert source.contract.latent_shape == latents
    given = torch.ones(3, 1, 6, 6)
    module = source.encoder.module
    flat = torch.relu(module.body(given.flatten(1)))
    expected = [module.fc_mu(flat), module.fc_var(flat), *module.top(given.flatten(1)).chunk(2, 1)]
    for one, other in zip(source.recognised.encoder(given), expected, strict=True):
        assert torch.equal(one, other)
    assert source.recognised.decoder(torch.ones(3, 4), torch.ones(3, 2)).shape == (3, 1, 6, 6)
    assert getattr(source.recognised.decoder, "listed", 0) == listed


def test_latents_of_tied_sizes_are_inferred(file: Path) -> None:
    contract = load_source(f"{file}:Pyramid", data_shape="1x4*hx4*w").contract
    assert contract.latent_shape == {"coarse": (2, "h", "w"), "fine": (1, "2*h", "2*w")}


def test_sizes_of_an_output_unlike_the_data_are_inferred(file: Path) -> None:
    contract = load_source(f"{file}:Tokens", data_shape="t", tokens=20).contract
    assert (contract.data_shape, contract.latent_shape, contract.output_shape) == (("t",), ("t", 3), ("t", 20))


def test_methods_of_a_model_are_exported_one_by_one(file: Path) -> None:
    file.write_text(file.read_text() + METHODS)
    with pytest.raises(ModelError, match=r"decoder cannot be run: .* returns \(model.encode, None\) or \(None, model"):
        load_source(f"{file}:Draws", data_shape="1x6x6")
    encoder = load_source(f"{file}:encoder_alone", data_shape="1x6x6")
    decoder = load_source(f"{file}:decoder_alone", data_shape="1x6x6", latent_shape="2x4")
    assert (encoder.parts, encoder.contract.latent_shape) == (("encoder",), (4,))
    assert (decoder.parts, decoder.provenance["class"]) == (("decoder",), "Draws")


def test_torchvision_for_another_torch_is_imported_after_all(tmp_path: Path) -> None:
    """PyPI's torchvision fails to be imported beside a CPU torch, unless its operators are declared."""
    file, tried = tmp_path / "vision.py", tmp_path / "tried"
    file.write_text(f"""
from pathlib import Path
from torch import nn
if not Path({str(tried)!r}).exists():
    Path({str(tried)!r}).touch()
    raise RuntimeError("operator torchvision::nms does not exist")
def decoder():
    return None, nn.Sequential(nn.Linear(4, 36), nn.Sigmoid(), nn.Unflatten(1, (1, 6, 6)))
""")
    assert load_source(f"{file}:decoder", data_shape="1x6x6", latent_shape="4").contract.latent_shape == (4,)


def test_conditions_go_to_the_modules_with_arguments_of_their_names(file: Path) -> None:
    source = load_source(f"{file}:Sided", data_shape="1x6x6", conditions=["size:float32:1", "style:float32:4"])
    assert {item.name: item.parts for item in source.contract.conditions} == {
        "size": ("decoder",),
        "style": ("encoder", "decoder"),
    }


@pytest.mark.parametrize("function", ["compiled", "compiled_pair"])
def test_compiled_modules_are_taken_as_what_they_were_made_from(file: Path, function: str) -> None:
    options: dict[str, Any] = {"latent_shape": "4"} if function == "compiled_pair" else {}
    source = load_source(f"{file}:{function}", data_shape="1x6x6", **options)
    assert "OptimizedModule" not in f"{source.decoder}"


@pytest.mark.parametrize(("function", "kind"), [("lazy", "is lazy"), ("meta", "is on the meta device")])
def test_weights_without_values_are_refused_before_they_are_drawn(file: Path, function: str, kind: str) -> None:
    with pytest.raises(ModelError, match=f"module {kind}: .*; expected values; pass --weights"):
        load_source(f"{file}:{function}", data_shape="1x6x6", latent_shape="4")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("Sparse", r"tensor is sparse: .*'links'; .*to_dense"),
        ("scripted_pair", r"module is TorchScript: .*'encoder'; .*without"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_what_no_exporter_takes_is_named_with_what_to_write(file: Path, function: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_source(f"{file}:{function}", data_shape="1x6x6")


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_children_may_be_torchscript(file: Path) -> None:
    captured = Captured(load_source(f"{file}:Scripted", data_shape="1x6x6"))
    assert captured.graph("encoder").spec.inputs[0].batch == "N"
    assert not captured.notes


def test_encoder_may_return_a_namespace(file: Path) -> None:
    contract = load_source(f"{file}:Namespace", data_shape="1x6x6").contract
    assert (contract.encoding, contract.latents[0].item) == ("gaussian", (4,))


def test_conditions_are_further_inputs(file: Path) -> None:
    source = load_source(f"{file}:Labelled", data_shape="1x6x6", conditions=["label:int64:3"])
    assert [tensor.name for tensor in source.contract.spec("decoder").inputs] == ["latent", "label"]
    with pytest.raises(ModelError, match=r"encoder cannot be run: .*state 'label' with --condition, such as"):
        load_source(f"{file}:Labelled", data_shape="1x6x6")


@pytest.mark.parametrize("function", ["Named", "AnyName"])
def test_conditions_are_passed_by_the_names_of_arguments(file: Path, function: str) -> None:
    source = load_source(f"{file}:{function}", data_shape="1x6x6", conditions=["label:int64:3"])
    captured = Captured(source)
    own, graph = source.decoder.module, captured.graph("decoder")  # type: ignore[union-attr]  # it has a decoder
    latent, label = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    with torch.no_grad():
        assert torch.allclose(graph.program.module()(latent, label), own.decode(latent, label=label), atol=1e-6)
    assert [item.name for item in captured.graph("encoder").spec.inputs] == ["image", "label"]


def test_classes_may_begin_at_1(file: Path) -> None:
    source = load_source(f"{file}:LabelledFromOne", data_shape="1x6x6", conditions=["label:int64:1..3"])
    assert source.contract.conditions == (Condition("label", (), "int64", 1, 3),)
    with pytest.raises(ModelError, match=r"those that begin at 1 are --condition label:int64:1\.\.3"):
        load_source(f"{file}:LabelledFromOne", data_shape="1x6x6", conditions=["label:int64:3"])


def test_conditions_stated_in_another_order_reach_their_arguments(file: Path) -> None:
    source = load_source(f"{file}:Sided", data_shape="1x6x6", conditions=["style:float32:4", "size:float32:1"])
    own, graph = source.decoder.module, Captured(source).graph("decoder")  # type: ignore[union-attr]  # it has a decoder
    latent, style, size = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 1)
    with torch.no_grad():
        assert torch.allclose(graph.program.module()(latent, style, size), own.decode(latent, size, style), atol=1e-6)


def test_code_of_one_batch_size_is_exported_for_smaller_ones(file: Path) -> None:
    source = load_source(f"{file}:Batches", data_shape="1x6x6")
    assert [line.partition(";")[0] for line in source.provenance["notes"][:2]] == [
        "encoder: its code takes batches of 16 alone",
        "decoder: its code takes batches of 16 alone",
    ]
    # `forward` draws with exp(logvar): it is run in batches of 16 too, and shows that this is no log-variance.
    assert source.provenance["inferred"]["encoder_takes"]["logvar"] == "1 as logstd"
    captured = Captured(source)
    assert captured.contract.max_batch == 16
    latent, graph = torch.randn(16, 4), captured.graph("decoder")
    with torch.no_grad():
        expected = source.decoder.module.decode(latent)  # type: ignore[union-attr]  # it has a decoder
    for rows in (1, 3, 16):
        assert torch.allclose(graph.program.module()(latent[:rows]), expected[:rows], atol=1e-6)


def test_code_of_one_row_is_exported_for_one(file: Path) -> None:
    source = load_source(f"{file}:OneRow", data_shape="1x6x6")
    assert "decoder: its code takes batches of 1 alone" in source.provenance["notes"][0]
    assert Captured(source).contract.max_batch == 1


def test_blocks_under_autocast_compute_in_float32(file: Path) -> None:
    source = load_source(f"{file}:Autocast", data_shape="1x6x6")
    notes = source.provenance["notes"]
    assert f"{notes}".count("it computes under torch.autocast; the files compute in float32") == 2
    plain = load_source(f"{file}:VAE", data_shape="1x6x6")
    plain.decoder.load_state_dict(source.decoder.state_dict())  # type: ignore[union-attr]  # both have a decoder
    latent = torch.randn(3, 4)
    graphs = [Captured(item).graph("decoder").program.module()(latent) for item in (source, plain)]
    assert graphs[0].dtype == torch.float32
    assert torch.equal(*graphs)
    with torch.no_grad():
        assert source.decoder(latent).dtype == torch.bfloat16  # type: ignore[misc]  # the user's module is as it was


BAD = {
    "absent": (UsageError, "no such function: .*mine.py; expected .*VAE.*, got absent"),
    "text": (UsageError, "no such function"),
    "needs": (UsageError, "function needs arguments: .*mine.py:needs; got width"),
    "instance": (
        UsageError,
        "not a function: .*mine.py:instance; got a module, Identity; write a function that returns i",
    ),
    "raises": (ModelError, "function failed: .*; got ValueError: no luck"),
    "nothing": (ModelError, r"function gives no model: .*; expected .*\(encoder, decoder\), got NoneType"),
    "tensor": (ModelError, "function gives no model: .* got Tensor"),
    "three": (ModelError, r"function gives no model: .* got \(VAE, VAE, VAE\)"),
    "linear": (ModelError, r"model has neither encode\(\) nor .encoder: .*, Linear; give it methods"),
}


def test_functions_of_a_large_file_are_listed_with_the_nearest_first(tmp_path: Path) -> None:
    file = tmp_path / "many.py"
    file.write_text("".join(f"def model_{number}(): ...\n" for number in range(30)) + "def photographs(): ...\n")
    expected = r"no such function: .*many.py; expected photographs \| model_0 \| .* and 23 more, got photograph$"
    with pytest.raises(UsageError, match=expected):
        load_source(f"{file}:photograph", data_shape="1x4x4")


@pytest.mark.parametrize("function", BAD)
def test_functions_that_give_no_model_are_one_line(file: Path, function: str) -> None:
    error, message = BAD[function]
    with pytest.raises(error, match=message) as caught:
        load_source(f"{file}:{function}", data_shape="1x6x6")
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    for text, message in (
        (f"{tmp_path}/broken.py:f", "module cannot be imported: .*broken.py; got No module named"),
        (f"{tmp_path}/absent.py:f", "no such file: .*absent.py"),
        ("nothing_of_this_name.models:f", "no such module: nothing_of_this_name.models"),
        (f"Diffuser:{tmp_path}", f"bad model: --model; .*; did you mean diffusers:{tmp_path}"),
        ("justtext", "bad model: --model; expected diffusers:FOLDER"),
    ):
        with pytest.raises(VaeExportError, match=message) as caught:
            load_source(text, data_shape="1x6x6")
        assert caught.value.exit_code in (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "shape of the data is needed; pass --data-shape"),
        ({"data_shape": "1x5x5"}, "encoder cannot be run: image .*mat1 and mat2 shapes"),
        ({"data_shape": "1xx6"}, "bad shape: --data-shape; expected sizes with x between them"),
        ({"data_shape": "1x6x6", "latent_shape": "3"}, "outputs of the encoder are not clear"),
        ({"data_shape": "1x6x6", "data_range": "1,0"}, "bad range: --data-range"),
        ({"data_shape": "1x6x6", "encoder_outputs": "mu,width"}, "unknown output: --encoder-outputs"),
        ({"data_shape": "1x6x6", "conditions": ["label:int64"]}, "bad condition: --condition"),
    ],
)
def test_statements_that_do_not_fit_are_one_line(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaeExportError, match=message) as caught:
        load_source(f"{file}:VAE", **options)
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in str(caught.value)


Save = Callable[[dict[str, dict[str, torch.Tensor]], Path], list[str]]


def _prefixed(states: dict[str, dict[str, torch.Tensor]], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{part}.{name}": value for part, state in states.items() for name, value in state.items()}


def _saved(state: object, path: Path) -> list[str]:
    torch.save(state, path)
    return [str(path)]


SAVED: dict[str, Save] = {
    "two state_dicts in a file": lambda states, folder: _saved(states, folder / "vae.pt"),
    "names of beginners": lambda states, folder: _saved(
        {"Enc": states["encoder"], "Dec": states["decoder"], "epoch": 3}, folder / "vae.pt"
    ),
    "names with state_dict": lambda states, folder: _saved(
        {f"{part}_state_dict": state for part, state in states.items()} | {"optimizer": {"state": {0: {}}}},
        folder / "vae.pth",
    ),
    "whole module": lambda states, folder: _saved(_prefixed(states, ""), folder / "vae.pt"),
    "data parallel": lambda states, folder: _saved(_prefixed(states, "module."), folder / "vae.pt"),
    "compiled": lambda states, folder: _saved(
        {"model_state_dict": _prefixed(states, "_orig_mod.")}, folder / "vae.ckpt"
    ),
    "lightning": lambda states, folder: _saved(
        {"state_dict": _prefixed(states, "model.") | {"loss.weight": torch.ones(3)}, "epoch": 1}, folder / "vae.ckpt"
    ),
}


def _safetensors(states: dict[str, dict[str, torch.Tensor]], folder: Path) -> list[str]:
    save_file(_prefixed(states, "vae."), folder / "vae.safetensors")
    return [str(folder / "vae.safetensors")]


def _two_files(states: dict[str, dict[str, torch.Tensor]], folder: Path) -> list[str]:
    torch.save(states["encoder"], folder / "e.pt")
    save_file({f"module.{name}": value for name, value in states["decoder"].items()}, folder / "d.safetensors")
    return [f"encoder={folder}/e.pt", f"decoder={folder}/d.safetensors"]


SAVED |= {"safetensors with a prefix": _safetensors, "two files": _two_files}


@pytest.fixture
def blog() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The blog post's modules, with weights that differ from those of another call."""
    sys.path.insert(0, str(BLOG))
    try:
        from model import vae  # type: ignore[import-not-found]  # a file of the example
    finally:
        sys.path.remove(str(BLOG))
        sys.modules.pop("model")
    torch.manual_seed(7)
    encoder, decoder = vae()
    return encoder.eval(), decoder.eval()


@pytest.mark.parametrize("form", SAVED)
def test_weights_load_however_they_were_saved(
    form: str, blog: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path
) -> None:
    states = {"encoder": blog[0].state_dict(), "decoder": blog[1].state_dict()}
    files = SAVED[form](states, tmp_path)
    source = load_source(f"{BLOG}/model.py:vae", weights=files, data_shape="1x28x28")
    for part, module in (("encoder", source.encoder), ("decoder", source.decoder)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, states[part][name])
    assert len(source.provenance["weights_sha256"]) == len(files)
    assert "notes" not in source.provenance


def test_other_weights_are_chosen_by_their_key(blog: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path) -> None:
    states = {"encoder": blog[0].state_dict(), "decoder": blog[1].state_dict()}
    averaged = {part: {name: value * 0.5 for name, value in state.items()} for part, state in states.items()}
    torch.save({"ema": _prefixed(averaged, ""), "model": _prefixed(states, "")}, tmp_path / "both.pt")
    text, shape = f"{BLOG}/model.py:vae", "1x28x28"
    plain = load_source(text, weights=str(tmp_path / "both.pt"), data_shape=shape)
    assert torch.equal(plain.decoder.state_dict()["fc3.bias"], states["decoder"]["fc3.bias"])
    assert plain.provenance["notes"] == ["weights: entry 'model' of both.pt; --weights-key takes ema instead"]
    ema = load_source(text, weights=str(tmp_path / "both.pt"), weights_key="ema", data_shape=shape)
    assert torch.equal(ema.decoder.state_dict()["fc3.bias"], states["decoder"]["fc3.bias"] * 0.5)
    with pytest.raises(UsageError, match="no such entry of the weights: .*; expected model | ema, got raw"):
        load_source(text, weights=str(tmp_path / "both.pt"), weights_key="raw", data_shape=shape)


def test_weights_that_do_not_fit_are_listed(file: Path, tmp_path: Path) -> None:
    torch.save(
        {"body.weight": torch.zeros(16, 36), "out.weight": torch.zeros(36, 5), "extra": torch.zeros(1)},
        tmp_path / "w.pt",
    )
    with pytest.raises(ModelError) as caught:
        load_source(f"{file}:VAE", weights=str(tmp_path / "w.pt"), data_shape="1x6x6")
    text = str(caught.value)
    assert "weights do not fit the model" in text
    assert "missing body.bias, fc_mu.weight, fc_mu.bias, fc_var.weight and 2 more" in text
    assert "unexpected extra" in text
    assert "of another shape out.weight (36, 5) for (36, 4)" in text


def test_pickled_code_is_never_run(file: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3), tmp_path / "module.pt")
    (tmp_path / "noise.pt").write_bytes(b"no weights at all")
    (tmp_path / "noise.safetensors").write_bytes(b"no weights at all")
    for name, message in (
        ("module.pt", "file holds pickled code, which is never run: .*; got torch.nn.modules.linear.Linear"),
        ("noise.pt", "file of weights cannot be read"),
        ("noise.safetensors", "file of weights cannot be read"),
        ("noise.npz", "no such file of weights"),
    ):
        with pytest.raises(ModelError, match=message):
            load_source(f"{file}:VAE", weights=str(tmp_path / name), data_shape="1x6x6")


@pytest.mark.slow
def test_export_without_weights_is_known_by_its_bytes(file: Path, tmp_path: Path) -> None:
    """No file of weights names the origin of this export; a program is loaded if it is the one that export writes."""
    source = load_source(f"{file}:VAE", data_shape="1x6x6")
    artifact, _ = export(source, tmp_path / "out", parts=["decoder"], formats=["torchscript"])
    assert verify(artifact, source, thorough=False).passed
    other = load_source(f"{file}:VAE", data_shape="1x6x6")  # with weights of its own
    with pytest.raises(ModelError, match=r"torchscript is a program, and this one is not what export writes here"):
        verify(artifact, other, thorough=False)


@pytest.mark.slow
def test_blog_post_is_exported_without_its_draw(blog: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path) -> None:
    """One file of two state_dicts becomes ONNX and TorchScript of images 28 x 28; the encoder's draw is left out."""
    states = {"encoder": blog[0].state_dict(), "decoder": blog[1].state_dict()}
    torch.save(states, tmp_path / "vae.pt")
    source = load_source(f"{BLOG}/model.py:vae", weights=str(tmp_path / "vae.pt"), data_shape="1x28x28")
    export(source, tmp_path / "out", formats=["onnx", "torchscript"])
    model = load(tmp_path / "out")
    images = np.random.default_rng(0).uniform(size=(5, 1, 28, 28)).astype(np.float32)
    with torch.no_grad():
        _, mean, logvar = blog[0](torch.from_numpy(images).flatten(1))
        decoded = blog[1](mean)
    found_mean, found_logvar = model.encode(images)
    np.testing.assert_allclose(found_mean, mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(found_logvar, logvar.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.decode(mean.numpy())[:, 0].reshape(5, 784), decoded.numpy(), atol=1e-5)
    again = model.encode(images)
    assert np.array_equal(again[0], found_mean)


@pytest.mark.slow
def test_blog_post_is_trained_and_bundled_by_one_command(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("model.py", "train.py"):
        (tmp_path / name).write_bytes((BLOG / name).read_bytes())
    subprocess.run([sys.executable, "train.py", "1"], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, str(root / "cli.py"), "bundle", "--model", "model.py:vae", "--weights", "vae.pt"]
    command += ["--data-shape", "1x28x28", "--format", "onnx"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert re.search(r"^verified: [\d,]+ comparisons with PyTorch passed$", done.stderr, re.MULTILINE)
    model = load(tmp_path / "artifacts/model-vae/model-vae.zip")
    assert model.decode(np.zeros((2, 20), np.float32)).shape == (2, 1, 28, 28)
