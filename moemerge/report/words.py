"""How numbers are written, in the terminal and on the page alike. A number that is not there is a dash."""

from __future__ import annotations

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """A share (1 = 100 %) with so many decimals: `96.8 %`."""
    return NONE if share is None else f"{_signed(100 * share, digits)} %"


def percents(pair: tuple[float, float] | None) -> str:
    """An interval of shares: `95 to 98 %`; empty where there is none."""
    return f"{_signed(100 * pair[0], 0)} to {_signed(100 * pair[1], 0)} %" if pair else ""


def gain(share: float | None, pair: tuple[float, float] | None) -> str:
    """A gain kept with its interval: `96.8 % (95 to 98)`."""
    return percent(share) + (f" ({percents(pair).removesuffix(' %')})" if share is not None and pair else "")


def nats(loss: float | None) -> str:
    """A loss in nats: `1.841`."""
    return NONE if loss is None else _signed(loss, 3)


def span(pair: tuple[float, float] | None, digits: int = 3) -> str:
    """An interval of plain numbers: `1.762 to 1.922`; empty where there is none."""
    return f"{_signed(pair[0], digits)} to {_signed(pair[1], digits)}" if pair else ""


def brief_span(pair: tuple[float, float] | None) -> str:
    """The same as small print beneath a number: `1.76–1.92`."""
    return span(pair, 2).replace(" to ", "–")


def difference(value: float | None) -> str:
    """A difference in nats, always with its sign: `−0.263`."""
    if value is None:
        return NONE
    return _signed(value, 3) if value < 0 else f"+{value:.3f}"


def plain(value: float | None, digits: int = 2) -> str:
    """A plain number; thousands and more by three digits, so that a perplexity of a broken model stays short."""
    if value is None:
        return NONE
    return _signed(value, digits) if abs(value) < 1000 else f"{value:.3g}"


def whole(value: float | None) -> str:
    """A count: `12,800`."""
    return NONE if value is None else f"{value:,.0f}"


def _signed(value: float, digits: int) -> str:
    """Fixed decimals with a real minus sign, and none before a zero; beyond a million by exponent."""
    written = f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"
    if not written.strip("-0."):
        written = written.removeprefix("-")
    return written.replace("-", "−", 1) if written.startswith("-") else written
