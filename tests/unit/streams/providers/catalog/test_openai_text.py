"""What of a response's output is text and nothing else."""

import json
from typing import Any

import pytest

from tests.support.providers.bodies import SECRET, webhook
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_provider
from tidings.streams.providers.translation import translate


def message(*texts: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []} | more for text in texts]
    return {"type": "message", "role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ([message("The ", "quick"), message(" fox")], "The quick fox"),
        ([{"type": "reasoning", "summary": []}, message("fox")], "fox"),
        ([{"type": "reasoning", "summary": [{"text": "hm"}]}, message("fox")], None),
        ([message("fox", annotations=[{"type": "url_citation"}])], None),
        ([message("fox"), {"type": "function_call", "name": "f"}], None),
        ([{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}], None),
        ("fox", None),
        ([], None),
    ],
)
def test_the_text_of_a_response(output: Any, text: str | None) -> None:
    """Messages of plain text are text; whatever says more than that is output."""
    provider = open_provider("openai", Configuration(secret=(SECRET,)))
    assert provider is not None
    body = {"id": "resp_1", "object": "response", "status": "completed", "output": output}
    event = translate(provider, webhook(json.dumps(body).encode()))
    assert event.output_text == text
    assert bool(event.output)
