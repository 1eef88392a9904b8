"""The CPU's products behind the engine: plain against packed weights, fused against plain attention of one token.

python benchmarks/cpu_kernels.py --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from _hardware import describe
from torch import nn

from ensemw2s.ensemble.engine.attention import decode_attention
from ensemw2s.ensemble.engine.packed import PackedLinear


def best(work: Callable[[], object], calls: int = 50, repeats: int = 5) -> float:
    """Milliseconds of a call: the least of several means."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - began) / calls)
    return min(found) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print(describe())
    with torch.inference_mode():
        print("\na product with a weight of 4096 x 1024, ms")
        for dtype in (torch.float32, torch.bfloat16):
            plain = nn.Linear(1024, 4096, bias=False).to(dtype)
            packed = PackedLinear(plain.weight, None)
            for rows in (1, 4, 8, 16):
                x = torch.randn(rows, 1024, dtype=dtype)
                times = best(partial(plain, x)), best(partial(packed, x))
                print(f"  {str(dtype)[6:]:9} {rows:2} rows: plain {times[0]:.3f}, packed {times[1]:.3f}")
        print("\nattention of one token, 10 heads of 64, bfloat16, ms")
        for rows, keys in ((1, 64), (4, 64), (4, 512), (8, 512)):
            q = torch.randn(rows, 10, 1, 64).bfloat16()
            k, v = torch.randn(2, rows, 10, keys, 64).bfloat16()
            fused = best(partial(nn.functional.scaled_dot_product_attention, q, k, v), 20)
            ours = best(partial(decode_attention, nn.Module(), q, k, v, None), 20)
            print(f"  {rows} rows, {keys:3} keys: fused {fused:.3f}, two products {ours:.3f}")


if __name__ == "__main__":
    main()
