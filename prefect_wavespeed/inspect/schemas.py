"""JSON Schemas of what is stored: ``python -m prefect_wavespeed.inspect.schemas metadata`` prints one."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.ledger.records import DeadLetter, Metadata

PUBLISHED: dict[str, type[BaseModel]] = {
    "metadata": Metadata,
    "dead-letter": DeadLetter,
    "report": ReportRow,
    "summary": Summary,
}
"""What has a schema under docs/, as ``{name}.schema.json``."""


class _Written(GenerateJsonSchema):
    """Every field is written, those with defaults too."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of one of PUBLISHED, as it is written."""
    model = PUBLISHED[name]
    rules = model.model_json_schema(by_alias=True, mode="serialization", schema_generator=_Written)
    return {"$schema": GenerateJsonSchema.schema_dialect, **rules}


if __name__ == "__main__":
    print(json.dumps(schema(sys.argv[1]), indent=2))
