"""The façade `vae_export` where packages of an extra are missing."""

from __future__ import annotations

import pytest

from tests.commands import CLI, ROOT, run_python

#: Makes the modules of the extra `export` impossible to import.
WITHOUT_TORCH = """import sys
for name in ("torch", "onnx", "onnxscript", "safetensors", "jinja2", "PIL"):
    sys.modules[name] = None
"""


@pytest.mark.slow
def test_star_import_help_and_dir_work_without_torch() -> None:
    code = WITHOUT_TORCH + (
        "from vae_export import *\n"
        "import pydoc, vae_export\n"
        "text = pydoc.plain(pydoc.render_doc(vae_export))\n"
        "assert 'class verify' in text and 'class load_checkpoint' not in text and 'class Model' in text, text\n"
        "assert \"Not usable here: torch is not installed; run: pip install 'vae-export[export]'.\" in text\n"
        "assert set(dir(vae_export)) == set(vae_export.__all__)\n"
        "assert callable(load) and Model.__module__ == 'vae_export.runtime.model'\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "vae_export.export(None, 'out')",
        "vae_export.verify('out', None)",
        "vae_export.Certificate({}, 0, ())",
        "vae_export.load_checkpoint('checkpoint.safetensors')",
    ],
)
def test_name_that_needs_torch_says_what_to_install(use: str) -> None:
    code = WITHOUT_TORCH + (
        "import vae_export\n"
        "try:\n"
        f"    {use}\n"
        "except vae_export.VaeExportError as error:\n"
        "    print(type(error).__name__, error.exit_code, error)\n"
    )
    result = run_python(code)
    expected = "MissingExtraError 6 torch is not installed; run: pip install 'vae-export[export]'\n"
    assert result.stdout == expected, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer", "rich"])
def test_command_without_cli_extra_says_what_to_install(module: str) -> None:
    block = f"import sys; sys.modules[{module!r}] = None\n"
    expected = f"vae-export: error: {module} is not installed; run: pip install 'vae-export[cli]'\n"
    installed = run_python(block + "from vae_export.cli import start; start()")
    assert (installed.returncode, installed.stdout, installed.stderr) == (6, "", expected)
    checkout = run_python(block + f"import runpy; runpy.run_path({str(CLI)!r}, run_name='__main__')")
    assert (checkout.returncode, checkout.stdout, checkout.stderr) == (6, "", expected)


def test_base_install_is_numpy_and_onnxruntime() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert [line.partition(">")[0] for line in project["dependencies"]] == ["numpy", "onnxruntime"]
    assert [line.partition(">")[0] for line in extras["cli"]] == ["rich", "typer"]
    assert extras["export"][0] == "vae-export[cli]"
