"""The settings that make up a spec: each is defined once here, for the command line and for the spec file alike."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from loadgen.spec import BALANCES, CONVERSATIONS, HISTORIES, NONCES, TRANSPORTS, USAGES
from loadgen.spec.body import (
    read_body_fields,
    read_extra_body,
    read_header_variables,
    read_headers,
    read_images,
    read_template,
    read_tools,
)
from loadgen.spec.notation import (
    one_of,
    read_abort_on,
    read_arrivals,
    read_cancel,
    read_columns,
    read_concurrency,
    read_cpus,
    read_duration_s,
    read_factor,
    read_late,
    read_lengths,
    read_levels,
    read_prefixes,
    read_seconds,
    read_share,
    read_slo,
    read_switch,
    read_text,
    read_texts,
    read_think,
    read_turns,
    read_weight,
    read_whole,
    read_workers,
    shown,
)
from loadgen.spec.targets import OF_TARGET, OWN


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is its key in a spec file and, with dashes, its flag."""

    name: str
    read: Callable[[Any], Any]
    """ValueError, worded for the user, for what it cannot read (notation.py)."""
    help: str = ""
    """Without one it is no flag."""
    default: str | bool | None = None
    """As it would be written; None where there is none, or where it depends on others."""
    metavar: str | None = None
    empty: Any = None
    """What a Spec has where there is no default."""
    many: bool = False
    """The flag may be given several times: it is read as a list of texts."""
    of_stage: bool = False
    """May stand in a [[stage]] too."""
    field: str = ""
    """Its name in a Spec and in run.json; "" where that is the same."""
    read_field: Callable[[Any], Any] | None = None
    """Where run.json writes the value in another way."""
    makes_stages: bool = False
    """Says how the stages are made: a Spec holds what was made of it."""

    @property
    def default_value(self) -> Any:
        """What a Spec has where nobody says anything."""
        return self.empty if self.default is None else self.read(self.default)

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.default, bool)


def _duration(name: str, **more: Any) -> Setting:
    return Setting(name, read_duration_s, field=f"{name}_s", read_field=read_seconds, metavar="TIME", **more)


def read_targets(raw: object) -> tuple[dict[str, Any], ...]:
    """Texts as --target has them, or tables: what was said of each target, by the names of a TargetSpec."""
    listed = raw if isinstance(raw, list | tuple) else [raw]
    tables = []
    for number, one in enumerate(listed, 1):
        try:
            tables.append(_target(_written(one) if isinstance(one, str) else one))
        except ValueError as error:
            raise ValueError(f"target {number}: {error}" if len(listed) > 1 else str(error)) from None
    return tuple(tables)


def _written(text: str) -> dict[str, Any]:
    """ "model=a,weight=3,url=x,url=y": a comma belongs to the value unless a key follows it."""
    keys = "|".join(re.escape(key) for name in (*OWN, *OF_TARGET) for key in {name, name.replace("_", "-")})
    table: dict[str, Any] = {}
    for part in re.split(rf",(?=\s*(?:{keys})\s*=)", text):
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"{shown(part)} is no setting; allowed is KEY=VALUE, as in model=llama,weight=3")
        is_many = name in SETTINGS and SETTINGS[name].many
        if name in table and not (is_many and isinstance(table[name], list)):
            raise ValueError(f"{name} is given twice")
        if name in SETTINGS and SETTINGS[name].is_switch:
            table[name] = {"true": True, "false": False}.get(value.strip(), value)
        elif is_many and name != "model":
            table.setdefault(name, []).append(value.strip())
        else:
            table[name] = value.strip()
    return table


_MAY_BE_NOTHING: Final = ("model", "api_key_env", "api_key_file", "max_tokens_field", "body_template")


def _target(table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{shown(table)} is no target; allowed is KEY=VALUE, or a table")
    told: dict[str, Any] = {}
    for key, raw in table.items():
        name = str(key).replace("-", "_")
        own: dict[str, Callable[[Any], Any]] = {"name": read_text, "weight": read_weight, "model": read_text}
        read = own.get(name)
        if read is None and name in OF_TARGET:
            read = SETTINGS[name].read
        if read is None:
            raise ValueError(f"{shown(str(key))} is no setting of a target; allowed is {', '.join((*OWN, *OF_TARGET))}")
        if raw is None:  # so run.json writes what a target does not have, and what the others have is not meant
            told |= {name: None} if name in _MAY_BE_NOTHING else {}
            continue
        try:
            told[name] = read(raw)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return told


def _choice(name: str, allowed: tuple[str, ...], **more: Any) -> Setting:
    return Setting(name, one_of(allowed), metavar="|".join(allowed), default=allowed[0], **more)


SETTINGS: Final = {
    setting.name: setting
    for setting in (
        Setting(
            "url",
            read_texts,
            "Base URL (http://host:8000, https://host/v1) or whole path. May be given several times: the requests are "
            "balanced over them. [env: OPENAI_BASE_URL]",
            many=True,
        ),
        Setting(
            "model",
            read_texts,
            "Model name; default: the first one that the endpoint lists. May be given several times, with the share of the "
            "requests (base=3, adapter=1): each is reported apart.",
            metavar="NAME[=WEIGHT]",
            many=True,
        ),
        Setting(
            "target",
            read_targets,
            "One of several things to ask, each reported apart: model=NAME,weight=3,url=URL,api=NAME,api_key_env=NAME,name="
            "NAME and more. May be given several times; what a target does not say is as for the run.",
            metavar="KEY=VALUE[,...]",
            many=True,
            field="targets",
            read_field=read_targets,
            empty=(),
        ),
        _choice(
            "balance",
            BALANCES,
            help="With several URLs: take turns, or the one with the fewest requests in flight (of each worker).",
        ),
        Setting(
            "api",
            read_text,
            "What the endpoint speaks: chat, completions, responses, messages (Anthropic), azure, databricks, gemini, "
            "vertex, sglang, tgi, triton, ollama, ollama-generate, llamacpp, embeddings, or that of a package; auto goes "
            "by the URL.",
            "auto",
            "NAME",
        ),
        Setting(
            "api_key_env",
            read_text,
            "The environment variable that holds the key (default: the API's own).",
            metavar="NAME",
        ),
        Setting("api_key_file", read_text, "A file that holds the key; - for standard input.", metavar="FILE"),
        Setting(
            "header",
            read_headers,
            "A header for every request, 'Name: value'; no secrets here. May be given several times.",
            metavar="HEADER",
            many=True,
            empty=(),
        ),
        Setting(
            "header_env",
            read_header_variables,
            "A header whose value is in an environment variable, 'Name=VARIABLE'. May be given several times.",
            metavar="HEADER",
            many=True,
            empty=(),
        ),
        _choice(
            "usage",
            USAGES,
            help="When the server is asked for its count of tokens: at the end, in every event (vLLM, SGLang), never.",
        ),
        Setting(
            "return_token_ids", read_switch, "Ask for the ids of each event's tokens (vLLM), and count them.", False
        ),
        Setting(
            "max_tokens_field",
            read_text,
            "What the API calls its limit on output tokens, as in max_completion_tokens.",
            metavar="NAME",
        ),
        Setting("inputs", read_whole, "Embeddings: the prompt is sent as so many inputs in one request.", "1", "N"),
        Setting(
            "tools",
            read_tools,
            "Tools offered in every request: a JSON list as OpenAI has it.",
            metavar="FILE",
            empty=(),
        ),
        Setting(
            "image",
            read_images,
            "An image in every prompt: 512x512 (made up), 3@512x512 for three, a file or a URL. May be given several times.",
            metavar="SIZE|FILE|URL",
            many=True,
            empty=(),
        ),
        Setting(
            "body_template",
            read_template,
            "The whole body, as JSON with {prompt} or {messages}, {model}, {output_tokens}, {system} in its texts.",
            metavar="FILE",
        ),
        Setting(
            "extra_body",
            read_extra_body,
            "JSON merged into every body; null takes a field out.",
            metavar="JSON",
            empty={},
        ),
        Setting(
            "body_field",
            read_body_fields,
            "A field of every body, as in top_p=0.9 or chat_template_kwargs.enable_thinking=false. May be given several "
            "times.",
            metavar="NAME=VALUE",
            many=True,
            empty={},
        ),
        Setting("name", read_text, of_stage=True),
        Setting(
            "concurrency",
            read_concurrency,
            "Closed loop: requests (or sessions) in flight, a number or a PROFILE; a list or a range (1..64x2, 10..50+10) "
            "is a stage each (default: 1 without --rate). Replaces the stages of --spec.",
            metavar="N|PROFILE[,...]",
            of_stage=True,
        ),
        Setting(
            "rate",
            read_levels,
            "Open loop: arrivals a second, a number or a PROFILE; a list or a range is a stage each. Replaces the stages of "
            "--spec. "
            "A PROFILE is 20@30s, 1..100@60s, exp:1..100@60s, sine:10..100@60s, or several joined by +.",
            metavar="R|PROFILE[,...]",
            of_stage=True,
        ),
        Setting(
            "arrivals",
            read_arrivals,
            "How arrivals follow each other: constant, poisson, gamma:CV, typical:TIME (the most typical of many Poisson "
            "plans, for responses that take TIME); or, without --rate, burst:N@PERIOD, trace:FILE (a time in seconds a "
            "line) (default: poisson).",
            metavar="KIND",
            of_stage=True,
        ),
        Setting("requests", read_whole, "End a stage after this many requests.", metavar="M", of_stage=True),
        Setting(
            "sessions", read_whole, "End a stage after this many sessions (with --turns).", metavar="M", of_stage=True
        ),
        _duration(
            "duration",
            help="End a stage after this time (default: the length of its PROFILE or trace; 30s without --requests).",
            of_stage=True,
        ),
        _duration(
            "ramp_up", help="Rise from 0 to the load in this time, before the warm-up.", default="0s", of_stage=True
        ),
        _duration(
            "warmup",
            help="Load before the measured window (default: a tenth of --duration, at most 10s; 0 with --requests, "
            "--sessions or a load that changes over time).",
            of_stage=True,
        ),
        Setting(
            "warmup_requests",
            read_whole,
            "Warm up by this many requests instead of a time.",
            metavar="N",
            of_stage=True,
        ),
        _duration(
            "drain", help="How long requests in flight may go on after the last send.", default="60s", of_stage=True
        ),
        Setting(
            "max_in_flight",
            read_whole,
            "Open loop: arrivals beyond this many in flight wait, and the wait counts.",
            metavar="N",
            of_stage=True,
        ),
        Setting(
            "late",
            read_late,
            "Open loop: send what is late, or drop what would be later than this, and count it.",
            default="send",
            metavar="send|drop:TIME",
            of_stage=True,
            field="late_drop_s",
            read_field=read_seconds,
        ),
        Setting(
            "repeat",
            read_whole,
            "Run each stage so many times, so that there is a spread between runs.",
            "1",
            "K",
            makes_stages=True,
        ),
        Setting(
            "shuffle",
            read_switch,
            "With --repeat: the stages of each round in an order of its own, so that no drift passes for an effect.",
            True,
            makes_stages=True,
        ),
        _duration(
            "cooldown",
            help="Between two stages: wait so long, and until the endpoint answers a single request as quickly as before.",
            default="0s",
        ),
        Setting(
            "early_stop",
            read_switch,
            "Leave out the higher loads once most requests fail, or the endpoint does not keep up with a rate.",
            False,
        ),
        Setting(
            "abort_on",
            read_abort_on,
            "Break the run off once more than a share of the requests that ended within a time failed: error-rate>50%/30s, "
            "several with commas, or never (auto: that one in an open loop, none in a closed one).",
            "auto",
            "CONDITION[,...]|never",
        ),
        Setting("warms_up", read_switch, default=False, of_stage=True),
        Setting(
            "input_tokens",
            read_lengths,
            "Tokens of the synthetic prompt (with --tokenizer exactly, else words): N, uniform:A..B, normal:MEAN,SD, "
            "lognormal:MEDIAN,SIGMA, exp:MEAN or file:FILE; default with a data set or trace: as it says.",
            "512",
            "N|DIST",
        ),
        Setting(
            "output_tokens",
            read_lengths,
            "max_tokens of each request, likewise.",
            "128",
            "N|DIST",
        ),
        Setting("lengths", read_text, "Pairs of input and output lengths, drawn together.", metavar="FILE"),
        Setting("prefix_tokens", read_whole, "Tokens of a system prompt that all requests share.", "0", "N"),
        Setting(
            "prefixes",
            read_prefixes,
            "Several system prompts that requests share: how many, of how many tokens, with popularity 1/k^S.",
            metavar="COUNT:TOKENS[:zipfS]",
        ),
        Setting(
            "tokenizer",
            read_text,
            "Count and make prompts with it: a tokenizer.json, its folder, or tiktoken:cl100k_base. Nothing is downloaded.",
            metavar="PATH|NAME",
        ),
        Setting(
            "calibrate_prompts",
            read_switch,
            "Ask the server first what it adds to a prompt, and make prompts that much shorter.",
            False,
        ),
        Setting(
            "dataset",
            read_text,
            "What is asked comes from a file: ShareGPT, OpenAI messages or batch, JSON lines, CSV, Parquet, text "
            "(gzip, zstd too).",
            metavar="FILE[:FORMAT]",
        ),
        Setting(
            "trace",
            read_text,
            "Arrivals, lengths, sessions and shared prefixes come from a file: Mooncake, Bailian, Azure, BurstGPT, or "
            "columns with a time. With --rate or --concurrency the lengths and prefixes alone.",
            metavar="FILE[:FORMAT]",
        ),
        Setting("replay", read_text, "A run of ours as the trace: the same arrivals and lengths.", metavar="RUN"),
        Setting(
            "columns",
            read_columns,
            "Where a file has what, as in prompt=question,output_tokens=len.",
            metavar="FIELD=COLUMN[,...]",
        ),
        _choice(
            "conversations",
            CONVERSATIONS,
            help="A conversation of a data set is a session, its first turn alone, or one request with all of it.",
        ),
        _choice(
            "nonce",
            NONCES,
            help="Open prompts with words that no other has, against prefix caches; auto: but for what a data set or trace "
            "says the first time.",
        ),
        Setting("once", read_switch, "End a stage where its data set ends; without it starts over.", False),
        Setting("skip_bad_lines", read_switch, "Count the lines of a file that cannot be used, and go on.", False),
        Setting(
            "time_scale",
            read_factor,
            "Times of a trace are multiplied by this: 0.5 plays it in half the time.",
            "1",
            "X",
        ),
        _duration("from", help="Begin a trace here.", default="0s"),
        _duration("to", help="End a trace here (its own time, as --from)."),
        Setting("sample", read_share, "Play this share of a trace's sessions (or rows).", "100%", "SHARE"),
        Setting(
            "turns",
            read_turns,
            "Sessions of this many turns, a number or a DIST such as uniform:2..6 or exp:4.",
            metavar="N|DIST",
        ),
        _choice(
            "history",
            HISTORIES,
            help="With --turns: later turns hold the model's own answers, or prepared ones.",
        ),
        Setting(
            "think",
            read_think,
            "A user's pause before the next request: 2s, uniform:1s..5s, exp:2s, normal:2s,500ms or lognormal:2s,0.5 "
            "(closed loop, or between the turns of a session).",
            metavar="DIST",
        ),
        Setting(
            "cancel",
            read_cancel,
            "Leave after so many tokens (20, uniform:10..50) or so long (2s, exp:3s); 30%@20 for a share of the requests.",
            metavar="[SHARE%@]AFTER",
        ),
        Setting(
            "retry",
            read_whole,
            "Try again up to N times after a 429 or 503, honouring Retry-After.",
            "0",
            "N",
            field="retries",
        ),
        Setting("ignore_eos", read_switch, "Ask the server to go on to max_tokens (vLLM, SGLang).", False),
        Setting(
            "seed",
            read_whole,
            "Of arrivals, prompts and lengths; default: a new one each run, so that no prefix cache knows the prompts.",
            metavar="N",
        ),
        Setting("workers", read_workers, "Worker processes, one a core.", "auto", "N|auto"),
        Setting(
            "cpus",
            read_cpus,
            "The cores that workers may be pinned to, as in 1-3,6; one that is named twice takes two.",
            metavar="LIST",
        ),
        _choice("transport", TRANSPORTS, help="How bytes are received and stamped."),
        Setting("spin", read_switch, "Busy-wait for due times (kernel transport, cores of its own).", False),
        Setting("tls_ca", read_text, "Certificates to trust.", metavar="FILE"),
        Setting("insecure", read_switch, "Do not verify the server's certificate.", False),
        Setting("proxy", read_text, "HTTP proxy (aiohttp transport).", metavar="URL"),
        _duration("connect_timeout", help="Limit on connecting.", default="10s"),
        _duration("first_byte_timeout", help="Limit on the wait for the first byte.", default="10m"),
        _duration("idle_timeout", help="Limit on silence in a stream.", default="2m"),
        _duration("timeout", help="Limit on a whole response.", default="20m"),
        Setting(
            "traceparent",
            read_switch,
            "Send a traceparent header (W3C) with each request, so that the server's traces join those of loadgen export "
            "--format otlp.",
            False,
        ),
        Setting(
            "save_bodies",
            read_switch,
            "Keep every request and response in RUN/bodies, for the owner alone (mode 0600): prompts and answers are never "
            "written otherwise. Costs time on the load's cores.",
            False,
        ),
        Setting("slo", read_slo, "Objectives for goodput, as in ttft=500ms,tpot=50ms (also itl, e2e).", metavar="LIST"),
    )
}
