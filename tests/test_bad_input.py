"""Bad input, each by the real command: its exact message, status 1, and nothing left of an output."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from moemerge.cli import app
from tests.conftest import TinyMaker
from tests.sources.fake_hub import FakeHub

RECIPE = """\
base_model: models/base
experts:
  - {name: code, model: models/code, prompts: [def reverse list return print number]}
  - {name: math, model: models/math, prompts: [sum of two and three minus one equals four]}
gate: {init: random}
"""
UP = "model.layers.1.mlp.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"

WITHOUT_ROOTS_RIGHTS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
        sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "moemerge", *sys.argv[1:]])
"""
"""Runs the command so that permissions hold for root too."""

Disk = Callable[[str], None]


@pytest.fixture(autouse=True)
def work(tiny: TinyMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a working folder with three tiny models that a test may spoil."""
    for seed, name in enumerate(("base", "code", "math")):
        shutil.copytree(tiny("llama", seed), tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def disk(work: None) -> Iterator[Disk]:
    """Mounts a disk of its own at `disk`, with the options that it is called with."""
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    place = Path("disk").absolute()
    place.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def normal(text: str) -> str:
    """Messages with the working folder as `WORK`."""
    return text.replace(str(Path.cwd()), "WORK")


def build(*options: str, recipe: str = RECIPE, out: str = "out") -> tuple[int, str, str]:
    """Status, stdout and stderr of a build."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    result = CliRunner().invoke(app, ["build", "recipe.yaml", "-o", out, *options])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, normal(result.stdout), normal(result.stderr)


def refused(*options: str, recipe: str = RECIPE, out: str = "out") -> str:
    """The exact stderr of a build that must fail, print no result and leave nothing."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    before = sorted(Path().rglob("*"))
    status, stdout, stderr = build("-q", *options, recipe=recipe, out=out)
    assert (status, stdout) == (1, ""), stderr
    assert sorted(Path().rglob("*")) == before, "something was left"
    return stderr


def refused_in_a_process(recipe: str = RECIPE, out: str = "out", **environment: str) -> str:
    """The same in a process of its own, without root's rights and with environment variables."""
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-c", WITHOUT_ROOTS_RIGHTS, "build", "recipe.yaml", "-q", "-o", out]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode == 77:
        pytest.skip("root's rights cannot be dropped here")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert not Path(out).exists()
    assert not list(Path(out).parent.glob(".*moemerge*"))
    return normal(done.stderr)


def change_tensors(model: str, changes: dict[str, Tensor | None]) -> None:
    """Replaces, adds or (None) removes tensors of a model."""
    path = Path("models", model, "model.safetensors")
    state = load_file(path) | changes
    save_file({name: value for name, value in state.items() if value is not None}, path, {"format": "pt"})


def change_config(model: str, **values: object) -> None:
    path = Path("models", model, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def write_adapter(trained_on: str, out: int, into: int) -> None:
    """`adapter`: a LoRA of rank 2 on one query projection, as peft stores it."""
    folder = Path("adapter")
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    config |= {"base_model_name_or_path": trained_on}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    prefix = f"base_model.model.{QUERY.removesuffix('.weight')}"
    factors = {"lora_A": torch.ones(2, into), "lora_B": torch.ones(out, 2)}
    save_file({f"{prefix}.{name}.weight": v for name, v in factors.items()}, folder / "adapter_model.safetensors")


RECIPES = {
    "empty file": (
        "",
        "error: The recipe is empty\n"
        "  recipe.yaml:1:1\n"
        "  1 | \n"
        "    | ^\n"
        "hint: it needs at least `base_model` and `experts`\n",
    ),
    "unknown key": (
        RECIPE.replace("models/math, prompts", "models/math, promts"),
        "error: Unknown key `promts` in `experts[1]`\n"
        "  recipe.yaml:4:38\n"
        "  4 |   - {name: math, model: models/math, promts: [sum of two and three minus one equals four]}\n"
        "    |                                      ^^^^^^\n"
        "hint: did you mean `prompts`?\n",
    ),
    "misspelt gate": (
        RECIPE.replace("random", "discriminat"),
        "error: `gate.init` must be `discriminant`, `lda`, `centroid`, `centred`, `random`, `uniform`, "
        "`mergekit_hidden`, `hidden_avg` or `cheap_embed`, not `discriminat`\n"
        "  recipe.yaml:5:14\n"
        "  5 | gate: {init: discriminat}\n"
        "    |              ^^^^^^^^^^^\n"
        "hint: did you mean `discriminant`?\n",
    ),
    "no experts": (
        "base_model: models/base\nexperts: []\n",
        "error: The recipe has no experts\n"
        "  recipe.yaml:2:1\n"
        "  2 | experts: []\n"
        "    | ^^^^^^^\n"
        "hint: list two specialists or more under `experts`\n",
    ),
    "one expert": (
        "".join(RECIPE.splitlines(keepends=True)[:3]),
        "error: The recipe has one expert, so it would be a dense model\n"
        "  recipe.yaml:2:1\n"
        "  2 | experts:\n"
        "    | ^^^^^^^\n"
        "hint: list two specialists or more under `experts`\n",
    ),
    "more experts per token than experts": (
        RECIPE + "experts_per_token: 3\n",
        "error: `experts_per_token` is 3, and the recipe has 2 experts\n"
        "  recipe.yaml:6:20\n"
        "  6 | experts_per_token: 3\n"
        "    |                    ^\n"
        "hint: set it to 2 or less\n",
    ),
    "missing model": (
        RECIPE.replace("models/code", "models/coed"),
        "error: expert `code`: Model `models/coed` is neither a folder nor in the hub's cache, and offline mode is on\n"
        "hint: did you mean `models/code`?\n",
    ),
    "missing folder with a path": (
        RECIPE.replace("models/code", "./nowhere"),
        "error: expert `code`: Model `./nowhere` does not exist: there is no `WORK/nowhere`\n",
    ),
    "missing prompts file": (
        RECIPE.replace("prompts: [def reverse list return print number]", "prompts_file: code.txt"),
        "error: `experts[0].prompts_file`: Prompts file `WORK/code.txt` does not exist\n"
        "hint: paths are relative to the recipe's folder\n",
    ),
}


@pytest.mark.parametrize(("recipe", "message"), RECIPES.values(), ids=RECIPES)
def test_recipes(recipe: str, message: str) -> None:
    """What is wrong with a recipe or what it names is said with its place, or with the nearest thing there is."""
    assert refused(recipe=recipe) == message


def test_a_missing_recipe() -> None:
    """The nearest file is named."""
    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    result = CliRunner().invoke(app, ["build", "recipee.yaml", "-o", "out"])
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "error: Recipe `recipee.yaml` does not exist\nhint: did you mean `recipe.yaml`?\n",
    )


def cut(data: bytes) -> bytes:
    return data[:-1000]


def empty(data: bytes) -> bytes:
    return b""


def no_safetensors(data: bytes) -> bytes:
    return b"PK\3\4 another format" + data


def damaged_header(data: bytes) -> bytes:
    return data[:8] + b"x" + data[9:]


def overlapping(data: bytes) -> bytes:
    return data.replace(b'"data_offsets":[16384,32768]', b'"data_offsets":[16380,32764]')


WEIGHTS = "error: expert `code`: `WORK/models/code/model.safetensors"
AGAIN = "hint: download or copy the file again\n"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, f"{WEIGHTS}` is truncated: its header promises 96952 bytes, the file has 95952\n{AGAIN}"),
        (empty, f"{WEIGHTS}` is not a safetensors file: it has 0 bytes\n{AGAIN}"),
        (
            no_safetensors,
            f"{WEIGHTS}` is not a safetensors file: its header would have 8029461975782345552 bytes, "
            "more than the 100000000 allowed\n",
        ),
        (damaged_header, f"{WEIGHTS} (header)` is not valid JSON: Expecting value: line 1 column 1 (char 0)\n"),
        (
            overlapping,
            f"{WEIGHTS}` has a malformed header: tensor `model.embed_tokens.weight` overlaps the one before it\n",
        ),
    ],
)
def test_damaged_weight_files(spoil: Callable[[bytes], bytes], message: str) -> None:
    """A file that was cut short or altered is found by its header, before anything is written."""
    path = Path("models/code/model.safetensors")
    data = path.read_bytes()
    path.write_bytes(spoil(data))
    assert path.read_bytes() != data
    assert refused() == message


def test_a_missing_shard() -> None:
    """The index names a file that is not there."""
    folder = Path("models/code")
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 + (name == UP)}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert refused() == (
        "error: expert `code`: Model `models/code` is incomplete: 1 of 2 shards are missing from "
        "`WORK/models/code`: `model-00002-of-00002.safetensors`\n"
        "hint: download or copy the model again\n"
    )


def test_a_config_without_weights() -> None:
    """A model can be planned from its config, and not built."""
    Path("models/code/model.safetensors").unlink()
    assert refused() == "error: `models/code` has a config and no weights\n"


def test_wrong_shapes() -> None:
    """Every tensor that differs is listed with both shapes."""
    change_tensors("code", {UP: torch.zeros(40, 32), "model.norm.weight": torch.ones(31)})
    assert refused() == (
        "error: expert `code` differs in the shape of 2 of 21 tensors:\n"
        "  model.layers.1.mlp.up_proj.weight: (40, 32), its config says (48, 32)\n"
        "  model.norm.weight: (31), its config says (32)\n"
    )


def test_another_ffn_width(tiny: TinyMaker) -> None:
    """The way out is in the hint."""
    shutil.rmtree("models/math")
    shutil.copytree(tiny("llama", 2, intermediate_size=40), "models/math")
    assert refused() == (
        "error: expert `math` has FFN width 40, and the widest expert has 48\n"
        "hint: set `experts[1].pad: true` to zero-pad narrower experts, which is exact\n"
    )


def test_a_missing_layer() -> None:
    """A checkpoint that lost a layer, and one whose config knows of fewer."""
    lost = [name for name in load_file("models/code/model.safetensors") if name.startswith("model.layers.1.")]
    change_tensors("code", dict.fromkeys(lost))
    change_config("math", num_hidden_layers=1)
    assert refused() == (
        "error: expert `code` lacks 9 of 21 tensors:\n"
        "  model.layers.1.input_layernorm.weight\n"
        "  model.layers.1.self_attn.q_proj.weight\n"
        "  model.layers.1.self_attn.k_proj.weight\n"
        "  model.layers.1.self_attn.v_proj.weight\n"
        "  and 5 more\n"
        "error: expert `math` does not fit the base: number of layers is `1`, the base's is `2`\n"
        "hint: experts must be fine-tunes of the base\n"
        "error: expert `math`: `llama` has no use for 9 of 21 tensors:\n"
        "  model.layers.1.input_layernorm.weight\n"
        "  model.layers.1.mlp.down_proj.weight\n"
        "  model.layers.1.mlp.gate_proj.weight\n"
        "  model.layers.1.mlp.up_proj.weight\n"
        "  and 5 more\n"
        "hint: a build would drop them in silence; remove them, or use the checkpoint they belong to\n"
    )


def test_an_extra_layer() -> None:
    """A layer that the config does not know would be dropped in silence."""
    change_tensors("code", {UP.replace("1", "2"): torch.zeros(48, 32)})
    assert refused() == (
        "error: expert `code`: `llama` has no use for 1 of 22 tensors:\n"
        "  model.layers.2.mlp.up_proj.weight\n"
        "hint: a build would drop them in silence; remove them, or use the checkpoint they belong to\n"
    )


def test_another_tokenizer() -> None:
    """Tokens with another id are counted and shown."""
    path = Path("models/math/tokenizer.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"bonjour"', '"ciao"'), encoding="utf-8")
    assert refused() == (
        "error: expert `math` has another tokenizer than the base: "
        "2 tokens with another id or none, such as `ciao`, `bonjour`\n"
        "hint: the experts see the base's token ids; use specialists that kept the base's tokenizer\n"
    )


def test_a_damaged_tokenizer() -> None:
    """The file is named once, be it the base's or an expert's."""
    whole = Path("models/base/tokenizer.json").read_text(encoding="utf-8")
    Path("models/base/tokenizer.json").write_text("{}", encoding="utf-8")
    wrong = "is not a tokenizer's file\nhint: download or copy it again\n"
    assert refused() == f"error: `base_model`: `WORK/models/base/tokenizer.json` {wrong}"
    Path("models/base/tokenizer.json").write_text(whole, encoding="utf-8")
    Path("models/math/tokenizer.json").write_text("{}", encoding="utf-8")
    path = "`WORK/models/math/tokenizer.json`"
    assert refused() == f"error: expert `math` cannot be compared with the base: {path} {wrong}"


def make_pipe(name: str) -> None:
    """Puts a pipe that nobody writes into where a file was."""
    Path(name).unlink(missing_ok=True)
    os.mkfifo(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file(name: str) -> None:
    """It is refused, where reading it would wait for ever."""
    make_pipe(f"models/code/{name}")
    assert refused() == f"error: expert `code`: `WORK/models/code/{name}` is not a regular file\n"


def test_a_pipe_in_place_of_an_index() -> None:
    """The same of what is read to find the weights."""
    Path("models/code/model.safetensors").unlink()
    make_pipe("models/code/model.safetensors.index.json")
    assert refused() == (
        "error: expert `code`: `WORK/models/code/model.safetensors.index.json` is not a regular file\n"
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_in_place_of_an_adapters_file(name: str) -> None:
    """The same of an adapter."""
    write_adapter("models/base", 32, 32)
    make_pipe(f"adapter/{name}")
    recipe = RECIPE.replace("models/code", "adapter")
    assert refused(recipe=recipe) == f"error: expert `code`: `WORK/adapter/{name}` is not a regular file\n"


def test_a_pipe_in_place_of_texts() -> None:
    """Prompts and data are files; the recipe itself may come from a pipe."""
    make_pipe("texts.txt")
    prompts = "prompts: [def reverse list return print number]"
    assert refused(recipe=RECIPE.replace(prompts, "prompts_file: texts.txt")) == (
        "error: `experts[0].prompts_file`: Prompts file `WORK/texts.txt` is not a regular file\n"
        "hint: save its text in a file\n"
    )
    recipe = RECIPE.replace(prompts, "data: {path: texts.txt}")
    assert refused("--gate", "discriminant", recipe=recipe) == (
        "error: `experts[0].data`: `WORK/texts.txt` is not a regular file\nhint: save its text in a file\n"
    )


def test_a_recipe_from_a_pipe() -> None:
    """`<(...)` of a shell, and `/dev/stdin`."""
    command = [sys.executable, "-m", "moemerge", "plan", "/dev/stdin", "-q"]
    recipe = RECIPE.replace("models/", f"{Path.cwd()}/models/")
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, input=recipe, capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("gate", ["random", "discriminant"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_in_a_copied_tensor(value: float, gate: str) -> None:
    """One bad value in an expert's FFN, which goes from file to file as bytes."""
    damaged = load_file("models/code/model.safetensors")[UP]
    damaged[3, 5] = value
    change_tensors("code", {UP: damaged})
    assert refused("--gate", gate, "--set", "gate.expand=off") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


@pytest.mark.parametrize("gate", ["random", "discriminant"])
def test_a_value_that_is_not_finite_in_a_computed_tensor(gate: str) -> None:
    """One bad value in attention, which is the mean of all experts."""
    damaged = load_file("models/math/model.safetensors")[QUERY]
    damaged[31, 0] = float("nan")
    change_tensors("math", {QUERY: damaged})
    assert refused("--gate", gate, "--set", "gate.expand=off") == (
        "error: `model.layers.0.self_attn.q_proj.weight` holds NaN or Inf, from `models/math`\n"
        "hint: the source is damaged: check or download it again\n"
    )


def test_a_value_that_is_not_finite_in_a_converted_expert() -> None:
    """An expert that is converted to another dtype is computed, and looked at too."""
    change_tensors("code", {UP: torch.full((48, 32), float("-inf"))})
    assert refused("--set", "dtype=bfloat16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, from `models/code`\n"
        "hint: the source is damaged: check or download it again\n"
    )


def test_a_value_that_the_dtype_cannot_hold() -> None:
    """A sound source is not called damaged where the conversion makes an Inf."""
    change_tensors("code", {UP: torch.full((48, 32), 1e6)})
    assert refused("--set", "dtype=float16") == (
        "error: `model.layers.1.block_sparse_moe.experts.0.w3.weight` holds NaN or Inf, and its sources do not: "
        "a value is too large for F16\n"
        "hint: set a `dtype` with a larger range, such as `bfloat16`\n"
    )


def test_an_output_that_exists() -> None:
    """Whatever is there stays; `--overwrite` is for what moemerge made."""
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    Path("link").symlink_to("nowhere")
    exists = "hint: choose another with `-o`, or pass `--overwrite` to replace a folder that moemerge made\n"
    assert refused() == f"error: output `WORK/out` exists\n{exists}"
    assert refused(out="link") == f"error: output `WORK/link` exists\n{exists}"
    assert refused(out=".") == f"error: output `WORK` exists\n{exists}"
    assert refused(out="/") == f"error: output `/` exists\n{exists}"
    assert refused("--overwrite") == (
        "error: output `WORK/out` was not made by moemerge, so it is not overwritten\n"
        "hint: remove it yourself, or choose another with `-o`\n"
    )


def test_an_output_that_cannot_be_a_folder() -> None:
    """In a file, with a name that no file system takes, or with one that no record can hold."""
    assert refused(out="recipe.yaml/out") == (
        "error: `WORK/recipe.yaml` is not a folder\nhint: choose another output with `-o`\n"
    )
    for length in (240, 300):  # the staged folder's name is a little longer than the output's
        name = "x" * length
        assert refused(out=f"new/{name}") == f"error: `WORK/new/{name}` cannot be written: File name too long\n"
    assert refused(out="\udcff") == "error: output '\\udcff' is no path in UTF-8\nhint: choose another with `-o`\n"


def test_folders_made_for_a_failed_build_go_with_it() -> None:
    """Folders above the output that were missing are removed again, and nothing else."""
    change_tensors("code", {UP: torch.full((48, 32), float("nan"))})
    Path("kept").mkdir()
    assert "holds NaN or Inf" in refused(out="kept/a/b/out")


def test_no_space_left_before_the_build(disk: Disk) -> None:
    """A disk that is too small is found before any work."""
    disk("size=1m")
    message = refused(out="disk/out")
    assert re.sub("1,1[0-9]{2},[0-9]{3}", "NEEDED", message) == (
        "error: no space left for `WORK/disk/out`: NEEDED bytes are needed and 1,048,576 are free\n"
        "hint: free some space, or choose another disk with `-o`\n"
    )


@pytest.mark.parametrize("files", [2, 3, 5, 9])
def test_no_space_left_while_it_is_written(files: int, disk: Disk) -> None:
    """A disk with room for bytes and not for files ends the writing at its first file, between, and at its last."""
    disk(f"size=16m,nr_inodes={files}")
    assert refused(out="disk/out") == (
        "error: no space left while writing `WORK/disk/out`: nothing was kept\n"
        "hint: free some space, or choose another disk with `-o`\n"
    )


def test_a_limit_to_the_size_of_files() -> None:
    """The same in the middle of a file, and where mounting is not allowed: `ulimit -f`."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        message = refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message == (
        "error: a file of `WORK/out` is larger than its disk or `ulimit -f` allows: nothing was kept\n"
        "hint: set a smaller `output.shard_size`, or choose another disk with `-o`\n"
    )


def test_no_permission_on_a_disk_that_is_read_only(disk: Disk) -> None:
    """Found before any work."""
    disk("size=16m,ro")
    assert refused(out="disk/out") == (
        "error: no permission to write in `WORK/disk`\nhint: choose another output with `-o`\n"
    )


def test_no_permission_to_write() -> None:
    """A folder that the user may not write in, found before any work."""
    Path("locked").mkdir(mode=0o555)
    assert refused_in_a_process(out="locked/new/out") == (
        "error: no permission to write in `WORK/locked`\nhint: choose another output with `-o`\n"
    )


def test_no_permission_to_read() -> None:
    """Every source that the user may not read is named."""
    for name in ("code/model.safetensors", "math/config.json"):
        Path("models", name).chmod(0)
    assert refused_in_a_process() == (
        "error: expert `code`: `WORK/models/code/model.safetensors` cannot be read: Permission denied\n"
        "error: expert `math`: `WORK/models/math/config.json` cannot be read: Permission denied\n"
    )


ON_THE_HUB = RECIPE.replace("models/base", "org/gated").replace("models/code", "org/absent@v2")


def test_gated_and_absent_models() -> None:
    """The hub's answers, each with its way out, in one go."""
    errors = {"org/gated": (403, "GatedRepo"), "org/absent": (404, "RepoNotFound")}
    with FakeHub({}, errors).running() as hub:
        message = refused_in_a_process(ON_THE_HUB, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME="home")
    assert message == (
        "error: `base_model`: Model `org/gated` is gated: its authors ask you to accept their terms first\n"
        "hint: accept them at https://huggingface.co/org/gated, then run `hf auth login` or set `HF_TOKEN`\n"
        "error: expert `code`: Model `org/absent@v2` is neither a folder nor a model on the hub that you may see: "
        "there is no `WORK/org/absent`\n"
        "hint: check the spelling; a private model needs `hf auth login` or `HF_TOKEN`\n"
    )


def test_offline() -> None:
    """With an empty cache, offline mode says so."""
    cause = "is neither a folder nor in the hub's cache, and offline mode is on\n"
    assert refused_in_a_process(ON_THE_HUB, HF_HUB_OFFLINE="1", HF_HOME="home") == (
        f"error: `base_model`: Model `org/gated` {cause}"
        f"error: expert `code`: Model `org/absent@v2` {cause}"
        "hint: unset `HF_HUB_OFFLINE` to download it, or name a local folder\n"
    )


def test_a_hub_that_cannot_be_reached() -> None:
    """A port that nobody listens at."""
    recipe = RECIPE.replace("models/code", "org/code")
    nobody = "http://127.0.0.1:9"
    refusal = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
    message = refused_in_a_process(recipe, HF_ENDPOINT=nobody, HF_HUB_OFFLINE="0", HF_HOME="home")
    assert message == (
        "error: expert `code`: Model `org/code` is neither a folder nor in the hub's cache, "
        f"and the hub cannot be reached: {refusal}\n"
        "hint: check the network, or name a local folder\n"
    )


def test_an_adapter_that_does_not_fit() -> None:
    """Trained on a model of another width."""
    write_adapter("org/wider", 64, 64)
    factor = "  base_model.model.model.layers.0.self_attn.q_proj.lora_"
    assert refused(recipe=RECIPE.replace("models/code", "adapter")) == (
        "error: expert `code`: Adapter `adapter` does not fit base `models/base`: 2 of 2 tensors\n"
        f"{factor}A.weight: adapter (2, 64), expected (2, 32) for rank 2 and base (32, 32)\n"
        f"{factor}B.weight: adapter (64, 2), expected (32, 2) for rank 2 and base (32, 32)\n"
        "hint: it was trained on `org/wider`\n"
    )


def test_an_adapter_of_another_name_is_only_warned_of() -> None:
    """Models are moved and renamed: what fits is built."""
    write_adapter("org/renamed", 32, 32)
    status, stdout, stderr = build(recipe=RECIPE.replace("models/code", "adapter"))
    assert (status, stdout.splitlines()[0]) == (0, "built out (132 kB, verified)")
    assert [line for line in stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: expert `code`: Adapter `adapter` was trained on `org/renamed` and is used on `models/base`"
    ]
    assert Path("out/model.safetensors").is_file()
