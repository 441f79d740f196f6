"""Tokens to sound: windows of several recordings run together where that is faster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np

from .errors import TRY_ANOTHER, BackendError, TokensError
from .model import DecodePlan, Model
from .overlap_add import overlap_add
from .spec import Progress

DecodeProgress = Callable[[int, int, int], None]  #: (number of the recording, its units of work done, units in all)
FormGroup = Callable[["Decoding"], None]  #: decodes a group of windows, among them the next of this decoding
Parts = list[tuple["Decoding", int]]  #: pairs of a decoding and the number of its next windows to run


class Decoding:
    """One recording that is being decoded.

    form_group: called when a window is needed. It calls `run_group`, with this decoding alone or with others too.
    progress: called with (units of work done, units in all).

    begun: number of windows that were put into groups.
    ready: the waveforms of computed windows that were not taken yet, in order, each in pieces.
    pieces: the sound, float32 [n] each. Raises BackendError for a run that fails or gives values that are not finite.
    """

    def __init__(self, plan: DecodePlan, form_group: FormGroup, progress: Progress | None = None) -> None:
        self.plan, self.progress = plan, progress
        self.begun = self.taken = self.reported = 0
        self.ready: deque[Iterable[np.ndarray]] = deque()
        self.pieces = require_finite(overlap_add(self._take_windows(form_group), plan.samples, plan.overlap))

    @property
    def left(self) -> int:
        """The number of windows that are in no group yet."""
        return len(self.plan.windows) - self.begun

    def _take_windows(self, form_group: FormGroup) -> Iterator[Iterable[np.ndarray]]:
        while self.taken < len(self.plan.windows):
            if not self.ready:
                form_group(self)
            yield self.ready.popleft()
            self.taken += 1
            self.report(self.taken * self.plan.work)

    def report(self, units: int) -> None:
        """Call `progress`, unless as many units are reported. A group reports before its windows are taken."""
        if self.progress and units > self.reported:
            self.reported = units
            self.progress(units, len(self.plan.windows) * self.plan.work)


def run_group(model: Model, parts: Parts) -> None:
    """Decode the next windows of each decoding as one group. The keys of their plans must be equal.

    If it fails, nothing is changed: each may be tried alone.
    """
    calls = 0

    def report() -> None:
        nonlocal calls
        calls += 1
        for decoding, count in parts:
            decoding.report(decoding.begun * decoding.plan.work + count * calls)

    windows = [
        window for decoding, count in parts for window in decoding.plan.windows[decoding.begun : decoding.begun + count]
    ]
    waveforms = model.decode_windows(windows, report)
    found = [list(islice(waveforms, count)) for _, count in parts]
    for (decoding, count), ready in zip(parts, found, strict=True):
        decoding.begun += count
        decoding.ready.extend(ready)


def decode_recording(model: Model, plan: DecodePlan, batch: int | None, progress: Progress | None) -> Decoding:
    """One recording, in groups of `batch` windows. None uses what suits the device."""
    together = batch or model.decode_batch
    return Decoding(plan, lambda decoding: run_group(model, [(decoding, min(together, decoding.left))]), progress)


def decode_recordings(
    model: Model, plans: Iterable[DecodePlan | TokensError], batch: int | None, progress: DecodeProgress | None
) -> Iterator[Iterator[np.ndarray] | TokensError]:
    """The pieces of each recording in turn, or the error that stands in its place.

    Where a group pays, a group holds windows of recordings that follow one another and have equal keys. A plan is taken
    when its first window is put into a group. Elsewhere no group holds windows of two recordings. At most `batch`
    windows are held. A stream that is taken after the next one was asked for is decoded alone.
    """
    together, source = batch or model.decode_batch, enumerate(plans)
    opened: deque[Decoding | TokensError] = deque()  # the recording whose turn it is, then those that were looked at

    def open_next() -> Iterator[Decoding | TokensError]:
        for number, plan in source:
            opened.append(plan if isinstance(plan, TokensError) else Decoding(plan, form_group, follow(number)))
            yield opened[-1]

    def follow(number: int) -> Progress | None:
        return progress and (lambda done, total: progress(number, done, total))

    def form_group(current: Decoding) -> None:
        parts = [(current, min(current.left, together))]
        room = together - parts[0][1]
        if model.decode_batch > 1 and opened and opened[0] is current:
            following: Iterator[Decoding | TokensError] = chain(list(opened)[1:], open_next())
            while room > 0 and (each := next(following, None)) is not None:
                if isinstance(each, TokensError):
                    room -= 1  # so that an error is returned before many more recordings are opened
                elif each.plan.key != current.plan.key:
                    break
                elif count := min(each.left, room):
                    parts.append((each, count))
                    room -= count
        run_group(model, parts)

    while opened or next(open_next(), None) is not None:
        first = opened[0]
        yield first if isinstance(first, TokensError) else first.pieces
        opened.popleft()


def require_finite(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """`pieces` of sound, as they come. Raises BackendError at the first value that is not finite."""
    for piece in pieces:
        if not np.isfinite(piece).all():
            raise BackendError("decoded samples that are not finite", "finite samples", TRY_ANOTHER)
        yield piece
