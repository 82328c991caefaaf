"""Networks compiled for the processor by OpenVINO, where it is installed.

A compiled network computes the same function: in float32 it differs from torch by less than
``MAX_DIFFERENCE`` in every probability, which is checked when it is compiled. Measured: 1.3 to 1.5
times as fast as torch in float32, and 1.4 times in bfloat16 where the processor has instructions
for it. In 8-bit integers (``quantization``) it is 1.6 times as fast as in bfloat16; the labels of
one or two pixels of ten thousand differ.
"""

import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsem.errors import SettingsError
from sparsem.models.quantization import Ranges, integer_limits
from sparsem.settings import PredictPrecision

Tiles = NDArray[np.float32]

# Architectures that OpenVINO compiles in seconds. It lacks operations of transformers, and takes
# minutes for the nested blocks of CEECNet (measured, OpenVINO 2026.4).
COMPILED_ARCHITECTURES = (
    "resunet",
    "unet",
    "unet++",
    "unet++-averaged",
    "unet++-shallow",
    "fractalresnet",
)
MAX_DIFFERENCE = 1e-5  # of a probability in float32, from torch
# Axis of the outputs of the kernels of OpenVINO's convolutions.
OUTPUT_AXES = {"Convolution": 0, "ConvolutionBackpropData": 1}


class Probabilities(nn.Module):
    """A network that returns probabilities instead of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute probabilities (B, C, S, S) of images (B, K, S, S)."""
        probabilities: Tensor = torch.sigmoid(self.network(images))
        return probabilities


def is_openvino_installed() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def compile_network(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    precision: PredictPrecision,
    ranges: Ranges | None = None,
) -> Callable[[Tiles], Tiles]:
    """Return a compiled network as a function of numpy arrays.

    It takes tiles of ``shape``, (B, K, S, S), and returns probabilities (B, C, S, S). It uses as
    many threads as torch.

    Args:
        network: network that returns logits, in evaluation mode on the CPU.
        shape: shape of all tiles.
        precision: float32, bfloat16 or int8.
        ranges: for int8, the ranges of the inputs of its convolutions.

    Raises:
        SettingsError: OpenVINO is not installed, or cannot compile this network.
    """
    if not is_openvino_installed():
        raise SettingsError(
            "The engine openvino is not installed; install it with: pip install openvino, or use "
            "--engine torch."
        )
    examples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    probabilities = Probabilities(network).eval()
    try:
        model = _converted(probabilities, examples)
        in_float32 = _compiled(model, "float32")
        difference = _largest_difference(in_float32, probabilities, examples)
    except Exception as error:  # of many kinds, one for every part of the conversion
        reason = str(error).splitlines()[0][:120]
        raise SettingsError(
            f"OpenVINO cannot compile this network ({reason}); use --engine torch."
        ) from None
    if difference > MAX_DIFFERENCE:
        raise SettingsError(
            f"OpenVINO computes probabilities that differ by {difference:.1g} from those of torch; "
            "use --engine torch."
        )
    if precision == "float32":
        return in_float32
    if precision == "int8":
        _quantize(model, ranges or {})
    return _compiled(model, precision)


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports every import over the internet."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


def _converted(network: nn.Module, examples: Tiles) -> Any:
    """Return a network as a model of OpenVINO for tiles of the shape of ``examples``.

    One tile is traced, since torch keeps the memory of a whole batch.
    """
    _import_openvino()
    front_end = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    decoder_class = import_module("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO reads traced networks; torch calls tracing deprecated, and tracers warn of
        # branches, of which the comparison with torch would show a wrong one.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, torch.from_numpy(examples[:1]), check_trace=False)
    decoder = decoder_class(traced, example_input=None)  # must outlast the conversion
    model = front_end.convert(front_end.load(decoder))
    model.reshape(list(examples.shape))
    return model


@cache
def _core() -> Any:
    """Return OpenVINO's core, one for the life of the process.

    Each core gives signal handlers a stack of its own, and at its end puts back the stack that it
    had met. Of two cores the later one thus leaves a stack that is freed, and the next Ctrl+C
    crashes.
    """
    return _import_openvino().Core()


def _quantize(model: Any, ranges: Ranges) -> None:
    """Round the inputs and the kernels of the convolutions with a range to 8 bits, in place.

    OpenVINO computes a convolution between two such operations in integers.

    Raises:
        SettingsError: not all of these convolutions are in the model.
    """
    n_quantized = 0
    for node in model.get_ordered_ops():
        # torch's name of the layer is the first part, after that of the module that was traced.
        layer = node.get_friendly_name().split("/")[0].removeprefix("__module.network.")
        if node.get_type_name() in OUTPUT_AXES and layer in ranges:
            _quantize_convolution(node, ranges[layer])
            n_quantized += 1
    if not ranges or n_quantized != len(ranges):
        raise SettingsError(
            f"The model has {len(ranges)} convolutions with a range of 8 bits, of which OpenVINO "
            f"has {n_quantized}; use --precision auto."
        )


def _quantize_convolution(node: Any, limits: tuple[float, float]) -> None:
    """Round the inputs and the kernels of one convolution to 8 bits, in place."""
    opset = import_module("openvino.opset13")
    inputs, kernels = node.input_value(0), node.input_value(1)
    low, high = map(np.float32, integer_limits(*limits))
    rounded_inputs = opset.fake_quantize(inputs, low, high, low, high, levels=256)
    node.input(0).replace_source_output(rounded_inputs.output(0))
    weights = np.array(kernels.get_node().data, np.float32)
    all_axes_of_an_output = tuple({0, 1, 2, 3} - {OUTPUT_AXES[node.get_type_name()]})
    largest = np.abs(weights).max(axis=all_axes_of_an_output, keepdims=True)
    largest = np.maximum(largest, np.finfo(np.float32).tiny)
    rounded_kernels = opset.fake_quantize(
        opset.constant(weights), -largest, largest, -largest, largest, levels=255
    )
    node.input(1).replace_source_output(rounded_kernels.output(0))


def _compiled(model: Any, precision: PredictPrecision) -> Callable[[Tiles], Tiles]:
    """Return a model as a function; its result is an array of its own."""
    compiled = _core().compile_model(model, "CPU", _options(precision))
    request = compiled.create_infer_request()

    def forward(tiles: Tiles) -> Tiles:
        results = request.infer({0: tiles}, share_inputs=True)
        return np.array(results[0], np.float32)

    return forward


def _options(precision: PredictPrecision) -> dict[str, Any]:
    """Return the options of OpenVINO for a precision.

    Processes that work side by side must not be bound to the same cores. What is left between the
    convolutions in 8 bits is computed in bfloat16 where the processor has instructions for it.
    """
    in_bfloat16 = precision == "bfloat16"
    if precision == "int8":
        in_bfloat16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if in_bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }


def _largest_difference(
    forward: Callable[[Tiles], Tiles], probabilities: nn.Module, examples: Tiles
) -> float:
    """Return the largest difference of a compiled network from torch, tile by tile."""
    largest = 0.0
    with torch.inference_mode():
        for tile, output in zip(examples, forward(examples), strict=True):
            expected = probabilities(torch.from_numpy(tile[None])).numpy()[0]
            largest = max(largest, float(np.abs(output - expected).max()))
    return largest
