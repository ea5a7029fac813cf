"""What `moemerge eval` measured, as a section of the card, as the hub's `model-index`, and as pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moemerge.errors import PushError, SourceError, cause_of
from moemerge.report import write_plots
from moemerge.report.headline import gains, verdict
from moemerge.report.reading import MODELS, Report, domains, mapping, number, text
from moemerge.report.words import gain, nats
from moemerge.sources.regular import read_whole
from moemerge.sources.strict_json import load_json
from moemerge.write.markdown import one_line, plain, table

_SHOWN = ("base", "specialist", "linear_merge", "moe")
"""The models whose losses the card shows."""
_ALT = {
    "moemerge-gain.png": "Gain kept by the mixture and by what it is compared with",
    "moemerge-confusion.png": "Tokens of each domain by first expert",
    "moemerge-load.png": "Load of each expert in each layer",
}
_NO_SLUG = re.compile(r"[^a-z0-9]+")
_DIGITS = 4
_LARGEST = 50_000_000


def read_report(path: Path, record: str, folder: Path) -> Report:
    """The figures of an evaluation, which must be of this very folder.

    Args:
        path: what `moemerge eval -o` wrote.
        record: the digest of the folder's record.
        folder: the folder, for messages.

    Raises:
        PushError: they are no such figures, or of another folder.
        SourceError: the file cannot be read.
    """
    again = f"run `moemerge eval {folder} -o {path}`"
    data = read_whole(path, _LARGEST)
    try:
        report: Report = load_json(data, path.name)
    except (SourceError, ValueError, RecursionError) as error:
        raise PushError(f"`{path}` holds no figures of `moemerge eval`: {cause_of(error)}", hint=again) from None
    if "moemerge" not in report or "domains" not in report:
        raise PushError(f"`{path}` holds no figures of `moemerge eval`", hint=again)
    if report.get("record") != record:
        raise PushError(f"`{path}` holds the figures of another model than `{folder}`", hint=again)
    return report


def results_section(report: Report, pictures: list[str]) -> str:
    """The section of the card.

    Args:
        report: the figures.
        pictures: the names of pictures of them that lie beside the card.
    """
    names = domains(report)
    rows = [[plain(name), *_losses(report, name), _kept(report, name)] for name in names]
    head = ["domain", *(MODELS[key] for key in _SHOWN), "gain kept"]
    documents = sum(int(number(report, "domains", name, "documents") or 0) for name in names)
    parts = [
        f"## Results\n\n{plain(verdict(report))}",
        "Held-out loss in nats per token, lower is better, measured by `moemerge eval` in "
        f"{plain(text(report, 'dtype'))} on {documents:,} documents. *Gain kept* is the share of the specialists' gain "
        "over the base: 100 % is as good as the right specialist for every text. The linear merge is one dense model.",
        table(head, rows),
    ]
    pooled = [(plain(one.label), gain(one.value, one.interval)) for one in gains(report)]
    if pooled:
        parts.append(table(("over all domains", "gain kept"), pooled))
    tasks = [(plain(task), plain(metric), f"{value:.{_DIGITS}g}") for task, metric, value in _tasks(report)]
    if tasks:
        parts.append(table(("task", "metric", "value"), tasks))
    parts += [f"![{_ALT[name]}]({name})" for name in pictures]
    return "\n\n".join(parts)


def _losses(report: Report, domain: str) -> list[str]:
    return [nats(number(report, "domains", domain, key)) for key in _SHOWN]


def _kept(report: Report, domain: str) -> str:
    return gain(number(report, "domains", domain, "gain_kept"), None)


def _tasks(report: Report) -> Iterator[tuple[str, str, float]]:
    for task, found in mapping(report, "tasks").items():
        for metric in mapping(found):
            value = number(found, metric)
            if value is not None:
                yield str(task), str(metric), value


def model_index(report: Report, name: str) -> dict[str, Any] | None:
    """The hub's account of the same figures; None where nothing was measured.

    Args:
        report: the figures.
        name: what the model is called.
    """
    results = []
    for domain in domains(report):
        metrics = [
            _metric("loss", "held-out loss, nats per token", number(report, "domains", domain, "moe")),
            _metric("perplexity", "held-out perplexity", number(report, "domains", domain, "perplexity", "moe")),
            _metric("gain_kept", "share of the specialist's gain kept", number(report, "domains", domain, "gain_kept")),
        ]
        results.append(_result(f"moemerge-{_slug(domain)}", domain, metrics))
    whole = [_metric("gain_kept", "share of the specialists' gain kept", number(report, "gain_kept"))]
    results.append(_result("moemerge-all", "all domains", whole))
    results += [_result(_slug(task), task, [_metric(metric, metric, value)]) for task, metric, value in _tasks(report)]
    measured = [result for result in results if result["metrics"]]
    return {"name": name, "results": measured} if measured else None


def _metric(kind: str, name: str, value: float | None) -> dict[str, Any] | None:
    return None if value is None else {"type": one_line(kind), "name": one_line(name), "value": round(value, _DIGITS)}


def _result(kind: str, name: str, metrics: list[dict[str, Any] | None]) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": kind, "name": one_line(name)},
        "metrics": [metric for metric in metrics if metric is not None],
    }


def _slug(name: str) -> str:
    return _NO_SLUG.sub("-", name.lower()).strip("-") or "texts"


def pictures(report: Report) -> dict[str, bytes]:
    """The report's plots by name; those that it has numbers for.

    Raises:
        MoemergeError: matplotlib is not installed.
    """
    with TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in write_plots(report, Path(folder))}
