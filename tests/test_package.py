"""The package as a whole: light imports, metadata, layout, and the guards the other tests rely on."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

import memarch

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PUBLIC = {
    "memarch.cache": ["CacheProcessor", "Reweaver", "consolidate", "reweave"],
    "memarch.dialogue.async_memory": ["AsyncDialogueMemory"],
    "memarch.dialogue.memory": ["DialogueMemory"],
    "memarch.layers": ["HCAM", "Memora", "Miras", "Moneta", "Yaad"],
    "memarch.ops": ["MirasRule", "miras_memory"],
}
OPTIONAL = {
    "faiss",
    "flash_attn",
    "gymnasium",
    "matplotlib",
    "rich",
    "sentence_transformers",
    "tensorboard",
    "tokenizers",
    "transformers",
    "triton",
    "typer",
}


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", requirement).group().lower() for requirement in requirements}


def loaded_by(code: str) -> set[str]:
    """Top-level modules outside the standard library that a fresh interpreter holds after `code`."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "envs"))
    before = "import sys; before = set(sys.modules)\n"
    after = "\nnew = {name.partition('.')[0] for name in set(sys.modules) - before}"
    after += "\nprint(*new - set(sys.stdlib_module_names))"
    done = subprocess.run(
        [sys.executable, "-c", before + code + after],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_memarch_loads_nothing_else():
    assert loaded_by("import memarch") == {"memarch"}


def test_importing_a_dialogue_memory_loads_numpy_only():
    assert loaded_by("from memarch import DialogueMemory, AsyncDialogueMemory") == {"memarch", "numpy"}


@pytest.mark.parametrize("name", ["memarch.ops", "memarch.layers", "memarch.cache"])
def test_importing_a_part_loads_no_optional_package(name):
    loaded = loaded_by(f"import {name}")
    assert "torch" in loaded
    assert not loaded & OPTIONAL
    assert not loaded & {"memarch_kernels", "memarch_envs"}


def test_importing_the_kernels_package_needs_neither_triton_nor_torch():
    assert loaded_by("import memarch_kernels") == {"memarch_kernels"}


def test_importing_the_environments_package_loads_no_torch():
    assert "torch" not in loaded_by("import memarch_envs")


@pytest.mark.parametrize(("home", "name"), [(home, name) for home in PUBLIC for name in PUBLIC[home]])
def test_public_names_arrive_on_first_use(home, name):
    assert getattr(memarch, name) is getattr(importlib.import_module(home), name)
    assert name in dir(memarch) and name in memarch.__all__


def test_a_typo_raises_and_lists_what_there_is():
    with pytest.raises(AttributeError, match="'Yadd'.*Yaad"):
        _ = memarch.Yadd


def test_version_is_that_of_pyproject():
    assert memarch.__version__ == PYPROJECT["project"]["version"]


def test_dependencies_are_static():
    assert "dynamic" not in PYPROJECT["project"]
    core = names(PYPROJECT["project"]["dependencies"])
    assert {"torch", "triton", "einops", "numpy", "safetensors"} <= core
    assert not core & {"faiss-cpu", "transformers", "gymnasium", "flash-attn"}


def test_all_holds_every_feature_but_nothing_that_needs_cuda_to_build():
    assert {"chat", "agents", "dev", "all", "gpu"} <= set(EXTRAS)
    assert EXTRAS["all"] == ["memarch[train,chat,postgres,milvus,encrypted,agents]"]
    assert names(EXTRAS["gpu"]) == {"flash-attn"}
    for extra in ("train", "chat", "postgres", "milvus", "agents", "dev"):
        assert not names(EXTRAS[extra]) & {"flash-attn", "titans-pytorch"}


def test_constraints_pin_exactly_and_cover_every_extra_but_gpu():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.lower().split("==") for line in lines)
    assert pins["torch"] == "2.13.0" and pins["triton"] == "3.7.1"
    assert not [name for name in pins if name.startswith("nvidia") or name == "flash-attn"]
    wanted = names(PYPROJECT["project"]["dependencies"])
    for extra in set(EXTRAS) - {"gpu", "all"}:
        wanted |= names(EXTRAS[extra])
    assert wanted <= set(pins)


def test_kernels_and_envs_are_folders_not_packages():
    for folder in ("kernels", "envs"):
        assert (ROOT / folder / f"memarch_{folder}" / "__init__.py").is_file()
        assert not (ROOT / folder / "__init__.py").exists()


def test_transformers_does_not_take_our_folder_for_the_kernels_package():
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(ROOT / "kernels")


def test_the_wheel_holds_three_typed_packages(tmp_path):
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    for package in ("memarch", "memarch_kernels", "memarch_envs"):
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= files
    info = f"memarch-{memarch.__version__}.dist-info"
    tops = {name.partition("/")[0] for name in files}
    assert tops == {"memarch", "memarch_kernels", "memarch_envs", info}
    assert f"{info}/licenses/LICENSE" in files


def test_one_stem_in_every_place():
    """memarch/ops/X.py and memarch/layers/X.py have a test of the same stem; a kernel has an operator."""
    for part in ("ops", "layers", "cache", "forgetting", "probes"):
        stems = [path.stem for path in (ROOT / "memarch" / part).glob("[!_]*.py")]
        assert stems
        missing = [stem for stem in stems if not (ROOT / "tests" / part / f"test_{stem}.py").is_file()]
        assert not missing, f"tests/{part} lacks test_*.py for {missing}"
    for kernel in (ROOT / "kernels" / "memarch_kernels").glob("[!_]*.py"):
        assert (ROOT / "memarch" / "ops" / kernel.name).is_file(), f"{kernel.name} has no operator"


def test_readme_names_the_two_commands_and_ci_runs_the_second():
    first_screen = (ROOT / "README.md").read_text().splitlines()[:50]
    assert {"make demo", "make test"} <= set(re.findall(r"make \w+", "\n".join(first_screen)))
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text() and os.access(script, os.X_OK)


def test_scratch_memory_is_poisoned():
    x = torch.zeros(3, 5)
    for scratch in (
        torch.empty(3, 5),
        torch.empty((3,), dtype=torch.float64, requires_grad=True),
        torch.empty_like(x),
        torch.empty_strided((3, 5), (5, 1)),
        x.new_empty(7),
        x.new_empty_strided((3, 5), (1, 3)),
        torch.empty(2, dtype=torch.bfloat16),
        torch.empty(2, dtype=torch.complex64),
    ):
        assert scratch.isnan().all()
    assert torch.empty(3, dtype=torch.int64).dtype == torch.int64


def test_poisoning_leaves_torch_working():
    with torch.device("meta"):
        assert torch.empty(3).is_meta and torch.nn.Linear(3, 5).weight.is_meta
    layer = torch.nn.Linear(3, 5)
    y = torch.func.vmap(lambda row: row.new_empty(2).fill_(1.0) * row.sum())(torch.ones(7, 3))
    layer(torch.ones(2, 3)).sum().backward()
    assert y.shape == (7, 2) and layer.weight.isfinite().all() and layer.weight.grad.isfinite().all()
    assert layer.to_empty(device="cpu").weight.isnan().all()


def test_every_test_starts_from_the_same_seed():
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.get_num_threads() == 1


@pytest.mark.gpu
def test_gpu_tests_run_only_where_there_is_one():
    assert torch.cuda.is_available()
