"""`Model` of the JavaScript package computes what the library computes, for every contract, in one Node process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import ROOT
from tests.js.node import run_module
from tests.reference_variants import REFERENCE
from tests.required import skip_or_fail
from vae_export import load
from vae_export.pixels import to_levels
from vae_export.rng import sample
from vae_export.runtime.model import Model

pytestmark = pytest.mark.slow

ENGINE = ROOT / "examples/node/node_modules/onnxruntime-node"
#: What is asked of each bundle: the conditions that Python gets, and whether there are pixels.
CONTRACTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "plain": {},
    "conditional": {"label": 3, "style": [0.25, -0.5, 0.75]},
    "codes": {},
    "maps": {},
    "two channels": {},
    "four channels": {},
    "several": {},
    "batch of 3": {},
}
SCRIPT = """
const said = {};
function plain(value) {
  if (value?.dims) return { dims: value.dims, data: Array.from(value.data, Number) };
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}
for (const [name, { path, conditions }] of Object.entries(given)) {
  const model = await bundle.Model.load(path, { ort });
  const [item] = model.contract.latents.map((latent) => bundle.sizesAt(latent, model.contract));
  const drawn = () => bundle.sample(5, item.reduce((a, b) => a * b, 1), 7);
  const isKnown = model.contract.prior !== "given by the user";
  const latents = isKnown ? model.prior(5, { seed: 7 }) : { data: drawn(), dims: [5, ...item], dtype: "float32" };
  const data = isKnown ? await model.sample(5, { seed: 7, conditions }) : await model.decode(latents, { conditions });
  const encoder = { conditions };
  const [low, high] = model.contract.data.range ?? [-Infinity, Infinity];
  const inputs = { ...data, data: data.data.map((value) => Math.min(high, Math.max(low, value))) };
  if (model.contract.data.dtype === "int64") {
    inputs.dims = [5, ...model.contract.data.shape.slice(1)];
    const size = { length: inputs.dims.reduce((a, b) => a * b, 1) };
    inputs.data = BigInt64Array.from(size, (_, index) => BigInt(7 * index % (high + 1)));
    inputs.dtype = "int64";
  }
  const row = (index) => bundle.takeRows(inputs, index, 1);
  said[name] = plain({
    latents,
    data,
    inputs,
    encoded: await model.encode(inputs, encoder),
    reconstructed: await model.reconstruct(inputs, encoder),
    pixels: model.isImage ? await model.pixels(latents, { conditions }) : null,
    between: model.hasCodes ? null : await model.interpolate(row(0), row(1), 4, encoder),
    passed: (await model.selfTest()).passed,
  });
  await model.release();
}
say(said);
"""


@pytest.fixture(scope="module")
def paths(extended: Callable[[str], Path]) -> dict[str, Path]:
    """The bundle of each contract."""
    return {name: REFERENCE if name == "plain" else extended(name) / "bundle.zip" for name in CONTRACTS}


def run(node: str, code: str, given: object = None) -> Any:
    """Run a module with `bundle`, `given` and a function `ort` in scope; return what it passes to `say`."""
    if not ENGINE.exists():
        skip_or_fail("onnxruntime-node", "run: npm ci --prefix examples/node")
    engine = json.dumps(str(ENGINE))
    return run_module(node, f"const ort = () => createRequire({engine})({engine});\n{code}", given)


@pytest.fixture(scope="module")
def said(node: str, paths: dict[str, Path]) -> dict[str, Any]:
    """The answers of JavaScript for each contract."""
    given = {name: {"path": str(paths[name]), "conditions": conditions} for name, conditions in CONTRACTS.items()}
    found: dict[str, Any] = run(node, SCRIPT, given)
    return found


def array(value: dict[str, Any], like: np.ndarray) -> np.ndarray:
    """Return a tensor of JavaScript, after comparing its shape."""
    assert tuple(value["dims"]) == like.shape
    return np.array(value["data"]).reshape(like.shape)


def close(found: Any, expected: Any) -> None:
    """Compare tensors, or tensors by name."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            close(found[name], value)
        return
    assert np.allclose(array(found, expected), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONTRACTS)
def test_verbs_match_python(name: str, said: dict[str, Any], paths: dict[str, Path]) -> None:
    model, given = load(paths[name]), said[name]
    dtypes = {item.name: item.dtype for item in model.contract.conditions}
    conditions: dict[str, Any] = {key: np.asarray(value, dtypes[key]) for key, value in CONTRACTS[name].items()}
    assert given["passed"] is True
    is_known = model.contract.prior != "given by the user"
    prior = model.prior(5, 7) if is_known else sample((5, *model.contract.latents[0].fixed_item), 7)
    close(given["latents"], prior)
    close(given["data"], model.decode(prior, **conditions))
    spec = model.contract.data
    like = model.decode(prior, **conditions) if model.contract.gives_data else np.empty((5, *spec.fixed_item))
    inputs = array(given["inputs"], like).astype(spec.dtype)
    taken = {item.name for item in model.contract.conditions if "encoder" in item.parts}
    encoded = model.encode(inputs, **{key: value for key, value in conditions.items() if key in taken})
    close(
        given["encoded"], dict(zip(("mean", "logvar"), encoded, strict=True)) if isinstance(encoded, tuple) else encoded
    )
    close(given["reconstructed"], model.reconstruct(inputs, **conditions))
    if given["between"] is not None:
        close(given["between"], model.interpolate(inputs[0], inputs[1], 4, **conditions))
    _check_pixels(model, given["pixels"], prior, conditions)


def _check_pixels(model: Model, found: dict[str, Any] | None, prior: Any, conditions: dict[str, Any]) -> None:
    if found is None:
        assert not model.contract.is_image
        return
    image = np.moveaxis(model.decode(prior, **conditions), 1, -1)
    lowest, highest = (to_levels(image + step, *model.contract.image_range) for step in (-1e-4, 1e-4))
    pixels = array(found, image)
    assert ((pixels >= lowest) & (pixels <= highest)).all()


def test_argument_that_does_not_fit_is_refused_by_name(node: str) -> None:
    calls = {
        "model.decode([Infinity, ...Array(9).fill(0)])": "not finite: 'latent' at 0",
        "model.decode(Array(10).fill(NaN))": "not finite: 'latent' at 0",
        "model.decode(Array(11).fill(0))": "wrong shape: 'latent'; expected a multiple of 10 numbers, got 11",
        "model.decode({ z: Array(10).fill(0) })": "wrong inputs: decoder; expected latent, got z",
        "model.decode(Array(10).fill(0), { conditions: { label: 3 } })": "wrong inputs: decoder",
        "model.encode(Array(784).fill(255))": "out of range: 'image' at 0; expected numbers in [0,1], got 255",
        "model.encode({ data: new Float64Array(784), dims: [1, 1, 28, 28] })": "wrong type: 'image'; expected float32",
        "model.encode({ data: new Float32Array(784), dims: [1, 28, 28, 1] })": "wrong shape: 'image'",
        "Promise.resolve().then(() => model.prior(0))": "bad number of samples: 0",
        "Promise.resolve().then(() => model.prior(1, { seed: -1 }))": "bad seed: -1",
        "Promise.resolve().then(() => model.prior(1, { sizes: { h: 4 } }))": "unknown size: h",
        "model.interpolate(Array(784).fill(0), Array(784).fill(0), 1)": "bad number of steps: 1",
        "model.run('autoencoder', {})": "bundle has no autoencoder as onnx",
        "bundle.Model.load(given, {})": "ort is missing",
        "bundle.Model.load('nothing.zip', { ort })": "nothing.zip",
    }
    tries = "".join(f"said.push(await ({call}).then(() => '', (error) => error.message));" for call in calls)
    code = f"const model = await bundle.Model.load(given, {{ ort }}); const said = []; {tries} say(said);"
    for (call, expected), message in zip(calls.items(), run(node, code, str(REFERENCE)), strict=True):
        assert expected in message, call


def test_other_sizes_and_start_match_python(node: str, paths: dict[str, Path]) -> None:
    code = """
    const model = await bundle.Model.load(given, { ort, rowsAtATime: 2 });
    const options = { seed: 3, start: 5, sizes: { h: 5, w: 4 } };
    const latents = model.prior(5, options);
    const drawn = [latents, await model.sample(5, options), await model.pixels(latents)];
    say(drawn.map(({ data, dims }) => ({ data: Array.from(data), dims })));
    """
    model = load(paths["maps"])
    prior = model.prior(5, 3, start=5, sizes={"h": 5, "w": 4})
    images = model.decode(prior)
    latents, data, pixels = run(node, code, str(paths["maps"]))
    close(latents, prior)
    close(data, images)
    levels = array(pixels, np.moveaxis(images, 1, -1))
    lowest, highest = (to_levels(np.moveaxis(images, 1, -1) + step, -1, 1) for step in (-1e-4, 1e-4))
    assert ((levels >= lowest) & (levels <= highest)).all()


def test_codes_and_classes_out_of_range_are_refused(node: str, paths: dict[str, Path]) -> None:
    code = """
    const codes = await bundle.Model.load(given[0], { ort });
    const first = codes.prior(1);
    const wrong = { ...first, data: first.data.map(() => 32n) };
    const conditional = await bundle.Model.load(given[1], { ort });
    const style = [0, 0, 0];
    const sample = (conditions) => conditional.sample(1, { conditions });
    const tries = [codes.decode(wrong), sample({ label: 10, style }), sample({ style })];
    say(await Promise.all(tries.map((one) => one.then(() => "", (error) => error.message))));
    """
    said = run(node, code, [str(paths["codes"]), str(paths["conditional"])])
    assert said[0].startswith("out of range: 'codes' at 0; expected numbers in [0,31], got 32")
    assert said[1].startswith("out of range: 'label' at 0")
    assert said[2].startswith("wrong inputs: decoder; expected latent, label, style")


def test_recommendation_is_followed_on_a_machine_like_the_measured_one(
    node: str, tmp_path: Path, advice_for: Callable[[str, str], dict[str, Any]]
) -> None:
    from tests.bundles.tampering.archives import files_of, summed

    files = files_of(REFERENCE.read_bytes())
    manifest = json.loads(files["manifest.json"])
    decoder = next(file for file in manifest["files"] if file["name"] == "decoder.onnx")
    manifest["recommended"] = [advice_for("decoder.onnx", decoder["sha256"])]
    cases = {
        "good": manifest["recommended"],
        "elsewhere": [manifest["recommended"][0] | {"machine": {"cores": 1000}}],
        "unknown": [manifest["recommended"][0] | {"switches": ["warp"]}],
    }
    for name, recommended in cases.items():
        data = files | {"manifest.json": json.dumps(manifest | {"recommended": recommended}).encode()}
        (tmp_path / f"{name}.zip").write_bytes(summed(data))
    code = """
    const said = [];
    for (const path of given) {
      const model = await bundle.Model.load(path, { ort });
      const { options, reason } = model.running("decoder");
      said.push([options, reason, (await model.selfTest()).passed]);
    }
    say(said);
    """
    good, elsewhere, unknown = run(node, code, [str(tmp_path / f"{name}.zip") for name in cases])
    assert good[0] == {
        "executionProviders": ["cpu"],
        "graphOptimizationLevel": "basic",
        "intraOpNumThreads": 1,
        "extra": {"session": {"intra_op": {"allow_spinning": "0"}}},
        "enableCpuMemArena": False,
    }
    assert good[1:] == ["recommended, and measured on a machine like this one", True]
    assert elsewhere[0] == unknown[0] == {}
    assert elsewhere[1].startswith("recommendation not followed: it was measured on another machine")
    assert unknown[1] == "recommendation not followed: it is not understood"


@pytest.fixture
def advice_for() -> Callable[[str, str], dict[str, Any]]:
    """`advice_for(file, sha256)`: a recommendation that was measured on this machine."""
    from vae_export.system.hardware import identity

    def make(file: str, digest: str) -> dict[str, Any]:
        return {
            "part": "decoder", "file": file, "sha256": digest, "provider": "CPUExecutionProvider", "threads": 1,
            "optimisation": "basic", "switches": ["no-spinning", "no-arena"], "batch": 2, "p50_seconds": 1e-3,
            "speedup": 1.5, "budget": {}, "machine": identity(),
        }  # fmt: skip

    return make
