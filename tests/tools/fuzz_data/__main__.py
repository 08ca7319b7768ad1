"""Mutate data files, read them, and tell what became of them; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import campaign
from .campaign import GOOD, Result


def table(results: Sequence[Result], key: str) -> str:
    """Return how many of each kind of file (key "kind") or mutation (key "way") came out how."""
    rows: dict[str, Counter[str]] = {}
    for result in results:
        name = result.way if key == "way" else result.base.split("/")[0]
        outcome = result.outcome if result.outcome in GOOD else "failed"
        for row in (name, "all"):
            rows.setdefault(row, Counter())[outcome] += 1
    columns = (*GOOD, "failed")
    lines = [f"{key:24}" + "".join(f"{name:>10}" for name in (*columns, "files"))]
    for name in [*sorted(rows.keys() - {"all"}), "all"][: None if rows else 0]:
        counts = [rows[name][column] for column in columns]
        lines.append(f"{name:24}" + "".join(f"{n:>10,}" for n in (*counts, sum(counts))))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as python -m tests.tools.fuzz_data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases")
    parser.add_argument("--first", type=int, default=0, help="index of the first case")
    parser.add_argument("--only", type=int, nargs="+", help="replay these cases, anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, required=True, help="folder; a later call goes on")
    args = parser.parse_args(argv)
    keep: Path = args.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    log = keep / f"results-{args.seed}.jsonl"
    wanted = args.only or list(range(args.first, args.first + args.count))
    there = [] if args.only else campaign.results(log)
    done = {result.index: result for result in there}
    bar = tqdm(total=len(wanted), initial=sum(index in done for index in wanted), unit="file")
    failures = 0
    for result in campaign.run(args.seed, [i for i in wanted if i not in done], keep):
        done[result.index] = result
        if not args.only:
            campaign.append(log, result)
        if result.outcome not in GOOD or args.only:
            failures += result.outcome not in GOOD
            bar.write(f"{result.index} {result.base}, {result.way}: {result.outcome}")
            if args.only:
                bar.write(f"{result.details}\n{result.seconds} s, {result.peak / 1e6:.1f} MB")
        bar.set_postfix(failed=failures)
        bar.update()
    bar.close()
    found = [done[index] for index in wanted if index in done]
    worst = max(found, key=lambda result: result.peak)
    slowest = max(found, key=lambda result: result.seconds)
    sys.stdout.write(f"\n{table(found, 'kind')}\n\n{table(found, 'way')}\n\n")
    sys.stdout.write(
        f"most memory: {worst.peak / 1e6:.0f} MB beyond the start, case {worst.index}\n"
    )
    sys.stdout.write(f"longest: {slowest.seconds:.2f} s, case {slowest.index}\n")
    failed = [result for result in found if result.outcome not in GOOD]
    for result in failed:
        last = (result.details.strip().splitlines() or [""])[-1]
        what = f"{result.index} {result.base}, {result.way}: {result.outcome}: {last[:200]}"
        sys.stdout.write(f"{what}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
