"""The schema in the docs describes timings.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from vae_export.bench.results import FORMAT, BenchPlan, Timings

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "timings-2.schema.json").read_text("utf-8"))


def violations(document: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(document)]


def test_schema_accepts_what_bench_writes(timings: Timings) -> None:
    assert violations(json.loads(timings.text)) == []
    gpu = replace(timings.results[0], roofline_share=None, disturbed_rounds=1)
    other = replace(timings, results=(gpu,), unusable={"decoder, pt2/cpu": "its process died of SIGSEGV"})
    assert violations(json.loads(other.text)) == []
    sized = replace(timings, plan=BenchPlan(sizes={"h": 32}).to_json())
    assert violations(json.loads(sized.text)) == []


def test_schema_names_every_key_and_refuses_others(timings: Timings) -> None:
    document = json.loads(timings.text)
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["title"] == SCHEMA["properties"]["format"]["const"] == FORMAT
    assert set(SCHEMA["properties"]) == set(document) == set(SCHEMA["required"])
    for name in ("peaks", "sides", "limits", "figures"):
        item = SCHEMA["properties"][name]["items"]
        assert set(item["properties"]) - {"disturbed_rounds"} == set(document[name][0]) - {"disturbed_rounds"}
        assert set(document[name][0]) - {"disturbed_rounds"} == set(item["required"])
    for wrong in ({"more": 1}, {"figures": [document["figures"][0] | {"calls": 0}]}, {"machine": {}}, {"plan": None}):
        assert violations(document | wrong)
