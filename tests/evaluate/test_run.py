"""Whole evaluations of tiny mixtures: figures against an independent computation, and damage that must show."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.console import Lines, Silent
from moemerge.errors import EvalError, MoemergeError
from moemerge.evaluate.options import PARTS, REPORT, EvalOptions
from moemerge.evaluate.run import evaluate_folder
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from tests.conftest import TinyMaker
from tests.evaluate.conftest import Trio, measure, sentences
from tests.moe import build_tiny, forced

KEYS = ("base", "specialist", "linear_merge", "oracle_routed", "random_gate", "moe")


def plain_loss(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Mean loss per token, one document at a time, by what transformers itself computes from labels."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return total / tokens


@pytest.fixture(scope="module")
def report(built: Path) -> dict[str, Any]:
    return measure(built)


def test_losses_agree_with_plain_transformers(trio: Trio, built: Path, report: dict[str, Any]) -> None:
    """Base, specialists, linear merge, oracle routing and mixture, to 1e-4 nats."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    tokenizer = AutoTokenizer.from_pretrained(built)
    moe, base = load(built), load(trio.base)
    specialists = {name: load(folder) for name, folder in trio.experts.items()}
    linear = load(trio.base)
    states = [model.state_dict() for model in specialists.values()]
    linear.load_state_dict({name: sum(state[name].double() for state in states) / 3 for name in states[0]})
    for number, (domain, file) in enumerate(trio.texts.items()):
        texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        found = report["domains"][domain]
        assert found["moe"] == pytest.approx(plain_loss(moe, tokenizer, texts), abs=1e-4)
        assert found["base"] == pytest.approx(plain_loss(base, tokenizer, texts), abs=1e-4)
        assert found["linear_merge"] == pytest.approx(plain_loss(linear, tokenizer, texts), abs=1e-4)
        for name, model in specialists.items():
            assert found["specialists"][name] == pytest.approx(plain_loss(model, tokenizer, texts), abs=1e-4)
        with forced(moe, number):
            assert found["oracle_routed"] == pytest.approx(plain_loss(moe, tokenizer, texts), abs=1e-4)
        assert found["specialist"] == found["specialists"][domain]


def test_the_pooled_figures_follow_from_the_losses(report: dict[str, Any]) -> None:
    """Gain kept, oracle routing's, merge loss, routing loss and means are what DESIGN defines."""
    domains = report["domains"].values()

    def kept(key: str) -> float:
        return sum(d["base"] - d[key] for d in domains) / sum(d["base"] - d["specialist"] for d in domains)

    assert report["gain_kept"] == pytest.approx(kept("moe"))
    assert report["gain_kept_ceiling"] == pytest.approx(kept("oracle_routed"))
    assert report["baselines"]["linear_merge"]["gain_kept"] == pytest.approx(kept("linear_merge"))
    assert report["merge_loss"] == pytest.approx(1 - kept("oracle_routed"))
    assert report["routing_loss"] == pytest.approx(kept("oracle_routed") - kept("moe"))
    low, high = report["gain_kept_interval"]
    assert low < report["gain_kept"] < high
    for key in KEYS:
        assert report["mean"][key] == pytest.approx(sum(d[key] for d in domains) / 3)
    for d in domains:
        assert d["perplexity"]["moe"] == pytest.approx(math.exp(d["moe"]))
        assert d["bits_per_byte"]["moe"] == pytest.approx(d["moe"] * d["tokens"] / math.log(2) / d["bytes"])
        assert d["intervals"]["moe"][0] < d["moe"] < d["intervals"]["moe"][1]


def test_a_good_mixture_is_called_good(report: dict[str, Any]) -> None:
    """The specialists differ in the FFNs alone, so oracle routing keeps all; the gate keeps most of it."""
    assert report["gain_kept_ceiling"] == pytest.approx(1, abs=1e-5)
    assert report["gain_kept"] > 0.85
    assert report["routing"]["accuracy"] > 0.95
    assert (report["idle_experts"], report["missing"], report["notes"]) == (0, {}, [])
    assert {key: found["standing"] for key, found in report["against"].items()} == dict.fromkeys(
        ("base", "best_specialist", "linear_merge"), "ahead"
    )
    kept, linear = report["gain_kept"], report["baselines"]["linear_merge"]["gain_kept"]
    total, _, base = report["parameters"].values()
    assert report["verdict"].split(". ")[:3] == [
        f"It keeps {100 * kept:.0f} % of the specialists' gain, ahead of the linear merge ({100 * linear:.0f} %)",
        f"It is ahead of the base and the best specialist (`{report['best_specialist']}`)",
        f"It has {total / base:.2g} times the parameters of the base, a specialist or the linear merge, and uses as "
        "many as these per token",
    ]


def test_the_verdict_tells_what_more_experts_cost(moe: Path) -> None:
    """The same folder at two experts per token; figures as `plan` counts them."""
    config = json.loads((moe / "config.json").read_text(encoding="utf-8"))
    (moe / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 2}), encoding="utf-8")
    found = measure(moe, limit=5, without=PARTS)
    total, active, base = found["parameters"].values()
    assert active > 1.1 * base
    said = f"It has {total / base:.2g} times the parameters of the base, a specialist or the linear merge, and uses"
    assert found["verdict"].split(". ")[2] == f"{said} {active / base:.2g} times as many per token"


def test_the_names_of_a_report_are_known_beforehand(report: dict[str, Any]) -> None:
    """So that a misspelt `--require` is refused before the work."""
    assert sorted(report) == sorted(REPORT)


def test_routing_adds_up(report: dict[str, Any]) -> None:
    """Shares sum to one; loads are the mean of the domains' at one expert per token; the flat figures fit."""
    routing = report["routing"]
    assert sum(routing["load"]) == pytest.approx(1)
    for domain, shares in routing["confusion"].items():
        assert sum(shares.values()) == pytest.approx(1)
        assert len(routing["confusion_by_layer"][domain]) == report["layers"] == 2
    means = [sum(routing["confusion"][d][e] for d in report["domains"]) / 3 for e in report["experts"]]
    assert routing["load"] == pytest.approx(means)
    assert routing["top1_weight"] == pytest.approx(1)
    assert 0 <= routing["entropy"] <= 1
    assert routing["max_vio"] == pytest.approx(sum(routing["max_vio_by_layer"]) / 2)


def test_routing_agrees_with_transformers_own_router_logits(trio: Trio, built: Path) -> None:
    """Counted from `output_router_logits`, one document at a time, at two experts per token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = measure(built, limit=5)["routing"]
    model: Any = AutoModelForCausalLM.from_pretrained(built).eval()
    tokenizer = AutoTokenizer.from_pretrained(built)
    for domain, file in trio.texts.items():
        counts = torch.zeros(2, 3)
        for line in file.read_text(encoding="utf-8").splitlines()[:5]:
            ids = tokenizer(json.loads(line)["text"], return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                logits = model(ids, output_router_logits=True).router_logits
            for layer, scores in enumerate(logits):
                counts[layer] += torch.bincount(scores.argmax(1), minlength=3)
        shares = counts / counts.sum(1, keepdim=True)
        assert torch.tensor(found["confusion_by_layer"][domain]) == pytest.approx(shares, abs=1e-6)


def test_oracle_routing_with_identical_experts_is_the_dense_model(tiny: TinyMaker, trio: Trio, tmp_path: Path) -> None:
    """Three times the same specialist: every way to route gives its loss."""
    model = tiny("llama", 1)
    folder = build_tiny(tmp_path / "same", model, [model] * 3, experts_per_token=2)
    domains = tmp_path / "domains.yaml"
    domains.write_text(f"e0: {trio.texts['code']}\ne1: {trio.texts['math']}\n", encoding="utf-8")
    found = measure(folder, domains=domains)
    for domain in found["domains"].values():
        for key in ("oracle_routed", "random_gate", "moe", "specialist"):
            assert domain[key] == pytest.approx(domain["base"], abs=1e-5)
        assert domain["gain_kept"] is None
        assert domain["gain_kept_note"] == "its specialist is the base itself"
    assert found["gain_kept"] is None
    assert found["verdict"].startswith("Gain kept cannot be stated (its specialist is the base itself)")


def change(folder: Path, change_one: Any) -> None:
    """Rewrites a folder's tensors in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change_one(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def gates(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in tensors if name.endswith("gate.weight")]


def test_a_collapsed_gate_is_seen(moe: Path) -> None:
    """All tokens to one expert: the others are idle, and two domains go to the wrong one."""

    def collapse(tensors: dict[str, torch.Tensor]) -> None:
        for name in gates(tensors):
            tensors[name] = torch.zeros_like(tensors[name])

    change(moe, collapse)
    found = measure(moe)
    assert found["idle_experts"] == 2
    assert found["routing"]["max_vio"] == pytest.approx(2)
    assert found["gain_kept"] < 0
    first = found["routing"]["confusion"]
    winner = max(first["code"], key=lambda name: first["code"][name])
    idle = [name for name in found["experts"] if name != winner]
    assert found["routing"]["idle"] == idle
    assert f"Experts `{idle[0]}` and `{idle[1]}` are idle" in found["verdict"]
    assert found["mend"] == "routing"


def test_a_shuffled_gate_is_seen(moe: Path) -> None:
    """Each expert gets another one's tokens: the load stays level, the gain does not."""

    def shuffle(tensors: dict[str, torch.Tensor]) -> None:
        for name in gates(tensors):
            tensors[name] = tensors[name].roll(1, 0)

    change(moe, shuffle)
    found = measure(moe)
    assert found["idle_experts"] == 0
    assert found["routing"]["accuracy"] < 0.1
    assert found["gain_kept"] < 0
    assert "Most tokens of `code` go to `math`" in found["verdict"]
    assert {found["against"][key]["standing"] for key in found["against"]} == {"behind"}


def test_a_swapped_expert_is_seen(moe: Path) -> None:
    """Two experts' FFNs in each other's place: routing is as before, but each is worse than the base at home."""

    def swap(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".experts.0." in name]:
            other = name.replace(".experts.0.", ".experts.1.")
            tensors[name], tensors[other] = tensors[other], tensors[name]

    change(moe, swap)
    found = measure(moe)
    assert "Expert `code` is worse than the base on its own domain: swapped or damaged" in found["verdict"]
    assert "Expert `math` is worse than the base on its own domain: swapped or damaged" in found["verdict"]
    assert found["merge_loss"] > 0.5
    assert found["notes"] == [
        "the folder's FFN of `code`, `math` is not that of its source: one of the two changed since the build, and the "
        "source was measured as it is now; `moemerge verify` says which tensors differ"
    ]


def test_a_folder_that_moemerge_did_not_build(moe: Path, trio: Trio, tmp_path: Path) -> None:
    """It is measured as far as it goes; what is missing is said; names of experts may be given."""
    (moe / "moemerge.yaml").unlink()
    domains = tmp_path / "domains.yaml"
    domains.write_text("".join(f"{name}: {path}\n" for name, path in trio.texts.items()), encoding="utf-8")
    found = measure(moe, domains=domains, experts=("code", "math", "french"))
    why = "moemerge did not build this folder, so it does not say what it was made of"
    assert found["missing"] == {"base": why, "specialists": why, "linear merge": why}
    assert found["routing"]["accuracy"] > 0.95
    assert found["domains"]["code"]["oracle_routed"] is not None
    assert found["domains"]["code"]["base"] is None
    assert found["verdict"] == "Gain kept cannot be stated (the base is missing)"
    nameless = measure(moe, domains=domains)
    assert nameless["experts"] == ["expert-0", "expert-1", "expert-2"]
    assert nameless["routing"]["accuracy"] is None
    assert nameless["domains"]["code"]["expert"] is None


def test_missing_and_changed_sources_are_said(trio: Trio, tmp_path: Path) -> None:
    """A source that is gone, or whose headers changed: its figures are null, the others stay."""
    root = tmp_path / "trio"
    shutil.copytree(trio.root, root, ignore=shutil.ignore_patterns("moe", "copy"))
    here = Trio(root, root / "base", {n: root / n for n in trio.experts}, {n: root / f"{n}.jsonl" for n in trio.texts})
    folder = here.build(root / "moe", gate={"init": "random"})
    shutil.rmtree(root / "code")
    change(root / "math", lambda tensors: tensors.update(extra=torch.zeros(1)))
    found = measure(folder, limit=4)
    assert found["missing"] == {
        "specialist of `code`": f"`{root / 'code'}`: not found",
        "specialist of `math`": f"`{root / 'math'}`: changed since the build",
        "linear merge": "it needs `code`, `math`",
    }
    assert found["domains"]["french"]["gain_kept"] is not None
    assert found["domains"]["code"]["gain_kept_note"] == "its specialist or the base is missing"
    assert found["domains"]["code"]["specialist"] is None
    assert found["against"]["linear_merge"] is None
    assert found["best_specialist"] == "french"


def test_values_that_changed_under_the_same_headers_are_said(trio: Trio, tmp_path: Path) -> None:
    """The source is measured as it is now, and a note says that it is not what was built from."""
    root = tmp_path / "trio"
    shutil.copytree(trio.root, root, ignore=shutil.ignore_patterns("moe", "copy"))
    here = Trio(root, root / "base", {n: root / n for n in trio.experts}, {n: root / f"{n}.jsonl" for n in trio.texts})
    folder = here.build(root / "moe", gate={"init": "random"})
    before = measure(folder, limit=4, cache=tmp_path / "cache")
    assert before["notes"] == [
        "few documents (`code` 4, `math` 4, `french` 4): with fewer than 30 per domain the intervals are rough"
    ]
    change(root / "math", lambda t: t.update({k: v * 1.5 for k, v in t.items() if "mlp" in k}))
    after = measure(folder, limit=4, cache=tmp_path / "cache")
    assert after["notes"][-1].startswith("the folder's FFN of `math` is not that of its source")
    assert after["domains"]["math"]["specialist"] != before["domains"]["math"]["specialist"]
    assert after["domains"]["math"]["moe"] == before["domains"]["math"]["moe"]


def test_a_config_that_changed_is_said(trio: Trio, tmp_path: Path) -> None:
    """The record has no digest of a source's config, but the folder's own config tells."""
    root = tmp_path / "trio"
    shutil.copytree(trio.root, root, ignore=shutil.ignore_patterns("moe", "copy"))
    here = Trio(root, root / "base", {n: root / n for n in trio.experts}, {n: root / f"{n}.jsonl" for n in trio.texts})
    folder = here.build(root / "moe", gate={"init": "random"})
    config = root / "base" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'))
    note = measure(folder, limit=40)["notes"]
    assert len(note) == 1
    assert note[0].startswith("the base's `config.json` is not the one that was built from: ")
    assert "0.5" in note[0]


def test_the_cache_knows_contents_not_paths(built: Path, trio: Trio, tmp_path: Path) -> None:
    """A second run computes nothing; a copy elsewhere neither; other texts or weights are computed."""
    cache = tmp_path / "cache"
    first = measure(built, cache=cache, limit=6)
    again = measure(built, cache=cache, limit=6)
    assert (first["cached"], again["cached"]) == (0, 3 * (3 + 5))
    assert {**again, "cached": 0} == first
    copy = trio.root / "elsewhere"
    shutil.copytree(built, copy)
    try:
        moved = measure(copy, cache=cache, limit=6)
        assert moved["cached"] == again["cached"]
        assert {**moved, "path": first["path"], "cached": 0} == first
        change(copy, lambda tensors: tensors["model.norm.weight"].mul_(1.01))
        changed = measure(copy, cache=cache, limit=6)
        assert changed["cached"] == 3 * 5, "the dense models are known, the mixture is another"
        assert changed["domains"]["code"]["moe"] != first["domains"]["code"]["moe"]
    finally:
        shutil.rmtree(copy)
    assert measure(built, cache=cache, limit=7)["cached"] == 0


def test_a_slow_cpu_computes_in_float32_and_says_so(
    trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in bf16: the report's dtype says what ran, a line says why, and losses of the two are kept apart."""
    folder, cache = trio.build(tmp_path / "moe", dtype="bfloat16"), tmp_path / "cache"
    found = {}
    for fast in ("bfloat16", "float32"):
        monkeypatch.setattr("moemerge.device.fast_dtypes", lambda fast=fast: frozenset({"float32", fast}))
        report = evaluate_folder(folder, EvalOptions(cache=cache, without=PARTS), Lines(), Processes())
        found[report["dtype"]] = report["mean"]
        assert report["cached"] == 0
    assert list(found) == ["bfloat16", "float32"]
    assert found["bfloat16"] != found["float32"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("computing")]
    assert said == [
        "computing in float32, since this CPU multiplies bfloat16 slowly (`--dtype bfloat16` computes as it is stored)"
    ]
    again = EvalOptions(cache=cache, without=PARTS, placement=Placement(dtype="bfloat16"))
    assert evaluate_folder(folder, again, Silent(), Processes())["cached"] > 0


def test_a_mixture_that_was_only_compared_with_is_routed_all_the_same(built: Path, trio: Trio, tmp_path: Path) -> None:
    """Of another's evaluation the cache has its losses, and not where its tokens went."""
    other, cache = trio.build(tmp_path / "other", gate={"init": "random"}), tmp_path / "cache"
    expected = measure(other, limit=4)
    measure(built, limit=4, cache=cache, compare={"other": other})
    found = measure(other, limit=4, cache=cache)
    assert found["cached"] > 0
    assert {**found, "cached": 0} == expected


def test_a_damaged_cache_is_computed_again(built: Path, tmp_path: Path) -> None:
    """Half a file or nonsense in it is not trusted."""
    cache = tmp_path / "cache"
    first = measure(built, cache=cache, limit=4)
    for number, path in enumerate(sorted((cache / "losses-1").iterdir())):
        path.write_text(("{", "[1]", '{"values": {"sums": "x"}}')[number % 3], encoding="utf-8")
    again = measure(built, cache=cache, limit=4)
    assert again == first


def test_windows_change_little_and_are_honoured(built: Path) -> None:
    """A short context sees less, so losses rise or stay; the tokens are the same."""
    whole, short = measure(built, limit=6), measure(built, limit=6, context=8, stride=4)
    for domain in whole["domains"]:
        assert short["domains"][domain]["tokens"] == whole["domains"][domain]["tokens"]
    assert short["mean"]["base"] != whole["mean"]["base"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1000}, "`--context 1000` is longer than the model reads: 256 tokens"),
        ({"context": 0}, "`--context 0` is too short: a token is predicted from the one before it"),
        ({"context": 1}, "`--context 1` is too short: a token is predicted from the one before it"),
        ({"context": 8, "stride": 8}, "`--stride 8` must be at least 1 and less than the context of 8 tokens"),
        ({"stride": 0}, "`--stride 0` must be at least 1 and less than the context of 256 tokens"),
    ],
)
def test_windows_that_cannot_be(built: Path, options: dict[str, int], message: str) -> None:
    """Refused before a model is loaded."""
    with pytest.raises(EvalError) as caught:
        measure(built, **options)
    assert caught.value.message == message


def refused(folder: Path, **options: Any) -> list[tuple[str, str | None]]:
    with pytest.raises(MoemergeError) as caught:
        measure(folder, **options)
    return [(problem.message, problem.hint) for problem in caught.value.problems]


def test_rows_and_questions_that_are_left_out_are_noted(built: Path, tmp_path: Path) -> None:
    """The rest is measured."""
    rows = [{"text": None}, {"text": "def return print list"}, {"text": "def print"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "q.csv").write_text('question,answer\nhello,"one\ntwo"\n', encoding="utf-8")
    domains = tmp_path / "d.yaml"
    domains.write_text("domains: {code: a.json}\nquestions: {all: {path: q.csv}}\n", encoding="utf-8")
    report = measure(built, domains=domains, without=("samples", "chat", "speed"))
    assert report["domains"]["code"]["documents"] == 2
    never = (
        "`q.csv`: no question is asked, as no reply could match the answer: "
        "it has several lines, and a reply ends with its line"
    )
    assert report["notes"][-2:] == [
        "domain `code`: `a.json`: one of 3 rows is left out: field `text` is null (row 1)",
        f"questions `all`: {never}",
    ]
    assert report["questions"]["all"]["exact_match"] is None
    assert report["questions"]["all"]["exact_match_note"] == never


@pytest.mark.parametrize(
    ("template", "notes"),
    [
        ("", ["chat is left out: the tokenizer's chat template is blank"]),
        ("{{ raise_exception('no users here') }}",
         [f"domain `{name}`: there is no chat reply: The chat template does not take a user's message: no users here"
          for name in ("code", "math", "french")]),
    ],
)  # fmt: skip
def test_a_template_that_no_reply_comes_through_costs_the_chat_alone(
    moe: Path, template: str, notes: list[str]
) -> None:
    """The losses that were measured before it stay, and a note says why there is no chat."""
    (moe / "chat_template.jinja").write_text(template, encoding="utf-8")
    report = measure(moe, without=("samples", "questions", "speed"), limit=2)
    assert report["chat"] == {}
    assert [note for note in report["notes"] if "chat" in note] == notes
    assert math.isfinite(report["domains"]["code"]["moe"])


def test_texts_that_cannot_be_read_are_all_named(built: Path, tmp_path: Path) -> None:
    """Every domain's problem at once, with its name."""
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"txt": "a"}\n', encoding="utf-8")
    domains = tmp_path / "d.yaml"
    domains.write_text("code: gone.jsonl\nmath: empty.jsonl\nfrench: bad.jsonl\n", encoding="utf-8")
    assert refused(built, domains=domains) == [
        (
            f"domain `code`: `{tmp_path / 'gone.jsonl'}` does not exist",
            "relative paths start at the folder of the file that names them",
        ),
        ("domain `math`: `empty.jsonl` holds no text", "give a file with one document at least"),
        (
            "domain `french`: `bad.jsonl` holds no text that can be read: "
            "no field that is known to hold texts (line 1)",
            "set `field` to one of those that it has: `txt`",
        ),
    ]


def test_texts_of_one_token_predict_nothing(built: Path, tmp_path: Path) -> None:
    """They are refused by name."""
    (tmp_path / "a.jsonl").write_text('{"text": "chat"}\n', encoding="utf-8")
    (tmp_path / "d.yaml").write_text("code: a.jsonl\n", encoding="utf-8")
    assert refused(built, domains=tmp_path / "d.yaml") == [
        ("no token can be predicted in the texts of `code`: they are too short", None)
    ]


def test_a_domain_without_an_expert_and_one_with_a_single_document(built: Path, tmp_path: Path) -> None:
    """Both are measured; the first has no gain kept, the second no interval."""
    (tmp_path / "a.txt").write_text(sentences("code", 1, 9)[0], encoding="utf-8")
    (tmp_path / "d.yaml").write_text("other: a.txt\ncode: {path: a.txt}\n", encoding="utf-8")
    found = measure(built, domains=tmp_path / "d.yaml")
    other, code = found["domains"]["other"], found["domains"]["code"]
    assert (other["expert"], other["oracle_routed"], other["gain_kept"]) == (None, None, None)
    assert other["gain_kept_note"] == "no expert has this name"
    assert (code["expert"], code["intervals"]["moe"]) == ("code", None)
    assert found["gain_kept_interval"] is None
    assert found["mean"]["oracle_routed"] is None


@pytest.mark.parametrize(
    ("key", "size"),
    [*(("sliding_window", size) for size in (-1, 0, 2.5, "4", True)), ("max_position_embeddings", [8])],
)
def test_a_config_with_a_size_that_is_none(key: str, size: object, moe: Path) -> None:
    """transformers loads it, and breaks at the first text; or the evaluation did."""
    path = moe / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: size}))
    assert refused(moe) == [
        (
            f"`{moe}`: in its `config.json` `{key}` is `{size}`, not a whole number above 0",
            f"`moemerge verify {moe}` says what changed after the build",
        )
    ]


def test_a_config_without_its_number_of_layers(moe: Path) -> None:
    """transformers would take its own default, and make up the layers that are not there."""
    path = moe / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["num_hidden_layers"]
    path.write_text(json.dumps(config))
    hint = f"`moemerge verify {moe}` says what changed after the build"
    assert refused(moe) == [(f"`{moe}`: its `config.json` has no `num_hidden_layers`", hint)]


def test_folders_that_cannot_be_measured(built: Path, moe: Path, trio: Trio, tmp_path: Path) -> None:
    """Each with its own words."""
    hint = "name a folder that `moemerge build` made"
    assert refused(tmp_path / "gone") == [(f"`{tmp_path / 'gone'}` does not exist", hint)]
    assert refused(trio.texts["code"]) == [(f"`{trio.texts['code']}` is not a folder", hint)]
    assert refused(trio.base) == [
        (f"`{trio.base}` holds no mixture of experts: its `config.json` is that of `llama`", hint)
    ]
    assert refused(built, experts=("a", "b", "c")) == [
        (
            f"`--experts`: the experts of `{built}` have names: `code`, `math`, `french`",
            "leave the option out",
        )
    ]
    record = moe / "moemerge.yaml"
    record.write_text(
        record.read_text(encoding="utf-8").replace("experts_per_token", "experts_a_token"), encoding="utf-8"
    )
    assert refused(moe)[0][0].startswith(f"the record of `{moe}` is damaged:\n  moemerge.yaml: ")
    record.unlink()
    hint = "pass `--domains FILE.yaml` with a file of texts per domain, such as `code: texts/code.jsonl`"
    assert refused(moe) == [(f"`{moe}`, which moemerge did not build, names no held-out texts", hint)]
    assert refused(moe, domains=tmp_path / "d.yaml") == [
        (f"File of domains `{tmp_path / 'd.yaml'}` does not exist", None)
    ]


def test_losses_that_are_not_finite_are_refused(moe: Path) -> None:
    """A NaN in a weight is not reported as a loss."""
    change(moe, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    (message, hint) = refused(moe, limit=2)[0]
    assert message == "the loss of document 1 is not finite: the model's weights or its dtype cannot be right"
    assert hint == "`moemerge verify` looks for NaN in the weights; `--dtype float32` rules out an overflow"
