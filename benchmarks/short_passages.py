"""Which questions of SciQ studies/shared-short.yaml takes, and how hard each is: the words of its passage.

    python benchmarks/short_passages.py --shared ../shared    # writes benchmarks/studies/sciq-short.jsonl.gz

Listed are questions with at least two options and a passage of at most 70 words, which tiny models of 512 tokens read
whole. All others get no rating, so that the study's split leaves them out.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.rows import Row
from ensemw2s.experiment.sources import load_rows

RATINGS = Path(__file__).parent / "studies" / "sciq-short.jsonl.gz"
MOST_WORDS, LEAST_OPTIONS = 70, 2


def rated(rows: Sequence[Row]) -> dict[str, int]:
    """Words of the passage by id, of the questions that the study takes."""
    return {
        row.id: int(row.difficulty)
        for row in rate_by(rows, "context-words")
        if row.difficulty is not None and row.difficulty <= MOST_WORDS and len(row.choices or ()) >= LEAST_OPTIONS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the optional folder of data and models")
    source = parser.parse_args().shared / "data" / "sciq.jsonl.gz"
    if not source.is_file():
        raise SystemExit(f"{source} is not there: the ratings are made from the optional folder ../shared")
    found = rated(load_rows(str(source)))
    lines = "".join(json.dumps({"id": name, "difficulty": words}) + "\n" for name, words in found.items())
    RATINGS.write_bytes(gzip.compress(lines.encode(), mtime=0))
    print(f"{len(found)} questions with passages of at most {MOST_WORDS} words in {RATINGS.name}")


if __name__ == "__main__":
    main()
