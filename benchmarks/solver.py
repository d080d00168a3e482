"""Time the search for P̃ and the solve against dense solves of AlphaEdit+'s formula.

aeplus: one `relax_filter` that accepts every candidate, then one `solve_update`. Dense: for each candidate a
fresh projector and a `d x d` solve of `Δ = R K1ᵀ P (Kp Λp Kpᵀ P + K1 K1ᵀ P + λ I)⁻¹`. Dense steps take the
same time whichever candidate they try, so only `--dense-steps` of them are run; what is extrapolated is
labeled as such.

    python benchmarks/solver.py                      # d = 14336, n = 100, m = 2000, 43 candidates, float64
    python benchmarks/solver.py --d 2048 --m 300 --o 512 --dense-steps 5
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import torch
from torch import Tensor

from aeplus.functional import Spectrum, relax_filter, solve_update


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--d", type=int, default=14336, help="inputs of the edited linear")
    parser.add_argument("--o", type=int, default=4096, help="its outputs")
    parser.add_argument("--n", type=int, default=100, help="edits in the batch")
    parser.add_argument("--m", type=int, default=2000, help="previous edits")
    parser.add_argument("--candidates", type=int, default=43, help="eigenvectors tried (and accepted)")
    parser.add_argument("--beyond", type=int, default=100, help="further eigenvectors outside the null space")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--dense-steps", type=int, default=1, help="dense steps to measure")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def basis(d: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """An exactly orthogonal `[d, d]`: a product of four reflections, far cheaper than a decomposition."""
    vectors = torch.eye(d, dtype=dtype)
    for _ in range(4):
        u = torch.randn(d, generator=generator, dtype=dtype)
        u /= u.norm()
        vectors.addr_(vectors @ u, u, alpha=-2)
    return vectors


def dense_step(
    residual: Tensor, keys: Tensor, moment: Tensor, vectors: Tensor, used: Tensor, ridge: float
) -> tuple[Tensor, float, float]:
    """One update by AlphaEdit+'s formula, `d x d` throughout, and the seconds for matrix and solve.

    In favor of the dense solve: `Kp Λp Kpᵀ + K1 K1ᵀ` comes ready as `moment`, `P` is made from the few
    eigenvectors it leaves out, and only `n` right-hand sides are solved for, not `o`.
    """
    began = time.perf_counter()
    outside = vectors[:, used == 0]
    projector = -(outside @ outside.T)
    projector.diagonal().add_(1)
    right = projector @ keys
    system = projector @ moment  # the transpose of the formula's: both factors are symmetric
    del projector
    system.diagonal().add_(ridge)
    built = time.perf_counter()
    delta = residual @ torch.linalg.solve(system, right).T
    return delta, built - began, time.perf_counter() - built


def main() -> None:
    """Run the comparison and print it."""
    args = parse()
    dtype = getattr(torch, args.dtype)
    generator = torch.Generator().manual_seed(args.seed)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype)

    print(
        f"d={args.d} o={args.o} n={args.n} m={args.m} candidates={args.candidates} {args.dtype} "
        f"seed={args.seed} | torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    spectrum = Spectrum(torch.linspace(0.01, 1, args.d, dtype=dtype), basis(args.d, generator, dtype))
    start = torch.ones(args.d, dtype=dtype)
    start[args.d - args.candidates - args.beyond :] = 0
    keys, prior_keys = randn(args.d, args.n) / args.d**0.5 * 8, randn(args.d, args.m) / args.d**0.5 * 8
    weights = torch.rand(args.m, generator=generator, dtype=dtype)
    residual, ridge = randn(args.o, args.n), 1.0

    began = time.perf_counter()
    chosen, trace = relax_filter(
        residual, keys, spectrum, start, ridge, 0.0, prior_keys, weights, max_rank=args.candidates
    )
    searched = time.perf_counter() - began
    if len(trace) != args.candidates:
        message = f"the search accepted {len(trace)} of {args.candidates} candidates: nothing to compare"
        raise SystemExit(message)
    began = time.perf_counter()
    update = solve_update(residual, keys, spectrum, chosen, ridge, prior_keys, weights)
    solved = time.perf_counter() - began
    ours = searched + solved
    print(f"aeplus: search {searched:.2f} s for {len(trace)} accepted eigenvectors, final solve {solved:.2f} s")
    print(f"        {ours / args.candidates:.3f} s per step, everything included")

    if not args.dense_steps:
        return
    moment = (prior_keys * weights) @ prior_keys.T
    moment.addmm_(keys, keys.T)
    building, solving, error = 0.0, 0.0, float("nan")
    for step in range(args.dense_steps):
        # the final filter first: its Δ is the one to compare with
        used = chosen.clone()
        used[args.d - args.beyond - step : args.d - args.beyond] = 0
        delta, built, taken = dense_step(residual, keys, moment, spectrum.vectors, used, ridge)
        building, solving = building + built / args.dense_steps, solving + taken / args.dense_steps
        if step == 0:
            error = float((delta - update.dense()).norm() / delta.norm())
        del delta
    dense = building + solving
    print(f"dense:  {dense:.2f} s per step ({building:.2f} s projecting, {solving:.2f} s in torch.linalg.solve)")
    print(f"        mean of {args.dense_steps} measured of {args.candidates} steps; the others were not run")
    step_time = ours / args.candidates
    print(f"ratio per step, dense step / (aeplus / candidates): {dense / step_time:.0f}")
    print(f"        counting torch.linalg.solve alone: {solving / step_time:.0f}")
    print(f"ratio in total, (candidates x measured dense step) / aeplus: {args.candidates * dense / ours:.0f}")
    print(f"        extrapolated: {args.candidates * dense:.0f} s against {ours:.2f} s measured")
    print(f"relative difference of Δ with the final filter: {error:.1e}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
