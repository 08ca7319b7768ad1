"""The diagonal linear system in plain torch, on any device.

Time is cut into chunks: within one, y is a causal convolution, and matrix products take the state
in and out, so that h exists at the bounds of chunks alone: O(B T D) memory for chunks of about N
steps. From bound to bound the phase is rotated away, which leaves a real scan for `minrnn.scan`.

A reset cuts the convolution: for it, each episode gets a row of its own. Nothing is subtracted, as
nothing before a reset is read. Values that are not finite are taken out, and NaN is put back from
there to the end of the episode.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minrnn.checks import spoilt
from minrnn.compiling import uncompiled
from minrnn.scan import scan

_LONGEST, _SHORTEST = 64, 8  # steps in a chunk


def diagonal_scan(
    u: Tensor,
    decay: Tensor,
    rate: Tensor,
    angle: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do what `minrnn.scan.diagonal.diagonal_scan` does."""
    bad = ~u.detach().sum(-1).isfinite()
    u = u.masked_fill(bad.unsqueeze(-1), 0.0)
    with _full_precision(u):
        if resets is None:
            y, last = _run(u, decay, rate, angle, weight, h0, None)
        else:
            y, last = _ragged(u, decay, rate, angle, weight, h0, resets)
    bad = spoilt(bad, resets)
    y = y.masked_fill(bad.unsqueeze(-1), torch.nan)
    return y, last.masked_fill(bad[:, -1, None, None, None], torch.nan)


@uncompiled  # shapes depend on how often episodes start, which no graph can hold.
def _ragged(
    u: Tensor,
    decay: Tensor,
    rate: Tensor,
    angle: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor,
) -> tuple[Tensor, Tensor]:
    if not resets[:, 1:].any():
        h0 = None if h0 is None else h0.masked_fill(resets[:, :1, None, None], 0.0)
        return _run(u, decay, rate, angle, weight, h0, None)
    return _run(u, decay, rate, angle, weight, h0, resets)


def _run(
    u: Tensor,
    decay: Tensor,
    rate: Tensor,
    angle: Tensor,
    weight: Tensor,
    h0: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batch, time, width = u.shape
    size = _chunk(resets) if resets is not None else _LONGEST
    size = min(size, time)
    count = -(-time // size)
    pad = count * size - time
    cut = None if resets is None else F.pad(resets, (0, pad)).view(batch, count, size)
    rows = F.pad(u, (0, 0, 0, pad)).permute(2, 0, 1).contiguous()
    rows = rows.view(width, batch, count, size)

    powers = _powers(torch.view_as_complex(decay), size + 1)  # (D, size + 1, N)
    gains = powers * torch.view_as_complex(weight).unsqueeze(1)
    toeplitz = _toeplitz(gains[:, :size].real.sum(-1))
    into = _parts(powers[:, :size].flip(1))  # (D, size, 2 N): the block's end, of each step
    out = _parts(gains[:, 1:].conj()).transpose(1, 2)  # (D, 2 N, size): each step, of the start

    ends = rows
    if cut is not None:  # only the last episode of a block reaches its end
        later = cut.flip(-1).cumsum(-1).flip(-1) - cut.int()
        ends = rows.masked_fill(later > 0, 0.0)

    starts = None if h0 is None else torch.view_as_complex(h0.contiguous()).unsqueeze(1)
    if count > 1:
        gained = ends[:, :, :-1].reshape(width, batch * (count - 1), size) @ into
        gained = _whole(gained, batch)  # (B, count - 1, D, N)
        phases = _phases(angle, size, count)
        starts = _chain(starts, gained, rate * size, phases, cut)

    if cut is None:
        y = rows.flatten(1, 2) @ toeplitz
    else:
        y = _episodes(u, cut, toeplitz)
    if starts is not None:
        if cut is not None:
            starts = starts.masked_fill(cut[:, :, 0, None, None], 0.0)
        entering = _parts(starts.permute(2, 0, 1, 3)).flatten(1, 2)  # (D, B count, 2 N)
        if cut is None:
            y = torch.baddbmm(y, entering, out)
        else:
            seen = (entering @ out).view(width, batch, count, size)
            y = y + seen.masked_fill(cut.cumsum(-1) > 0, 0.0).flatten(1, 2)
    y = y.view(width, batch, count * size).permute(1, 2, 0)[:, :time]

    rest = time - (count - 1) * size
    last = _whole(ends[:, :, -1, :rest].contiguous() @ into[:, size - rest :], batch)[:, 0]
    if starts is not None:
        carried = starts[:, -1] * powers[:, rest]
        if cut is not None:
            carried = carried.masked_fill(cut[:, -1].any(-1)[:, None, None], 0.0)
        last = last + carried
    return y, torch.view_as_real(last)


def _chain(
    start: Tensor | None, gained: Tensor, rate: Tensor, phases: Tensor, cut: Tensor | None
) -> Tensor:
    # h at the start of every chunk (B, count, D, N). gained: what each chunk adds to h, complex.
    # With z_c = h_c / phase_c the decay from chunk to chunk is a real one.
    batch, count, width, number = gained.shape
    b = torch.view_as_real(gained * phases[1:].conj()).flatten(2)
    a = rate.exp().unsqueeze(-1).expand(width, number, 2).reshape(-1).expand_as(b)
    first = None if start is None else torch.view_as_real(start).flatten(1)
    z, _ = scan(a, b, first, None if cut is None else cut[:, :-1].any(-1))
    h = torch.view_as_complex(z.view(batch, count, width, number, 2)) * phases[1:]
    return torch.cat([torch.zeros_like(h[:, :1]) if start is None else start, h], 1)


def _episodes(u: Tensor, cut: Tensor, toeplitz: Tensor) -> Tensor:
    # The convolution (D, B count, size), each episode of each block in a row of its own.
    batch, count, size = cut.shape
    width = u.shape[-1]
    starts = cut.flatten(0, 1).clone()
    starts[:, 0] = True
    row = starts.flatten().cumsum(0) - 1
    step = torch.arange(size, device=u.device)
    offset = step - torch.where(starts, step, 0).cummax(1).values
    place = row * size + offset.flatten()
    flat = F.pad(u, (0, 0, 0, count * size - u.shape[1])).reshape(-1, width)
    number = int(row[-1]) + 1
    rows = flat.new_zeros(number * size, width).index_copy(0, place, flat)
    rows = rows.view(number, size, width).permute(2, 0, 1).contiguous()
    y = (rows @ toeplitz).permute(1, 2, 0).reshape(-1, width)
    return y.index_select(0, place).view(batch * count, size, width).permute(2, 0, 1)


def _chunk(resets: Tensor) -> int:
    # With many episodes, rows of their own would be mostly empty.
    room = 2 * resets.numel() // max(1, int(resets.sum()))
    size = _LONGEST
    while size > max(room, _SHORTEST):
        size //= 2
    return size


def _powers(z: Tensor, count: int) -> Tensor:
    # z ** 0 to z ** (count - 1): (D, N) to (D, count, N), by doubling: the error is log2(count)
    # roundings, and not that of a large angle.
    powers, step = torch.ones_like(z).unsqueeze(1), z.unsqueeze(1)
    while powers.shape[1] < count:
        powers = torch.cat([powers, powers[:, : count - powers.shape[1]] * step], 1)
        step = step * step
    return powers


def _phases(angle: Tensor, size: int, count: int) -> Tensor:
    # exp(i angle size c) for c < count: (count, D, N). size: a power of two.
    z = torch.polar(torch.ones_like(angle), angle)
    for _ in range(size.bit_length() - 1):
        z = z * z
    return _powers(z, count).transpose(0, 1)


def _toeplitz(kernel: Tensor) -> Tensor:
    # (D, size, size): [d, s, t] = kernel[d, t - s] for s <= t, else 0.
    size = kernel.shape[1]
    padded = F.pad(kernel, (size - 1, 0))
    return padded.unfold(1, size, 1).flip(1)


def _parts(z: Tensor) -> Tensor:
    return torch.cat([z.real, z.imag], -1)


def _whole(parts: Tensor, batch: int) -> Tensor:
    # (D, B C, 2 N) to (B, C, D, N), complex.
    width, rows, number = parts.shape
    parts = parts.view(width, batch, rows // batch, 2, number // 2).permute(1, 2, 0, 4, 3)
    return torch.view_as_complex(parts.contiguous())


def _full_precision(u: Tensor) -> AbstractContextManager[Any]:
    if torch.is_autocast_enabled(u.device.type):
        return torch.autocast(u.device.type, enabled=False)
    return nullcontext()
