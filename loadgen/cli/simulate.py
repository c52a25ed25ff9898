"""`loadgen simulate`: options -> Settings, and the two lines on stdout."""

import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.durations import DurationType
from loadgen.cli.numbers import NumberType
from loadgen.clock import NS_PER_S
from loadgen.errors import UsageError
from loadgen.simulator.engine import JITTERS, LEAST_STEP_NS, EngineParameters, Jitter, capacity, jitter
from loadgen.simulator.faults import FAULTS

if TYPE_CHECKING:
    JitterParamType = click.ParamType[Jitter]
    LoadParamType = click.ParamType[tuple[int, int]]
else:
    JitterParamType = LoadParamType = click.ParamType  # before click 8.3 it takes no argument

SHARE = NumberType(1)
COUNT = click.IntRange(min=1)


class JitterType(JitterParamType):
    """A distribution, as in `normal:0.1`."""

    name = "distribution"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Jitter:
        if isinstance(value, Jitter):
            return value
        try:
            return jitter(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class LoadType(LoadParamType):
    """INPUT,OUTPUT tokens of a request."""

    name = "input,output"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            input_tokens, output_tokens = (int(part) for part in value.split(","))
            if input_tokens < 0 or output_tokens < 1:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} is no load; write input and output tokens of a request, as in 512,128.", param, ctx)
        return input_tokens, output_tokens


def _faults_help() -> str:
    return "What goes wrong; several are drawn from evenly. " + "; ".join(
        f"{name}: {what}" for name, what in FAULTS.items()
    )


@click.command(name="simulate", context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to listen on, IPv4 or IPv6.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 picks a free one.")
@click.option("--model", default="sim", help="The name it serves; any other gets a 404.")
@click.option(
    "--adapter", multiple=True, metavar="NAME", help="Another name that it serves, as a LoRA adapter; repeatable."
)
@click.option(
    "--truth", type=click.Path(dir_okay=False, path_type=Path), help="Write the truth log (Arrow IPC stream) here."
)
@click.option("--flush", type=DurationType(NS_PER_S // 1000), default="1s", help="How often the truth log is written.")
@click.option("--seed", type=int, default=0, help="Same seed and same arrivals, same lengths, jitter, faults and cuts.")
@click.option("--cpu", type=click.IntRange(min=0), help="Pin the server to this CPU.")
@click.option("--api-key-env", metavar="NAME", help="Ask for the key in this environment variable.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Serve https with this certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="The key to it (PEM).")
@click.option(
    "--mode", type=click.Choice(["lock-step", "independent"]), default="lock-step", help="One clock, or one a stream."
)
@click.option(
    "--ttft", type=DurationType(0), default="0s", help="Time to the first token, on top of prefill and queue."
)
@click.option(
    "--prefill-rate",
    type=click.IntRange(min=0),
    default=0,
    help="Prompt tokens a second, one request at a time; 0: no time.",
)
@click.option("--step", type=DurationType(LEAST_STEP_NS), default="20ms", help="Length of a decode step, a.")
@click.option(
    "--step-per-running", type=DurationType(0), default="0s", help="b: a step lasts a + b x running sequences."
)
@click.option(
    "--jitter",
    type=JitterType(),
    default="none",
    help="Of the step: " + "; ".join(f"{k}: {v}" for k, v in JITTERS.items()),
)
@click.option(
    "--max-running", type=COUNT, default=256, help="Sequences at a time; the others queue, first in first out."
)
@click.option(
    "--max-queued", type=click.IntRange(min=0), help="Refuse with 503 when so many wait.  [default: no limit]"
)
@click.option("--capacity", type=LoadType(), help="Print the saturation point for such requests, and serve nothing.")
@click.option("--output-tokens", type=COUNT, default=128, help="Output of a request that names no max_tokens.")
@click.option(
    "--eos-probability",
    type=SHARE,
    default=0.0,
    help="Chance, a token, that the answer stops unless ignore_eos is set.",
)
@click.option("--tokens-per-event", type=COUNT, default=1, help="Tokens a step and event.")
@click.option(
    "--draft-acceptance",
    type=SHARE,
    default=1.0,
    help="Speculative decoding: chance of each token of a step behind its first; those behind a refused one are lost.",
)
@click.option(
    "--prefix-cache",
    type=click.IntRange(min=0),
    default=0,
    metavar="TOKENS",
    help="Remember so many prompt tokens, in blocks of 16: a prefix seen before skips prefill. 0: none.",
)
@click.option(
    "--role-event",
    type=click.Choice(["first", "early", "none"]),
    default="first",
    help="Role-only event: with the first token, on acceptance, or not at all.",
)
@click.option("--no-role-event", "role_event", flag_value="none", help="The same as --role-event none.")
@click.option(
    "--reasoning-tokens",
    type=click.IntRange(min=0),
    default=0,
    help="So many tokens first are reasoning, where the API has a place for it and the request wants it.",
)
@click.option(
    "--reasoning-field",
    type=click.Choice(["reasoning_content", "reasoning"]),
    default="reasoning_content",
    help="What OpenAI chat calls it (newer vLLM: reasoning).",
)
@click.option(
    "--tool-call-share",
    type=SHARE,
    help="Share of the answers that call a tool, offered or not.  [default: all that were offered one]",
)
@click.option("--refusal-share", type=SHARE, default=0.0, help="Share of the answers that are refusals.")
@click.option("--image-tokens", type=click.IntRange(min=0), default=256, help="Prompt tokens of an image.")
@click.option(
    "--template-tokens", type=click.IntRange(min=0), default=0, help="Prompt tokens that the template adds a message."
)
@click.option("--max-model-len", type=COUNT, default=1 << 20, help="Longest prompt and answer together.")
@click.option("--no-stream-options", is_flag=True, help="Refuse stream_options, as some gateways do, with status 400.")
@click.option(
    "--cumulative",
    type=click.Choice(["default", "on", "off"]),
    default="default",
    help="Events of SGLang's /generate (default: on) and Triton (default: off) repeat the text so far.",
)
@click.option(
    "--databricks-task",
    type=click.Choice(["chat", "completions", "embeddings"]),
    default="chat",
    help="What GET /api/2.0/serving-endpoints/NAME says that the endpoint does.",
)
@click.option("--metrics", type=click.Choice(["vllm", "sglang"]), default="vllm", help="Whose names /metrics uses.")
@click.option(
    "--kv-cache-tokens", type=COUNT, help="What its cache usage is a share of.  [default: 4096 x --max-running]"
)
@click.option(
    "--text", type=click.Choice(["plain", "unicode"]), default="plain", help="unicode: letters of two to four bytes."
)
@click.option("--padding", type=click.IntRange(0, 1 << 20), default=0, help="Bytes of padding in each output event.")
@click.option("--comments", is_flag=True, help="`: ping` comments between the events.")
@click.option("--crlf", is_flag=True, help="Events end in CRLF CRLF.")
@click.option("--split-writes", is_flag=True, help="Cut each event at random bytes into several writes.")
@click.option(
    "--framing",
    type=click.Choice(["chunked", "content-length", "close"]),
    default="chunked",
    help="How a stream's body is delimited.",
)
@click.option("--fault", "faults", type=click.Choice(list(FAULTS)), multiple=True, help=_faults_help())
@click.option("--fault-share", type=SHARE, default=1.0, help="Share of the requests that get a fault.")
@click.option("--stall", type=DurationType(), default="10s", help="Length of the silence of the stall faults.")
@click.option(
    "--stop-on-eof", is_flag=True, hidden=True, help="Stop when stdin ends: with the process that started it."
)
def command(**given: Any) -> None:
    """Serve an endpoint whose true times are known, in the words of a dozen APIs at once.

    It models an engine with continuous batching, and writes down when each token was really sent: OpenAI (chat,
    completions, responses, embeddings), Azure, Anthropic, Databricks, SGLang, TGI, Triton, Ollama, llama.cpp, Gemini.
    """
    engine = EngineParameters(
        ttft_ns=given["ttft"],
        prefill_tokens_per_s=given["prefill_rate"],
        step_ns=given["step"],
        step_per_running_ns=given["step_per_running"],
        max_running=given["max_running"],
        max_queued=given["max_queued"],
        tokens_per_event=given["tokens_per_event"],
        lock_step=given["mode"] == "lock-step",
        jitter=given["jitter"],
        acceptance=given["draft_acceptance"],
        prefix_cache_tokens=given["prefix_cache"],
    )
    if given["capacity"] is not None:
        input_tokens, output_tokens = given["capacity"]
        most = capacity(engine, input_tokens, output_tokens)
        click.echo(
            f"{most.requests_per_s:.6g} requests/s, {most.output_tokens_per_s:.6g} output tokens/s, "
            f"{most.input_tokens_per_s:.6g} input tokens/s; limited by {most.limit}"
        )
        return
    _serve(engine, given)


def _serve(engine: EngineParameters, given: dict[str, Any]) -> None:
    from loadgen.simulator import server
    from loadgen.simulator.ask import Rules
    from loadgen.simulator.wording import Style

    settings = server.Settings(
        engine=engine,
        style=Style(
            model=given["model"],
            framing=given["framing"],
            role_event=given["role_event"],
            tokens_per_event=engine.tokens_per_event,
            reasoning_field=given["reasoning_field"],
            cumulative=given["cumulative"],
            padding_bytes=given["padding"],
            text=given["text"],
            crlf=given["crlf"],
            comments=given["comments"],
            created_s=server.wall_clock_s(),
        ),
        rules=Rules(
            given["model"],
            given["output_tokens"],
            given["eos_probability"],
            reasoning_tokens=given["reasoning_tokens"],
            tool_call_share=given["tool_call_share"],
            refusal_share=given["refusal_share"],
            image_tokens=given["image_tokens"],
            adapters=given["adapter"],
            template_tokens=given["template_tokens"],
            max_model_len=given["max_model_len"],
            stream_options=not given["no_stream_options"],
            task=f"llm/v1/{given['databricks_task']}",
        ),
        host=given["host"],
        port=given["port"],
        seed=given["seed"],
        truth=given["truth"],
        api_key=_api_key(given["api_key_env"]),
        faults=given["faults"],
        fault_share=given["fault_share"],
        stall_ns=given["stall"],
        split_writes=given["split_writes"],
        tls=_tls(given["tls_cert"], given["tls_key"]),
        metrics=given["metrics"],
        flush_ns=given["flush"],
        kv_cache_tokens=given["kv_cache_tokens"] or 4096 * engine.max_running,
    )
    if given["cpu"] is not None:
        _pin(given["cpu"])

    def ready(url: str) -> None:
        click.echo(f"loadgen simulate: {url} model={settings.rules.model}")
        sys.stdout.flush()

    served = server.run(settings, ready, sys.stdin.fileno() if given["stop_on_eof"] else None)
    rate = served.tokens * NS_PER_S / served.span_ns
    click.echo(
        f"loadgen simulate: {served.requests} requests, {served.tokens} tokens, {rate:.1f} tokens/s"
        f" over {served.span_ns / NS_PER_S:.1f} s, {served.slips} slips"
    )


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise UsageError(f"--api-key-env: the environment variable {name} is not set")
    return key


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    from loadgen.simulator.tls import server_context

    if (certificate is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key: one without the other; https wants both")
    return server_context(certificate, key) if certificate is not None and key is not None else None


def _pin(cpu: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("--cpu: this platform cannot pin a process")
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UsageError(f"--cpu: {cpu} is not among the CPUs that this process may use: {allowed}") from None
