"""The JSON Schema of a pack file, made from the model, so that editors complete and check the YAML.

    python -m ivr.pack_schema        writes policies/packs/pack.schema.json

A pack that extends another need not repeat anything, so only ``name`` and ``description`` are required here; what the
whole must hold is checked when it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import policies.pack
from policies.pack import PackSpec

SCHEMA_FILE = Path(policies.pack.__file__).parent / "packs" / "pack.schema.json"


def pack_schema() -> str:
    """The schema as the text of its file."""
    schema = _partial(PackSpec.model_json_schema())
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Firmline pack",
        "required": ["name", "description"],
    }
    return json.dumps(schema, indent=1, ensure_ascii=True, sort_keys=True) + "\n"


def _partial(node: Any) -> Any:
    """Without what is required, and without the docstrings' line breaks."""
    if isinstance(node, dict):
        return {
            key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _partial(value)
            for key, value in node.items()
            if not (key == "required" and isinstance(value, list))
        }
    return [_partial(each) for each in node] if isinstance(node, list) else node


if __name__ == "__main__":
    SCHEMA_FILE.write_text(pack_schema(), encoding="utf-8")
    print(f"written: {SCHEMA_FILE}")
