"""Leads for the gate on a hard set, each beside the plain ridge on labels: gain kept on development texts.

    python benchmarks/hard/hard_texts.py
    python benchmarks/hard/hard_leads.py mixed                 # all of them
    python benchmarks/hard/hard_leads.py romance --only savings
    python benchmarks/hard/hard_leads.py trio                  # the base is no expert: is it a class all the same?

Every lead is fitted to the same texts, what the specialists wrote after six prompts each or data, at the inputs that
the routers of the mixture get when every token goes to its own expert. Unless a lead says so, λ is 0.1, rows have unit
norm and all logits of a layer one spread. "More" is the paired difference to `labels`, with its 95 % interval. What was
measured is kept in work/hard.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any
from unittest.mock import patch

import torch
import transformers
from hard_fits import beside, best, by_expert, evened, gate, logistic, pooled, shared_out, to_scale
from hard_gates import (
    EXPAND,
    MOST_TOKENS,
    SETS,
    HardSet,
    ahead,
    domain_of,
    fitted,
    gate_documents,
    plan_of,
    recipe_path,
    token_losses,
    write_once,
    written_path,
)
from hard_reading import Forced, Read, Text, both, joined, of_best, texts_of
from torch import Tensor

from losses import gain_kept, mean
from moemerge.build.run import fit_router
from moemerge.build.texts import read_gate_texts
from moemerge.dense.generation import continuations, end_tokens
from moemerge.dense.models import load_tokenizer
from moemerge.gate import expand
from moemerge.gate.advantage import averaged, targets


class Leads:
    """A set, and gates by every lead.

    Args:
        name: of the set.
        form: what gates are fitted to, `prompts` or `data`.
        limit: development documents of a domain.
        tokens: of a document at most.
    """

    def __init__(self, name: str, form: str, limit: int, tokens: int) -> None:
        self.name, self.form = name, form
        self.bench = HardSet(name, "development", limit, tokens, again=False)
        write_once(name)
        fitted(name, "discriminant", form, again=False)  # so that it is there what the specialists wrote
        self.passages = torch.load(written_path(name, form), weights_only=False).passages  # our own file
        self.width = self.bench.plan.dense.hidden_size
        self.begins = expand.beginning(load_tokenizer(self.bench.plan))

    def read(self, texts: Sequence[Text]) -> Read:
        """Runs texts through the mixture, and through every expert for what each saves."""
        forced = Forced(self.bench.sparse)
        inputs = [torch.cat(layer) for layer in zip(*map(forced.read, texts), strict=True)]
        counted = [torch.tensor(text.counted) for text in texts]
        experts = range(len(self.bench.names))
        each = [token_losses(self.bench.models.merged(expert), [text.ids for text in texts]) for expert in experts]
        saved = []
        for number, some in enumerate(counted):
            own = torch.stack([losses[number] for losses in each], 1).double()
            scored = torch.cat([some[1:], some.new_zeros(1)])
            means = averaged(torch.cat([own, own.new_zeros(1, own.shape[1])]), scored)
            saved.append((means.mean(1, keepdim=True) - means)[some])
        owners = [torch.tensor(text.owners)[some] for text, some in zip(texts, counted, strict=True)]
        places = [torch.full((len(own),), number) for number, own in enumerate(owners)]
        return Read(inputs, torch.cat(owners), torch.cat(places), torch.cat(saved))

    @cached_property
    def texts(self) -> list[Text]:
        """What the specialists wrote, and the experts' data."""
        return [*texts_of(self.passages), *self.data()]

    @cached_property
    def written(self) -> Read:
        """What is known of these."""
        return self.read(self.texts)

    def data(self) -> list[Text]:
        """Documents of the experts, where gates are fitted to these."""
        found, tokenizer = list[Text](), load_tokenizer(self.bench.plan)
        for expert, name in enumerate(self.bench.names):
            left = MOST_TOKENS if self.form == "data" else 0
            for document in gate_documents(domain_of(name)):
                ids = tokenizer(document)["input_ids"][:left]
                left -= len(ids)
                if ids:
                    found.append(Text(tuple(ids), (expert,) * len(ids), (True,) * len(ids)))
        return found

    @cached_property
    def with_joined(self) -> Read:
        """The same, and as many texts that change the expert midway."""
        return self.read([*self.texts, *joined(self.texts)])

    def at_temperature(self, temperature: float) -> Read:
        """What the specialists write at another temperature."""
        kept = written_path(self.name, f"temperature-{temperature:g}")
        if not kept.exists():

            def hotter(*arguments: Any, **settings: Any) -> Any:
                return continuations(*arguments, **settings | {"temperature": temperature})

            with (
                patch("moemerge.gate.expand.continuations", hotter),
                patch("moemerge.gate.fit.expand", lambda *a: _keep(expand.expand(*a), kept)),
            ):
                plan = plan_of(self.name)
                fit_router(plan, read_gate_texts(plan, recipe_path(self.name).parent))
        return self.read(texts_of(torch.load(kept, weights_only=False).passages))  # our own file

    @cached_property
    def unprompted(self) -> Read:
        """As much again, written from the beginning of text."""
        kept = written_path(self.name, "unprompted")
        if not kept.exists():
            torch.save([self._from_beginning(number) for number in range(len(self.bench.names))], kept)
        begun = torch.load(kept, weights_only=True)
        texts = [
            Text((self.begins, *new), (owner,) * (len(new) + 1), (False, *[True] * len(new)))
            for owner, own in enumerate(begun)
            for new in own
            if new
        ]
        return self.read(texts)

    def _from_beginning(self, expert: int) -> list[list[int]]:
        tokenizer, model = load_tokenizer(self.bench.plan), self.bench.models.specialist(expert)
        ends, length = end_tokens(model, tokenizer), expand.NEW_TOKENS
        torch.manual_seed(expert)
        rows = continuations(
            model, [[self.begins]] * (EXPAND // length + 1), ends,
            do_sample=True, temperature=1.0, top_p=0.95, top_k=0, max_new_tokens=length,
        )  # fmt: skip
        return [row[:-1] if row[-1] in ends else row for row in rows]

    def losses(self, label: str, k: int, make: Callable[[], Tensor]) -> tuple[Any, float]:
        """Losses of the mixture by a gate, and the share of general tokens at the base's expert."""
        return self.bench.measured(f"lead {self.form} {label}, {k}", lambda: self.bench.routed(make(), k))  # type: ignore[no-any-return]


def _keep(found: Any, path: Any) -> Any:
    torch.save(found, path)
    return found


def in_turn(leads: Leads) -> Tensor:
    """Ridge on labels, fitted again to the inputs that the mixture has when the fitted gate routes."""
    read = leads.written
    first = gate(read, read.labels)
    model, held = leads.bench.sparse, [list[Tensor]() for _ in read.inputs]

    def look(layer: int, router: Any, given: tuple[Tensor, ...]) -> None:
        held[layer].append(given[0].reshape(-1, leads.width).float())

    hooks = []
    for number, (layer, weights) in enumerate(zip(model.model.layers, first, strict=True)):
        layer.mlp.gate.weight.data.copy_(weights)
        layer.mlp.gate.top_k = 2
        hooks.append(layer.mlp.gate.register_forward_pre_hook(partial(look, number)))
    with torch.inference_mode():
        for text in leads.texts:
            model.model(torch.tensor([text.ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    counted = torch.cat([torch.tensor(text.counted) for text in leads.texts])
    routed = replace(read, inputs=[torch.cat(own)[counted] for own in held])
    return gate(routed, routed.labels)


def against_base(leads: Leads, read: Read) -> Tensor:
    """What a token's own expert saves against the base's expert, `[n]`; 1 where it is the base's own."""
    base = leads.bench.names.index("general")
    return torch.where(read.owners == base, 1.0, read.own - read.saved[:, base])


def with_base(leads: Leads, wanted: float) -> Tensor:
    """Ridge on labels and on what the base writes: there every expert's target is the same, 0 or an even share.

    The base's tokens go to the experts in turn while the routers' inputs are read.
    """
    own, experts = texts_of(leads.passages), len(leads.bench.names)
    written = torch.load(written_path("mixed", "prompts"), weights_only=False).passages[experts]  # our own file
    general = [
        Text(tuple(one.ids), tuple(place % experts for place in range(len(one.ids))), tuple(one.counted))
        for one in written
    ]
    read = leads.read([*own, *general])
    ours = read.texts < len(own)
    targets = torch.where(ours[:, None], read.labels, torch.full_like(read.labels, wanted))
    classes = torch.where(ours, read.owners, experts)
    weights = 1 / torch.bincount(classes).double()[classes]
    return gate(read, targets, weights)


def every_lead(leads: Leads) -> dict[str, Callable[[], Tensor]]:
    """The gates by name; `labels` is what the others are compared with."""
    layers = leads.bench.plan.dense.layers

    def read() -> Read:
        return leads.written

    def third(first: float, last: float) -> list[float]:
        return [
            first if layer < layers // 3 else last if layer >= layers - layers // 3 else 1.0 for layer in range(layers)
        ]

    def heated(heat: float) -> Tensor:
        own = leads.at_temperature(heat)
        return gate(own, own.labels)

    def shared(share: float) -> Tensor:
        return gate(read(), beside(read().labels, read().saved, share))

    beside_base = {
        "labels, weighted by what the own expert saves against the base": lambda: gate(
            read(), read().labels, shared_out(read(), against_base(leads, read()).clamp(0, 2) + 0.05)
        ),
    }
    base = {
        "the base as a class": partial(with_base, leads, 0.0),
        "the base as a class of even shares": partial(with_base, leads, 1 / len(leads.bench.names)),
    }
    return {
        "labels": lambda: gate(read(), read().labels),
        "savings": lambda: gate(read(), read().saved),
        **{
            f"{words} savings": partial(shared, share)
            for words, share in (("a quarter", 0.25), ("half", 0.5), ("three quarters", 0.75))
        },
        "the best expert of the neighbours": lambda: gate(read(), best(read())),
        "the same, half savings": lambda: gate(read(), beside(best(read()), read().saved, 0.5)),
        "as `advantage` is fitted": lambda: gate(read(), targets(read().saved, read().even)),
        "savings to scale": lambda: gate(read(), to_scale(read())),
        "half savings to scale": lambda: gate(read(), beside(read().labels, to_scale(read()), 0.5)),
        "labels, also without a prompt": lambda: gate(also := both(read(), leads.unprompted), also.labels),
        "savings, also without a prompt": lambda: gate(also := both(read(), leads.unprompted), also.saved),
        "savings, cut off at half a nat": lambda: gate(read(), read().saved.clamp(-0.5, 0.5)),
        "labels times what the own expert saves": lambda: gate(read(), read().labels * read().own[:, None]),
        "labels, weighted by what the own expert saves": lambda: gate(
            read(), read().labels, read().even * (read().own.clamp(0, 2) + 0.05)
        ),
        "the same, every expert's tokens as much as another's": lambda: gate(
            read(), read().labels, shared_out(read(), read().own.clamp(0, 2) + 0.05)
        ),
        "labels, every expert weighted by what it saves on the mean": lambda: gate(
            read(), read().labels, by_expert(read(), read().own.clamp(0, 2) + 0.05)
        ),
        "labels, weighted by how much the choice matters": lambda: gate(
            read(), read().labels, read().even * (read().saved.amax(1) - read().saved.amin(1)).clamp(0.05, 2)
        ),
        **{
            f"first tokens weigh {weight} times as much": partial(
                lambda w: gate(read(), read().labels, shared_out(read(), read().first(w))), weight
            )
            for weight in (3, 10, 30)
        },
        "the two thirds of the texts that save the most": lambda: gate(of_best(read()), of_best(read()).labels),
        "texts that change the expert midway too": lambda: gate(leads.with_joined, leads.with_joined.labels),
        "savings, such texts too": lambda: gate(leads.with_joined, leads.with_joined.saved),
        "fitted again to what the mixture sends on": lambda: in_turn(leads),
        "second moments of three layers": lambda: pooled(read()),
        "evened by the mean of the text": lambda: evened(read()),
        "softmax regression, three Newton steps": lambda: logistic(read()),
        **{
            f"λ {ridge:g}": partial(lambda r: gate(read(), read().labels, ridge=r), ridge) for ridge in (0.01, 0.3, 1.0)
        },
        "spread 0.5 in the first third of the layers": lambda: gate(read(), read().labels, spreads=third(0.5, 1)),
        "spread 2 in the first third": lambda: gate(read(), read().labels, spreads=third(2, 1)),
        "spread 0.5 in the last third": lambda: gate(read(), read().labels, spreads=third(1, 0.5)),
        "spread 2 in the last third": lambda: gate(read(), read().labels, spreads=third(1, 2)),
        **{f"written at temperature {heat:g}": partial(heated, heat) for heat in (0.7, 1.3)},
        **(beside_base if "general" in leads.bench.names else {}),
        **(base if leads.name == "trio" else {}),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Leads for the gate on a hard set's development texts.")
    parser.add_argument("set", choices=SETS, help="`trio` wants `mixed` first, whose base has written")
    parser.add_argument("--from", dest="form", choices=("prompts", "data"), default="prompts", help="[prompts]")
    parser.add_argument("--only", nargs="+", default=(), help="leads by name [all]")
    parser.add_argument("--limit", type=int, default=8, help="documents of a domain [8]")
    parser.add_argument("--tokens", type=int, default=160, help="of a document at most [160]")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    leads = Leads(arguments.set, arguments.form, arguments.limit, arguments.tokens)
    bench, domains = leads.bench, SETS[arguments.set]
    base, own = ({d: losses[d] for d in domains} for losses in (bench.base, bench.own))
    most = gain_kept(base, own, bench.oracle)
    print(f"oracle routing {most:.3f}, linear merge {gain_kept(base, own, bench.linear):.3f}\n")
    print("| lead | 1 expert a token | more | 2 experts a token | more | general, nats |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    first: dict[int, Any] = {}
    found = every_lead(leads)
    if unknown := [one for one in arguments.only if one not in found]:
        parser.error(f"no lead is called {', '.join(unknown)}; they are: {'; '.join(found)}")
    for label in ("labels", *(one for one in found if one != "labels" and one in (arguments.only or found))):
        cells, make = [label], cache(found[label])
        for k in (1, 2):
            losses, _share = leads.losses(label, k, make)
            more = ahead(base, own, losses, first[k]) if k in first else None
            cells += [f"{gain_kept(base, own, losses):.3f}", "{:+.3f} [{:+.3f}, {:+.3f}]".format(*more) if more else ""]
            first.setdefault(k, losses)
        cells.append(f"{mean(losses['general']) - mean(bench.base['general']):+.3f}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
