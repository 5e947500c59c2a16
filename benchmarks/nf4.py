"""4-bit weights on a GPU: python benchmarks/nf4.py [tune=true]

Microseconds for each of Llama-2-7B's shapes, in a CUDA graph over 24 different weights, so that none is still in the
cache: dequantising a weight by bitsandbytes and by us, and a product with one row by a bfloat16 weight, by
bitsandbytes' `gemv_4bit` and by us. Fails where W is not bitsandbytes' to the last bit. A line of JSON for each shape.

tune=true    then our product with other sizes of tiles, the fastest ones first
"""

import itertools
import json
import sys
import time
from collections.abc import Callable

import torch
from bitsandbytes.functional import dequantize_4bit, gemv_4bit, quantize_4bit
from triton.runtime.errors import OutOfResources

from llama_exp.model.kernels import nf4_triton as nf4

SHAPES = {(4096, 4096): 4, (11008, 4096): 2, (4096, 11008): 1}  # (out, in): how many a layer has
COPIES = 24


def microseconds(calls: list[Callable[[], object]], repeats: int = 10) -> float:
    """Of one call, the calls captured one behind the other."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        graph.replay()
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - began) / repeats / len(calls)


def make(rows: int, columns: int) -> list:
    def weight():
        return (0.02 * torch.randn(rows, columns, device="cuda")).bfloat16()

    return [quantize_4bit(weight(), compress_statistics=True, quant_type="nf4", blocksize=64) for _ in range(COPIES)]


def row(width: int) -> torch.Tensor:
    return torch.randn(1, width, device="cuda").bfloat16()


def measure(rows: int, columns: int) -> dict:
    made, out = make(rows, columns), torch.empty(rows, columns, dtype=torch.bfloat16, device="cuda")
    x, y = row(columns), row(rows)
    for weight, state in made:
        assert torch.equal(nf4.dequantise(weight, state, out), dequantize_4bit(weight, state)), "W differs"
    plain = [dequantize_4bit(weight, state) for weight, state in made]
    return {
        "shape": [rows, columns],
        "dequantise_bitsandbytes": microseconds([lambda w=w, s=s: dequantize_4bit(w, s) for w, s in made]),
        "dequantise": microseconds([lambda w=w, s=s: nf4.dequantise(w, s, out) for w, s in made]),
        "product_bfloat16": microseconds([lambda w=w: torch.addmm(y, x, w.t()) for w in plain]),
        "product_bitsandbytes": microseconds([lambda w=w, s=s: gemv_4bit(x, w.t(), state=s) for w, s in made]),
        "product": microseconds(products(made, x, y)),
    }


def products(made: list, x: torch.Tensor, y: torch.Tensor) -> list[Callable[[], object]]:
    return [lambda w=w, s=s: nf4.add_product(y, x, w, s) for w, s in made]


def tune() -> None:
    """Tiles of which a thread holds 16 or 32 bytes, then the fastest of them with loads ahead of their use."""
    inputs = {shape: (make(*shape), row(shape[1]), row(shape[0])) for shape in SHAPES}
    found = []

    def measure_tiles(*tiles: int) -> None:
        nf4.ROWS, nf4.TILE_BLOCKS, nf4.WARPS, nf4.STAGES = tiles
        try:
            each = {shape: microseconds(products(made, x, y)) for shape, (made, x, y) in inputs.items()}
        except OutOfResources:
            return
        found.append((sum(SHAPES[shape] * took for shape, took in each.items()), tiles, [*each.values()]))

    for rows, blocks, warps in itertools.product((1, 2, 4, 8, 16), (4, 8, 16, 32, 64), (1, 2, 4, 8)):
        if rows * blocks / warps in (16, 32):
            measure_tiles(rows, blocks, warps, 1)
    for _, tiles, _ in sorted(found)[:4]:
        for stages in (2, 3):
            measure_tiles(*tiles[:3], stages)
    for layer, tiles, each in sorted(found)[:12]:
        sizes = dict(zip(("rows", "tile_blocks", "warps", "stages"), tiles, strict=True))
        print(json.dumps({**sizes, "layer": round(layer, 1), "each": [round(took, 1) for took in each]}), flush=True)


def main(words: dict[str, str]) -> None:
    for shape in SHAPES:
        found = measure(*shape)
        shown = {name: value if name == "shape" else round(value, 1) for name, value in found.items()}
        print(json.dumps({"what": "nf4", **shown, "card": torch.cuda.get_device_name()}), flush=True)
    if words.get("tune") == "true":
        tune()


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
