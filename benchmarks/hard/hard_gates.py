"""The table of gates on a hard set: gain kept, of oracle routing, and general text.

    python benchmarks/hard/hard_gates.py mixed                      # development texts: for every choice
    python benchmarks/hard/hard_gates.py mixed --part test          # once, when all choices are made
    python benchmarks/hard/hard_gates.py surface --from prompts     # gates fitted to six prompts an expert alone
    python benchmarks/hard/hard_gates.py romance --unlike           # from data of another kind than the texts

Specialists write once a set, so that all gates are fitted to the same texts. All is kept in work/hard, so that a run
may be stopped and goes on where it was. `--again` fits and measures anew; what was written and the mixture itself stay,
so remove work/hard/gates and work/hard/built after you trained specialists anew. In a document of several pieces the
specialist (and the oracle) is that of each piece. "Ahead of" is the paired difference to the row that is named, with
its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from hard_texts import EXAMPLES, ROOT, WORK, texts_in
from torch import Tensor

sys.path.insert(0, str(ROOT / "examples"))

from losses import RESAMPLES, Losses, gain_interval, gain_kept, mean  # after the path
from moemerge.build.run import build_plan, fit_router
from moemerge.build.texts import read_gate_texts
from moemerge.dense.models import PlannedModels, load_tokenizer
from moemerge.gate.expand import expand as gate_expand
from moemerge.gate.request import ExpertTexts, GateRequest, GateTexts
from moemerge.plan import Plan, sound_plan
from moemerge.recipe import load_recipe
from moemerge.texts import Document

SETS: Mapping[str, Sequence[str]] = {
    "surface": ("c", "code", "legal"),
    "mixed": ("code", "math", "french", "mixed"),
    "romance": ("code", "french", "spanish"),
    "diverged": ("code", "math", "french", "mixed"),
    "chat": ("chat", "math", "french"),
    "trio": ("code", "math", "french", "mixed"),
    "many-8": ("code", "math", "french", "spanish"),
    "many-16": ("code", "math", "french", "spanish"),
}
FORMS: Mapping[str, Sequence[str]] = {
    "prompts": ("mergekit_hidden", "discriminant", "advantage"),
    "longer": ("discriminant", "advantage"),
    "data": ("discriminant", "advantage"),
    "both": ("discriminant", "advantage"),
    "pool": ("advantage",),
    "uneven": ("advantage",),
}
"""The gates, by what they are fitted to: six prompts an expert with what the specialists write after them; the same
where these write as much as a build lets them; texts of the domains; both of the first and these; the texts, unsorted,
as many of each domain; or four times as many of the first domain as of the last. The base has no domain: what it writes
after its prompts goes with the texts."""
EXPAND, LONGER = 1000, 2304
"""Tokens that each specialist writes; and where it writes as much as `gate.expand: auto` lets it."""
MOST_TOKENS = 4000
"""Tokens of an expert that gates are fitted to from data."""
POOLED, FEWEST = 16, 4
"""Documents of a domain in a pool: `POOLED` of each, or from `POOLED` for the first domain down to `FEWEST`."""
POSITIONS = 2048
"""That run at once."""
NOBODY = -1
"""The owner of general text where the base is no expert."""


class HardSet:
    """A set's texts, baselines and sparse model."""

    def __init__(self, name: str, part: str, limit: int, tokens: int, *, again: bool) -> None:
        self.name, self.plan = name, plan_of(name)
        self.names = [expert.name for expert in self.plan.experts]
        tokenizer = load_tokenizer(self.plan)
        self.rows: dict[str, list[list[int]]] = {}
        self.owners: dict[str, list[list[int]]] = {}
        for domain in (*SETS[name], "general"):
            self.rows[domain], self.owners[domain] = [], []
            for pieces in documents(domain, part)[:limit]:
                ids, owners = list[int](), list[int]()
                for owner, text in pieces:
                    own = tokenizer(text if not ids else f"\n\n{text}")["input_ids"]
                    ids += own
                    owners += [self.names.index(owner) if owner in self.names else NOBODY] * len(own)
                self.rows[domain].append(ids[:tokens])
                self.owners[domain].append(owners[:tokens])
        self.models = PlannedModels(self.plan)
        self.folder = WORK / "losses" / f"{name}-{part}-{limit}-{tokens}"
        self.again = again
        self.base = self.measured("base", lambda: self.losses(self.models.base()))
        self.linear = self.measured("linear", lambda: self.losses(self.models.linear_merge()))
        self.own = self.measured("own", lambda: self.by_owner(self.models.specialist))
        self.oracle = self.measured("oracle", lambda: self.by_owner(self.models.merged))

    def measured(self, label: str, measure: Callable[[], Any]) -> Any:
        """What was measured under this label before, or is now and kept."""
        kept = self.folder / f"{label}.pt"
        if not kept.exists() or self.again:
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(measure(), kept)
        return torch.load(kept, weights_only=True)

    def losses(self, model: Any) -> Losses:
        """Of one model on every domain."""
        return {d: torch.stack([summed(one) for one in token_losses(model, rows)]) for d, rows in self.rows.items()}

    def by_owner(self, give: Callable[[int], Any]) -> Losses:
        """Of the models of the tokens' owners."""
        found = {d: [torch.zeros(len(row) - 1) for row in rows] for d, rows in self.rows.items()}
        for expert in range(len(self.names)):
            model = give(expert)
            for domain, rows in self.rows.items():
                owned = [n for n, owners in enumerate(self.owners[domain]) if expert in owners[1:]]
                for number, losses in zip(owned, token_losses(model, [rows[n] for n in owned]), strict=True):
                    own = torch.tensor(self.owners[domain][number][1:]) == expert
                    found[domain][number][own] = losses[own]
        return {domain: torch.stack([summed(one) for one in each]) for domain, each in found.items()}

    @cached_property
    def sparse(self) -> Any:
        """The mixture, by plain transformers."""
        from transformers import AutoModelForCausalLM

        folder = WORK / "built" / self.name
        if not folder.exists():
            build_plan(plan_of(self.name, "gate.init=random"), folder, root=recipe_path(self.name).parent)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        model.set_experts_implementation("eager")  # on a CPU the fastest: 2.3 s instead of 2.8 for 1,600 tokens
        return model

    def routed(self, gate: Tensor, k: int) -> tuple[Losses, float]:
        """The mixture's losses by a gate `[L, E, d]`, and the share of general tokens whose first choice is the base's
        expert, mean of the layers."""
        won: list[float] = []
        general = self.names.index("general") if "general" in self.names else NOBODY

        def look(router: Any, inputs: tuple[Tensor, ...]) -> None:
            chosen = (inputs[0].reshape(-1, gate.shape[2]).float() @ router.weight.float().T).argmax(1)
            won.append(float((chosen == general).double().mean()))

        with torch.no_grad():
            for layer, weights in zip(self.sparse.model.layers, gate, strict=True):
                layer.mlp.gate.weight.copy_(weights)
                layer.mlp.gate.top_k = k
        found = {domain: token_losses(self.sparse, rows) for domain, rows in self.rows.items() if domain != "general"}
        hooks = [layer.mlp.gate.register_forward_pre_hook(look) for layer in self.sparse.model.layers]
        found["general"] = [one for row in self.rows["general"] for one in token_losses(self.sparse, [row])]
        for hook in hooks:
            hook.remove()
        return {domain: torch.stack(list(map(summed, own))) for domain, own in found.items()}, sum(won) / len(won)


def recipe_path(name: str) -> Path:
    """Of a set."""
    return Path(__file__).with_name(f"{name}.yaml")


def plan_of(name: str, *overrides: str) -> Plan:
    """A set's plan with overrides."""
    loaded = load_recipe(recipe_path(name), (f"gate.expand={EXPAND}", f"gate.max_tokens={MOST_TOKENS}", *overrides))
    return sound_plan(loaded.recipe, loaded.root)


def documents(domain: str, part: str) -> list[list[tuple[str, str]]]:
    """The documents of a domain, each as pieces: (owner, text)."""
    path = WORK / "texts" / part / f"{domain}.jsonl"
    if part in EXAMPLES and not path.exists():
        path = EXAMPLES[part] / f"{domain}.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["pieces"] if "pieces" in line else [(domain, line["text"])] for line in lines]


def domain_of(expert: str) -> str:
    """Several experts of a domain are named `DOMAIN`, `DOMAIN-1` and so on."""
    return expert.partition("-")[0]


def gate_documents(domain: str, *, unlike: bool = False) -> tuple[Document, ...]:
    """What a gate is fitted to from data; none for the general expert. `unlike` are those of another kind."""
    paths = (WORK / "texts" / "gate" / f"{domain}.jsonl", ROOT / "examples" / "calibration" / f"{domain}.jsonl")
    found = [path for path in paths[unlike:] if path.exists()]
    return tuple(texts_in(found[0])) if found else ()


def own_documents(experts: Sequence[ExpertTexts], *, unlike: bool) -> dict[str, tuple[Document, ...]]:
    """The documents of each expert, by its name; those of one domain take turns."""
    own = defaultdict[str, list[str]](list)
    for expert in experts:
        own[domain_of(expert.name)].append(expert.name)
    return {
        name: gate_documents(domain, unlike=unlike)[place :: len(names)]
        for domain, names in own.items()
        for place, name in enumerate(names)
    }


def pooled(name: str, texts: Sequence[ExpertTexts], form: str) -> tuple[Document, ...]:
    """Texts of all experts that have any, of documents that change the domain, and what the base wrote."""
    fitted(name, "discriminant", "data", again=False)  # so that it is there what the base wrote
    written = torch.load(written_path(name, "data"), weights_only=False)  # our own file
    domains = [own.documents for own in texts if own.documents]
    if "mixed" in SETS[name]:
        domains.append(tuple("\n\n".join(text for _, text in own) for own in documents("mixed", "gate")))
    most = [POOLED] * len(domains)
    if form == "uneven":
        most = [round(POOLED - (POOLED - FEWEST) * place / (len(domains) - 1)) for place in range(len(domains))]
    domains = [own[:count] for own, count in zip(domains, most, strict=True)]
    return tuple(document for own in (*domains, *written.samples.values()) for document in own)


def fitted(name: str, init: str, form: str, *, again: bool, unlike: bool = False) -> Tensor:
    """A gate as `moemerge build` fits it for two experts a token from one of `FORMS`, `[L, E, d]`."""
    kept = WORK / "gates" / f"{name}-{labelled(form, unlike=unlike)}-{init}.pt"
    if kept.exists() and not again:
        return torch.load(kept, weights_only=True)  # type: ignore[no-any-return]  # as it was saved
    wanted = LONGER if form == "longer" else EXPAND
    plan = plan_of(name, f"gate.init={init}", "experts_per_token=2", f"gate.expand={wanted}")
    texts = read_gate_texts(plan, recipe_path(name).parent).experts
    if form not in ("prompts", "longer"):
        read = own_documents(texts, unlike=unlike)
        texts = tuple(
            replace(own, prompts=own.prompts if form == "both" else (), documents=read[own.name])
            if read[own.name]
            else own
            for own in texts
        )
    pool = pooled(name, texts, form) if form in ("pool", "uneven") else ()
    gate = torch.as_tensor(fit_router(plan, GateTexts(texts, pool)).weights)
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(gate, kept)
    return gate


def labelled(form: str, *, unlike: bool) -> str:
    """A form's name in files."""
    return f"{form}-unlike" if unlike and form not in ("prompts", "longer") else form


def written_path(name: str, form: str) -> Path:
    """Where it is kept what specialists wrote."""
    return WORK / "gates" / f"{name}-{form}-written.pt"


def write_once(name: str) -> None:
    """Lets the gate room take what specialists wrote for a set from a file, or keep it there."""

    def expand(request: GateRequest, *arguments: Any) -> Any:
        silent = any(own.documents and not own.prompts for own in request.experts)
        kept = written_path(name, "data" if silent else "longer" if request.expand == LONGER else "prompts")
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(gate_expand(request, *arguments), kept)
        return torch.load(kept, weights_only=False)  # our own file, of a moment ago

    patch("moemerge.gate.fit.expand", expand).start()


@torch.inference_mode()
def token_losses(model: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Next-token losses of each row, `[S - 1]`, in nats."""
    found = []
    step = max(POSITIONS // max(map(len, rows), default=1), 1)
    for start in range(0, len(rows), step):
        batch = rows[start : start + step]
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : len(row)] = torch.tensor(row)
        logits = model(ids, use_cache=False).logits
        for number, row in enumerate(batch):
            scores, wanted = logits[number, : len(row) - 1].float(), ids[number, 1 : len(row)]
            found.append(torch.nn.functional.cross_entropy(scores, wanted, reduction="none"))
    return found


def summed(losses: Tensor) -> Tensor:
    """`[sum, count]`."""
    return torch.tensor([float(losses.sum()), len(losses)], dtype=torch.float64)


def ahead(base: Losses, own: Losses, one: Losses, other: Losses) -> tuple[float, float, float]:
    """The gain that one model keeps more than another, and its interval, by a paired bootstrap over the texts."""
    draw = torch.Generator().manual_seed(0)
    more, possible = torch.zeros(RESAMPLES), torch.zeros(RESAMPLES)
    for domain in own:
        count = len(base[domain])
        picked = torch.randint(count, (RESAMPLES, count), generator=draw)
        means = [
            (sums[:, 0] / sums[:, 1]) for sums in (each[domain][picked].sum(1) for each in (base, own, one, other))
        ]
        more += means[3] - means[2]
        possible += means[0] - means[1]
    difference = more / possible
    low, high = difference.quantile(torch.tensor([0.025, 0.975])).tolist()
    return gain_kept(base, own, one) - gain_kept(base, own, other), low, high


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Gain kept by gate on a hard set.")
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--part", choices=("development", "test"), default="development")
    parser.add_argument(
        "--from", dest="forms", choices=FORMS, nargs="*", default=FORMS, help="what gates are fitted to"
    )
    parser.add_argument("--gates", choices=FORMS["prompts"], nargs="*", default=FORMS["prompts"], help="which [all]")
    parser.add_argument("--unlike", action="store_true", help="texts of another kind, in place of like ones")
    parser.add_argument("--again", action="store_true", help="fit and measure anew what is kept")
    parser.add_argument("--limit", type=int, default=16, help="documents of a domain [16]")
    parser.add_argument("--tokens", type=int, default=200, help="of a document at most [200]")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    name = arguments.set
    write_once(name)
    gates = {
        (init, form): fitted(name, init, form, again=arguments.again, unlike=arguments.unlike)
        for form in arguments.forms
        for init in FORMS[form]
        if init in arguments.gates
    }
    bench = HardSet(name, arguments.part, arguments.limit, arguments.tokens, again=arguments.again)
    domains = SETS[name]
    base, own = ({d: losses[d] for d in domains} for losses in (bench.base, bench.own))
    ceiling = gain_kept(base, own, bench.oracle)
    print("| gate | k | " + " | ".join(domains) + " | gain kept | of oracle | general | its tokens at the base's |")
    print("| --- | --- |" + " --- |" * (len(domains) + 4))

    def line(label: str, k: str, losses: Losses, share: float | None = None) -> None:
        low, high = gain_interval(base, own, losses)
        kept = gain_kept(base, own, losses)
        each = [gain_kept({d: base[d]}, {d: own[d]}, losses) for d in domains]
        general = f"{mean(losses['general']) - mean(bench.base['general']):+.3f}"
        if losses is bench.oracle and "general" not in bench.names:
            general = ""  # no expert is general text's own
        cells = [
            label, k, *(f"{one:.3f}" for one in each), f"{kept:.3f} [{low:.2f}, {high:.2f}]", f"{kept / ceiling:.3f}",
            general, "" if share is None else f"{share:.2f}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)

    line("linear merge", "", bench.linear)
    line("oracle routing", "1", bench.oracle)
    found: dict[tuple[str, str, int], Losses] = {}
    for (init, form), gate in gates.items():
        for k in (1, 2):
            label = f"{init}-{labelled(form, unlike=arguments.unlike)}-{k}"
            found[init, form, k], share = bench.measured(label, partial(bench.routed, gate, k))
            line(f"{init}, {form}", str(k), found[init, form, k], share)
    for (init, form, k), losses in found.items():
        others = {"the linear merge": bench.linear}
        others |= {
            f"{of}, {given}": found[of, given, k]
            for of in ("discriminant", init)
            for given in FORMS
            if (of, given, k) in found
        }
        for other, theirs in others.items():
            if losses is not theirs:
                more = ahead(base, own, losses, theirs)
                print(f"{init}, {form}, {k} a token, ahead of {other}: {more[0]:+.3f} [{more[1]:+.3f}, {more[2]:+.3f}]")


if __name__ == "__main__":
    main()
