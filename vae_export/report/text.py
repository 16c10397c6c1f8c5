"""Format text for the HTML pages: descriptions of probes and metrics, and figures as short text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

#: A description of each probe, for readers of the page.
PROBES = {
    "prior": "Latents drawn from a standard normal, as when an application makes new images.",
    "posterior": "Latents of images, with the noise that training had.",
    "data": "The images themselves, and the mean latent of each.",
    "zeros": "Zeros, or the middle of the range where zero lies outside.",
    "six-sigma": "Every latent unit six standard deviations out: rarer than one draw in 500 million.",
    "interpolation": "Latents on the way from one image to the next.",
    "one-hot": "A single unit or pixel on, all others off: a swapped axis or weight shows here.",
    "smallest": "The smallest ordinary float32 numbers, which some engines flush to zero.",
    "largest": "The largest latents for which PyTorch’s image is still finite, and the brightest image.",
    "noise": "Noise in the whole range, so that every value of an input matters.",
    "extreme": "Inputs that gradients drive towards both sides of each bound inside: clamps, units such as ReLU.",
}
METRICS = {"negative_elbo": "negative ELBO", "iwae_nll": "IWAE bound"}

MISSING = "—"
#: The most digits that are added so that two numbers differ.
_MORE_DIGITS = 3
#: A space at which a line is not broken.
SPACE = "\N{NO-BREAK SPACE}"


def number(value: float | None) -> str:
    """Format a number with three digits: 0.00123, 12.3, 1,234, 4.05e-5. None is a dash; Inf and NaN "not finite"."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def times(ratio: float | None) -> str:
    """Format a ratio: 2.66×."""
    if ratio is None or not math.isfinite(ratio):
        return number(ratio)
    return f"{ratio:.{_decimals(ratio, 2)}f}×" if 0 < ratio < 100 else f"{number(ratio)}×"


def percent(share: float | None) -> str:
    """Format a share as 33.2 %, or as a multiple if it is above 10."""
    if share is None or not math.isfinite(share):
        return MISSING
    if share > 10:
        return f"{number(share)}×"
    return f"{share * 100:.3g}{SPACE}%" if share == 0 or share >= 0.001 else f"under{SPACE}0.1{SPACE}%"


def size(count: int) -> str:
    """Format a number of bytes: 1.97 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


def shape(sizes: Sequence[int | str]) -> str:
    """Format the shape of one row: 1 × 28 × 28; "one number" for a number a row."""
    return " × ".join(map(str, sizes)) or "one number"


def duration(seconds: float | None) -> str:
    """Format a duration: 37.5 µs, 27.4 ms, 1.05 s."""
    return MISSING if seconds is None else _duration(seconds, 3)


def _duration(seconds: float, digits: int) -> str:
    scale, unit = next(
        ((scale, unit) for scale, unit in ((1e-6, "µs"), (1e-3, "ms")) if seconds < scale * 999.5), (1.0, "s")
    )
    value = seconds / scale
    return f"{value:.{digits}g}{SPACE}{unit}" if value < 999.5 else f"{value:,.0f}{SPACE}{unit}"


def distinct_durations(seconds: Sequence[float | None]) -> list[str]:
    """Format durations in their order, with more than three digits where neighbours that differ would look alike."""
    return _distinct(seconds, _duration)


def distinct_times(ratios: Sequence[float | None]) -> list[str]:
    """Format ratios in their order, with more than three digits where neighbours that differ would look alike."""
    return _distinct(ratios, lambda value, digits: f"{value:.{_decimals(value, digits)}f}×")


def _distinct(values: Sequence[float | None], form: Callable[[float, int], str]) -> list[str]:
    digits = [3] * len(values)

    def shown(place: int) -> str:
        value = values[place]
        return "" if value is None else form(value, digits[place])

    for _ in range(_MORE_DIGITS):
        places = range(len(values) - 1)
        for place in [at for at in places if values[at] != values[at + 1] and shown(at) == shown(at + 1)]:
            digits[place], digits[place + 1] = digits[place] + 1, digits[place + 1] + 1
    return [shown(place) for place in range(len(values))]


def _decimals(value: float, digits: int) -> int:
    """Return the decimals with which a positive number has this many digits; two at least."""
    return max(2, digits - 1 - math.floor(math.log10(value)))


def many(count: float) -> str:
    """Format a count as 1,234, or with a word from a million up: 92.1 million."""
    for word, scale in (("billion", 1e9), ("million", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {word}"
    return f"{count:,.0f}" if count >= 1 or count == 0 else number(count)


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: 1 file, 2 files."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: list[str]) -> str:
    """Join names: a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def flat(data: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested JSON as names and texts, such as ("training · data · name", "mnist"); floats get six digits."""
    for key, value in sorted(data.items(), key=lambda item: str(item[0])):  # the order of manifest.json
        name = f"{before}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} · ")
        elif isinstance(value, float):
            yield name, f"{value:.6g}"
        elif value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
