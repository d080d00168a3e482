"""Attention of short rows and gated activations, there and back: torch's kernels beside those of aeplus.

    python -m benchmarks attention                                        # on a GPU: Llama 3 8B's heads, in bfloat16
    python -m benchmarks attention --rows 60 --tokens 6 --heads 9 --groups 3 --width 64 --dtype float32

On a GPU each is recorded as a CUDA graph, as the passes of targets are, so that launches do not count.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from aeplus.models.attention import short_attention
from aeplus.models.kernels import gated

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
FUSED = {"cuda": KERNELS, "cpu": {"fused": SDPBackend.FLASH_ATTENTION, "written out": SDPBackend.MATH}}[DEVICE.type]


def microseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """The time of one run, after three that do not count."""
    if DEVICE.type == "cpu":
        times = []
        for _ in range(3 + repeats):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        return 1e6 * min(times[3:])
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(1e3 * begin.elapsed_time(end) / repeats)


def there_and_back(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """One pass, and the gradients of its inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    torch.autograd.grad(output, leaves, torch.ones_like(output))


def main() -> None:
    """Prints microseconds by kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=124)
    parser.add_argument("--tokens", type=int, default=5, help="tokens of a row")
    parser.add_argument("--prefix", type=int, default=15, help="tokens before them")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--groups", type=int, default=8, help="heads of keys and values")
    parser.add_argument("--width", type=int, default=128, help="width of a head")
    parser.add_argument("--intermediate", type=int, default=14336, help="width of the gates, for 1,000 tokens")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    o = parser.parse_args()
    dtype, share = getattr(torch, o.dtype), o.heads // o.groups
    torch.manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE).to(dtype)

    # As a layer has them: tokens before heads, and the keys and values of the prefix joined with new ones.
    inputs = [drawn(o.rows, o.tokens, heads, o.width) for heads in (o.heads, o.groups, o.groups)]
    prefix = [drawn(o.rows, o.groups, o.prefix, o.width) for _ in range(2)]
    mask = torch.ones(o.rows, 1, o.tokens, o.prefix + o.tokens, dtype=torch.bool, device=DEVICE).tril(o.prefix)
    mask[::2, :, :, : o.prefix // 4] = False

    def attend(kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            joined = (torch.cat([p, new.transpose(1, 2)], 2) for p, new in zip(prefix, (key, value), strict=True))
            return kernel(query.transpose(1, 2), *joined).transpose(1, 2).contiguous()

        return run

    def repeated(states: Tensor) -> Tensor:
        return states[:, :, None].expand(-1, -1, share, -1, -1).flatten(1, 2)

    products = attend(lambda q, k, v: short_attention(q, k, v, mask, o.width**-0.5))
    torchs = attend(lambda q, k, v: F.scaled_dot_product_attention(q, repeated(k), repeated(v), attn_mask=mask))
    print(f"{DEVICE.type}, {o.dtype}, torch {torch.__version__}; microseconds there and back")
    print(f"attention as products: {microseconds(lambda: there_and_back(products, inputs)):.0f}")
    for name, backend in FUSED.items():
        with sdpa_kernel(backend):
            print(f"attention, {name}: {microseconds(lambda: there_and_back(torchs, inputs)):.0f}")
    gates = [drawn(1000, o.intermediate) for _ in range(2)]
    print(f"silu(gate) * up: {microseconds(lambda: there_and_back(lambda g, u: F.silu(g) * u, gates)):.0f}")
    print(f"the same as one kernel each way: {microseconds(lambda: there_and_back(gated, gates)):.0f}")


if __name__ == "__main__":
    main()
