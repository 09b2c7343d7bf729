"""Tables of the results of `python -m benchmarks.gpu`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.tables import make as _table

# Implementations of a step: sanorm_jax, and PyTorch, eager and with torch.compile.
SIDES = ("ours", "eager", "compile")
NAN = float("nan")


def make(results: dict[str, dict[str, Any]]) -> Iterator[Table]:
    """Yield the tables of the given results."""
    found = {name: r["result"] for name, r in results.items() if "result" in r}
    card = found.get("card")
    if card:
        yield _card(card)
    parities = {k: v for k, v in found.items() if k.startswith("parity_")}
    if parities:
        yield _parity(parities)
    measured = [r for name, r in found.items() if name.startswith("step_")]
    if measured:
        yield _steps(measured)
        yield _bounds(measured, card)
        yield _kernels(measured)
    for name in ("reading", "matching"):
        if name in found:
            yield _seconds(name, found[name])
    rest = _table("Further", "quantity", "value")
    for task, difference in found.get("parallel", {}).items():
        title = f"jit and pmap, five steps of {task}: largest difference of a parameter"
        rest.add_row(title, f"{difference:.1e}")
    if "scores" in found:
        s = found["scores"]
        rest.add_row(f"ARI of {s['num_images']:,} images, s", f"{s['seconds']:.3f}")
        rest.add_row("its largest error", f"{s['largest_error']:.1e}")
    if rest.row_count:
        yield rest
    yield _parts(results)


def _card(card) -> Table:
    versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
    table = _table(f"{card['device']}; {versions}", "rate", "measured")
    for name, rate in card["flops_per_s"].items():
        table.add_row(f"matrix product, {name}, TFLOP/s", f"{rate / 1e12:.2f}")
    table.add_row("memory, GB/s", f"{card['bytes_per_s'] / 1e9:.0f}")
    return table


def _parity(parities) -> Table:
    title = "Parity with the original implementation, by precision of float32 products"
    columns = ("comparisons", "past tolerance", "forward", "gradient")
    table = _table(title, "precision", *columns)
    for name, found in parities.items():
        largest = (found["largest"][kind] for kind in ("forward", "gradient"))
        table.add_row(
            name.removeprefix("parity_"),
            *(str(found[key]) for key in ("comparisons", "past_tolerance")),
            *("-" if error is None else f"{error:.0e}" for error in largest),
        )
    return table


def _steps(measured) -> Table:
    table = _table(
        "Training steps: steps per second, peak memory in GB, seconds to compile",
        *("step", "sanorm_jax", "eager", "compiled", "ours/eager", "ours/compiled"),
        *("GB", "eager", "compiled", "s", "compiled", "losses"),
    )
    for r in measured:
        times = [r[side].get("seconds", NAN) for side in SIDES]
        table.add_row(
            r["name"],
            *(f"{1 / s:.2f}" for s in times),
            *(f"{other / times[0]:.2f}" for other in times[1:]),
            *(f"{r[side].get('peak_gb', NAN):.1f}" for side in SIDES),
            *(f"{r[s].get('compile_s', NAN):.1f}" for s in ("ours", "compile")),
            "agree" if r["losses_agree"] else "DIFFER",
        )
    return table


def _bounds(measured, card) -> Table:
    title = "Steps: shares of the measured rates of products and memory"
    table = _table(title, "step", "ms", "TFLOP", "share", "GB", "share")
    for r in measured:
        seconds = r["ours"].get("seconds", NAN)
        flops, size = r.get("flops", NAN), r.get("bytes", NAN)
        rates = card["flops_per_s"] if card else {}
        product = rates.get(r["case"]["dtype"], NAN)
        stream = card["bytes_per_s"] if card else NAN
        table.add_row(
            r["name"],
            f"{1e3 * seconds:.1f}",
            f"{flops / 1e12:.2f}",
            f"{flops / seconds / product:.2f}",
            f"{size / 1e9:.1f}",
            f"{size / seconds / stream:.2f}",
        )
    return table


def _kernels(measured) -> Table:
    table = _table("Steps: the longest kernels", "kernel", "share of the time")
    for r in measured:
        for name, share in r.get("kernels", []):
            table.add_row(f"{r['name']}: {name[:60]}", f"{share:.2f}")
    return table


def _seconds(part: str, found) -> Table:
    title = found["name"]
    if "batch_bytes" in found:
        title += f", batches of {found['batch_bytes'] / 1e6:.0f} MB"
    if "share" in found:
        agree = "agree" if found["costs_agree"] else "DIFFER"
        title += f": matching takes {found['share']:.0%}, results {agree}"
    table = _table(f"{part.capitalize()}: {title}", "what", "ms")
    for name, seconds in found["seconds"].items():
        table.add_row(name, f"{1e3 * seconds:.2f}")
    return table


def _parts(results) -> Table:
    table = _table("Parts", "part", "seconds", "outcome")
    for name, r in results.items():
        failed = [
            f"{side}: {r['result'][side]['error']}"
            for side in SIDES
            if "error" in r.get("result", {}).get(side, {})
        ]
        outcome = r.get("error") or "; ".join(failed) or "done"
        table.add_row(name, f"{np.round(r.get('seconds', 0.0), 1)}", outcome)
    return table
