"""Trains the sentence model of ``policies.meaning`` further (``python -m ivr.training``); never in service.

The only importer of torch, transformers and onnx (extra ``train``).
"""
