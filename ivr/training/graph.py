"""A trained network -> the ONNX file that ``ivr.embedding`` runs: fused operators, int8 weights.

Written operator by operator with onnxruntime's own fused ones (com.microsoft: Attention, SkipLayerNormalization,
BiasGelu): on one sentence at a time most of the time goes into the number of operators, and this has a third of those
of an exported graph (measured: docs/benchmarks-judgement.md). Sentences of one length go together, so there is no mask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from ivr.embedding import MAX_TOKENS
from policies.meaning import CLASSES

HEADS = 12
EPSILON = 1e-12
MICROSOFT = "com.microsoft"
Weights = Mapping[str, npt.NDArray[np.float32]]


def write(weights: Weights, out: Path) -> None:
    """Quantise (weights per channel, activations as they come) and write; 22 MB for six layers of 384."""
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        onnx.save(_Graph(weights).model(), str(plain))
        quantize_dynamic(
            plain,
            out,
            op_types_to_quantize=["MatMul", "Attention", "EmbedLayerNormalization"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
        )


class _Graph:
    """Nodes and constants under construction."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        layers = 1 + max(int(found[1]) for key in self._weights if (found := re.search(r"layer\.(\d+)\.", key)))
        self._embed("x0")
        for number in range(layers):
            self._layer(number, f"x{number}", f"x{number + 1}")
        self._outputs(f"x{layers - 2}", f"x{layers}")
        width = self._weights["like.bias"].shape[0]
        floats = TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "firmline-meaning",
            [helper.make_tensor_value_info("ids", TensorProto.INT32, ["sentences", "tokens"])],
            [
                helper.make_tensor_value_info("likeness", floats, ["sentences", width]),
                helper.make_tensor_value_info("scores", floats, ["sentences", len(CLASSES)]),
            ],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="firmline")
        model.ir_version = 8
        return model

    def _embed(self, out: str) -> None:
        of = "enc.embeddings."
        places = self._weights[of + "position_embeddings.weight"][:MAX_TOKENS]
        kind = self._weights[of + "token_type_embeddings.weight"][0]
        words = self._constant("words", self._weights[of + "word_embeddings.weight"])
        where = self._constant("places", places + kind)
        scale, shift = (self._given(of + "LayerNorm." + each) for each in ("weight", "bias"))
        inputs = ["ids", "", words, where, "", scale, shift, ""]
        self._fused("EmbedLayerNormalization", inputs, [out, "mask_index"], epsilon=EPSILON)

    def _layer(self, number: int, x: str, out: str) -> None:
        of = f"enc.encoder.layer.{number}."
        parts = [f"{of}attention.self.{each}." for each in ("query", "key", "value")]
        w = self._constant(f"qkv_w{number}", np.concatenate([self._weights[p + "weight"].T for p in parts], axis=1))
        b = self._constant(f"qkv_b{number}", np.concatenate([self._weights[p + "bias"] for p in parts]))
        self._fused("Attention", [x, w, b], [f"attended{number}"], num_heads=HEADS)
        self._dense(of + "attention.output.dense", f"attended{number}", f"mixed{number}")
        self._norm(of + "attention.output.", f"mixed{number}", x, f"middle{number}")
        self._dense(of + "intermediate.dense", f"middle{number}", f"wide{number}")
        bias = self._given(of + "intermediate.dense.bias")
        self._fused("BiasGelu", [f"wide{number}", bias], [f"bent{number}"])
        self._dense(of + "output.dense", f"bent{number}", f"narrow{number}")
        self._norm(of + "output.", f"narrow{number}", f"middle{number}", out)

    def _dense(self, of: str, x: str, out: str) -> None:
        w = self._constant(of, self._weights[of + ".weight"].T)
        self._nodes.append(helper.make_node("MatMul", [x, w], [out], name=out))

    def _norm(self, of: str, x: str, skip: str, out: str) -> None:
        given = [self._given(of + each) for each in ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")]
        self._fused("SkipLayerNormalization", [x, skip, *given], [out], epsilon=EPSILON)

    def _outputs(self, inner: str, last: str) -> None:
        """Scores from the last layer (mean, maximum, first token); likeness from means of it and an inner one."""
        axis, first = self._constant("tokens", np.array([1])), self._constant("first", np.array(0))
        self._plain("ReduceMean", [last, axis], "last_mean", keepdims=0)
        self._plain("ReduceMax", [last, axis], "last_max", keepdims=0)
        self._plain("Gather", [last, first], "last_first", axis=1)
        self._plain("Concat", ["last_mean", "last_max", "last_first"], "pooled", axis=1)
        self._plain("Gemm", ["pooled", self._given("cls.weight", turned=True), self._given("cls.bias")], "scores")
        self._plain("ReduceMean", [inner, axis], "inner_mean", keepdims=0)
        self._plain("Concat", ["inner_mean", "last_mean"], "means", axis=1)
        self._plain("Gemm", ["means", self._given("like.weight", turned=True), self._given("like.bias")], "unscaled")
        self._plain("LpNormalization", ["unscaled"], "likeness", axis=1, p=2)

    def _plain(self, operator: str, inputs: list[str], out: str, **options: Any) -> None:
        self._nodes.append(helper.make_node(operator, inputs, [out], name=f"{out}_made", **options))

    def _fused(self, operator: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        node = helper.make_node(operator, inputs, outputs, domain=MICROSOFT, name=f"{outputs[0]}_made", **options)
        self._nodes.append(node)

    def _given(self, name: str, *, turned: bool = False) -> str:
        weight = self._weights[name]
        return self._constant(name, weight.T if turned else weight)

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name
