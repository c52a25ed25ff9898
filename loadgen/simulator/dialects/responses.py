"""OpenAI responses: typed events with a running number, an item for each part of the answer.

`response.created` and `response.in_progress` leave when the request is accepted, before anything is generated.
"""

from collections.abc import Hashable
from typing import Any

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Call, Rules, Wants, check_model, flag, mapping, whole, wrong
from loadgen.simulator.dialects import openai
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.wording import Event, Style, Wording, to_json


def read(wants: dict[str, Any], call: Call, rules: Rules) -> Wants:
    """A request: `input` is a string or a list of items."""
    check_model(call.names.get("model", wants.get("model")), rules)
    given = wants.get("input")
    prompt: list[Hashable] = []
    instructions = wants.get("instructions")
    if isinstance(instructions, str):
        prompt += instructions.split()
    answers_a_call = False
    if isinstance(given, str):
        prompt += given.split()
    elif isinstance(given, list) and given and all(isinstance(item, dict) for item in given):
        for item in given:
            prompt += _item_tokens(item, rules)
        answers_a_call = given[-1].get("type") == "function_call_output"
    else:
        raise wrong("input", "input must be a string or a list of at least one item.")
    if "include_usage" in mapping(wants, "stream_options"):
        raise wrong("stream_options.include_usage", "Unknown parameter: 'stream_options.include_usage'.")
    names, may_call, must_call = openai.tools(wants)
    return Wants(
        flag(wants, "stream"),
        prompt,
        whole(wants, "max_output_tokens"),
        ignore_eos=flag(wants, "ignore_eos"),
        reasoning="shown",
        tools=names,
        may_call=may_call and not answers_a_call,
        must_call=must_call,
        may_refuse=True,
    )


def _item_tokens(item: dict[str, Any], rules: Rules) -> list[Hashable]:
    kind = item.get("type", "message")
    if kind == "message":
        return openai.message_tokens(item, rules, "input")
    said = item.get("output" if kind == "function_call_output" else "arguments")
    return list(said.split()) if isinstance(said, str) else []


class ResponsesWording(Wording):
    """Every part of the answer is an item: added, its deltas, done."""

    def __init__(self, style: Style, answer: Answer) -> None:
        super().__init__(style, answer)
        self._sequence = 0
        self._part: Part | None = None
        self._part_index = -1

    def early(self) -> list[Event]:
        response = self._response("in_progress", [])
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def output(self, part: Part, first: int, count: int) -> list[Event]:
        events = []
        if part is not self._part:
            events += self._end_of_part()
            self._part = part
            self._part_index += 1
            events += self._start_of_part(part)
        text = self.arguments(part, first, count) if part.kind == "tool" else self.text(first, count)
        # The common event is put together by hand: it costs a tenth of json.dumps.
        place = b"" if part.kind == "tool" else b'"content_index":0,'
        name = _DELTA[part.kind]
        logprobs = b',"logprobs":[]' if part.kind == "content" else b""
        data = b'{"type":"%b","item_id":"%b","output_index":%d,%b"delta":"%b"%b,"sequence_number":%d}' % (
            name,
            self._item_id(part).encode(),
            self._part_index,
            place,
            text,
            logprobs,
            self._sequence,
        )
        self._sequence += 1
        return [*events, Event(data, name)]

    def closing(self) -> list[Event]:
        events = self._end_of_part()
        response = self._final()
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def error(self, message: str) -> list[Event]:
        response = self._response("failed", []) | {"error": {"code": "server_error", "message": message}}
        return [self._event("response.failed", response=response)]

    def whole(self) -> dict[str, Any]:
        return self._final()

    def _event(self, kind: str, **more: object) -> Event:
        data = to_json({"type": kind, "sequence_number": self._sequence, **more})
        self._sequence += 1
        return Event(data, kind.encode())

    def _start_of_part(self, part: Part) -> list[Event]:
        index = self._part_index
        empty = self._item(part, whole=False)
        events = [self._event("response.output_item.added", output_index=index, item=empty)]
        if part.kind != "tool":
            empty_content = self._content(part, whole=False)
            events.append(
                self._event(
                    "response.content_part.added",
                    item_id=empty["id"],
                    output_index=index,
                    content_index=0,
                    part=empty_content,
                )
            )
        return events

    def _end_of_part(self) -> list[Event]:
        part, index = self._part, self._part_index
        if part is None:
            return []
        item = self._item(part, whole=True)
        place = {"item_id": item["id"], "output_index": index}
        if part.kind == "tool":
            events = [
                self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            ]
        else:
            content = self._content(part, whole=True)
            said = "refusal" if part.kind == "refusal" else "text"
            more: dict[str, object] = {"logprobs": []} if part.kind == "content" else {}
            events = [
                self._event(
                    _DELTA[part.kind].decode().replace(".delta", ".done"),
                    **place,
                    content_index=0,
                    **{said: content[said]},
                    **more,
                ),
                self._event("response.content_part.done", **place, content_index=0, part=content),
            ]
        return [*events, self._event("response.output_item.done", output_index=index, item=item)]

    def _item_id(self, part: Part) -> str:
        return _ID_PREFIX[part.kind] + self.number

    def _item(self, part: Part, *, whole: bool) -> dict[str, Any]:
        status = "completed" if whole else "in_progress"
        item: dict[str, Any] = {"id": self._item_id(part)}
        if part.kind == "reasoning":
            return item | {
                "type": "reasoning",
                "summary": [],
                "content": [self._content(part, whole=True)] if whole else [],
                "status": status,
            }
        if part.kind == "tool":
            return item | {
                "type": "function_call",
                "call_id": f"call_{self.number}",
                "name": self.answer.tool,
                "arguments": to_json(self.call_arguments()).decode() if whole else "",
                "status": status,
            }
        return item | {
            "type": "message",
            "role": "assistant",
            "content": [self._content(part, whole=True)] if whole else [],
            "status": status,
        }

    def _content(self, part: Part, *, whole: bool) -> dict[str, Any]:
        text = self.said(part.kind) if whole else ""
        match part.kind:
            case "reasoning":
                return {"type": "reasoning_text", "text": text}
            case "refusal":
                return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _final(self) -> dict[str, Any]:
        answer = self.answer
        response = self._response(
            "incomplete" if answer.finish == "length" else "completed",
            [self._item(part, whole=True) for part in answer.parts if part.kind != "hidden"],
        )
        if answer.finish == "length":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response["usage"] = {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.prompt_tokens + answer.output_tokens,
        }
        return response

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.answer.response_id,
            "object": "response",
            "created_at": self.style.created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.style.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }


_DELTA = {
    "content": b"response.output_text.delta",
    "reasoning": b"response.reasoning_text.delta",
    "refusal": b"response.refusal.delta",
    "tool": b"response.function_call_arguments.delta",
}
_ID_PREFIX = {"content": "msg_", "refusal": "msg_", "reasoning": "rs_", "tool": "fc_"}

RESPONSES = Dialect("responses", read, ResponsesWording, openai.refused, id_prefix="resp_")
