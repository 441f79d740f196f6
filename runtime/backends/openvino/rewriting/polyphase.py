"""Convolutions that produce more samples than they read, as convolutions of the samples that they read.

Each output sample of a transposed convolution of stride s is a sum over every s-th tap of the kernel: which ones, its
phase says, its index modulo s. So it is one convolution with s times as many outputs, whose phases are interleaved
(polyphase; P. P. Vaidyanathan, "Multirate Systems and Filter Banks", 1993, section 4.3). A convolution over an image
whose rows and columns were doubled reads each pixel up to three times in a row. Its taps are added up first, and each
of the four phases needs 4 taps instead of 9.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from .reading import count_users, find_source, list_ints, read_constant, replace

#: In float32 a transposed convolution of fewer outputs runs as fast as it is. Measured on Zen 5, whole vocoder:
#: 512, 256, 128, 64, 32 outputs in bfloat16 253 ms before and 100 ms after; in float32 217, 63, 43, 15 and 15 ms
#: before and 66, 58, 34, 18 and 15 after.
LEAST_OUTPUTS = 128


def split_transposed(model: Any, bfloat16: bool) -> int:
    """Transposed convolutions over time, [B, C, n] -> [B, O, m], as convolutions with s O outputs."""
    from openvino import opset13

    changed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ConvolutionBackpropData" or node.get_input_size() != 2:
            continue
        weight, settings = read_constant(node.input_value(1)), node.get_attributes()
        if weight is None or weight.ndim != 3 or settings["auto_pad"] != "explicit":
            continue
        outputs, kernel = weight.shape[1:]
        if [*settings["dilations"], *settings["output_padding"]] != [1, 0] or not (
            bfloat16 or outputs >= LEAST_OUTPUTS
        ):
            continue
        (stride,), (begin,) = settings["strides"], settings["pads_begin"]
        taps = -(-kernel // stride)
        length, (_, _, made) = node.input_value(0).shape[2], node.output(0).shape
        # Sample t of the result is phase (t + begin) mod s of place q = (t + begin) // s, where tap j reads x[q - j].
        first, last = begin // stride, (made - 1 + begin) // stride
        before, after = taps - 1 - first, last - (length - 1)
        convolved = opset13.convolution(
            node.input_value(0), opset13.constant(arrange_phases(weight, stride)), [1], [before], [after], [1]
        )
        # Channels last in OpenVINO's memory, where the phases of a place follow one another already.
        places = opset13.transpose(convolved, list_ints(0, 2, 1))
        samples = opset13.reshape(places, list_ints(0, -1, outputs), True)
        if (last - first + 1) * stride != made:
            start = begin - first * stride
            bounds = list_ints(start), list_ints(start + made), list_ints(1), list_ints(1)
            samples = opset13.slice(samples, *bounds)
        replace(node.output(0), opset13.transpose(samples, list_ints(0, 2, 1)).output(0))
        changed += 1
    return changed


def arrange_phases(weight: np.ndarray, stride: int) -> np.ndarray:
    """Weights [C, O, K] of a transposed convolution -> [s O, C, taps] of a convolution, phase by phase."""
    inputs, outputs, kernel = weight.shape
    taps = -(-kernel // stride)
    whole = np.zeros((inputs, outputs, taps * stride), np.float32)
    whole[:, :, :kernel] = weight
    by_phase = whole.reshape(inputs, outputs, taps, stride)[:, :, ::-1]
    return np.ascontiguousarray(by_phase.transpose(3, 1, 0, 2).reshape(stride * outputs, inputs, taps))


def split_upsampling(model: Any) -> int:
    """A 3 × 3 convolution over rows and columns that were doubled becomes four 2 × 2 convolutions, interleaved."""
    from openvino import opset13

    changed = 0
    for node in model.get_ordered_ops():
        doubled = find_source(node, 0, "Interpolate") if node.get_type_name() == "Convolution" else None
        if doubled is None or not is_doubling(doubled) or count_users(doubled) != 1:
            continue
        weight, settings = read_constant(node.input_value(1)), node.get_attributes()
        numbers = [*settings["strides"], *settings["pads_begin"], *settings["pads_end"], *settings["dilations"]]
        if weight is None or weight.shape[2:] != (3, 3) or set(numbers) != {1} or settings["auto_pad"] != "explicit":
            continue
        x = doubled.input_value(0)
        phases = [
            opset13.convolution(x, opset13.constant(kernel), [1, 1], begin, [1 - n for n in begin], [1, 1])
            for kernel, begin in add_up_taps(weight)
        ]
        made = opset13.depth_to_space(opset13.concat(phases, 1), "blocks_first", 2)
        replace(node.output(0), made.output(0))
        changed += 1
    return changed


def is_doubling(node: Any) -> bool:
    """Whether an Interpolate repeats every row and column of [B, C, H, W] once."""
    settings = node.get_attributes()
    nearest = settings["mode"], settings["coordinate_transformation_mode"], settings["nearest_mode"]
    given, made = list(node.input_value(0).shape), list(node.output(0).shape)
    return nearest == ("nearest", "asymmetric", "floor") and made == [*given[:2], *(2 * size for size in given[2:])]


def add_up_taps(weight: np.ndarray) -> list[tuple[np.ndarray, list[int]]]:
    """Weights [O, C, 3, 3] -> those [O, C, 2, 2] of the four phases, and the rows and columns to pad before each.

    Row 2 i of the result reads rows i - 1, i, i of the image, and row 2 i + 1 reads rows i, i, i + 1.
    """
    kernels = []
    for phases in product((0, 1), repeat=2):
        kernel = weight
        for axis, phase in zip((2, 3), phases, strict=True):
            first, middle, last = np.split(kernel, 3, axis)
            both = (first + middle, last) if phase else (first, middle + last)
            kernel = np.concatenate(both, axis)
        kernels.append((np.ascontiguousarray(kernel), [1 - phase for phase in phases]))
    return kernels
