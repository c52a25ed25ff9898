"""Every refusal of a spec, in one sentence: the field, what was wrong with it, what is allowed."""

import ssl
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from loadgen.distribution import Distribution, FromFile
from loadgen.errors import UsageError
from loadgen.schedule.profile import Profile
from loadgen.spec import (
    BALANCES,
    HISTORIES,
    MOST_CONCURRENCY,
    MOST_INPUT_TOKENS,
    MOST_OUTPUT_TOKENS,
    MOST_RATE,
    MOST_REQUESTS,
    MOST_RETRIES,
    MOST_S,
    MOST_STAGES,
    MOST_TARGETS,
    MOST_TIME_SCALE,
    MOST_TURNS,
    OWN_LENGTH,
    TIMED_ARRIVALS,
    TRANSPORTS,
    USAGES,
    Spec,
    StageSpec,
    most_turns,
    targets,
)
from loadgen.spec.body import secret_of_query


def flag(*names: str, stage: int | None = None, target: int | None = None) -> str:
    """How settings are called on the command line: "--requests, --duration"."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def check(spec: Spec, called: Callable[..., str] = flag) -> Spec:
    """The same spec, if it can be run. UsageError names the first field that cannot, by `called(*names, stage=...)`."""
    schemes = _check_targets(spec, called)
    _among(called("balance"), spec.balance, BALANCES)
    _among(called("transport"), spec.transport, TRANSPORTS)
    _among(called("history"), spec.history, HISTORIES)
    if not spec.stages:
        raise UsageError(f"{called('concurrency')}: no level given; allowed are whole numbers from 1, as in 1,8,64")
    if len(spec.stages) > MOST_STAGES:
        field = called("concurrency" if spec.stages[0].concurrency else "rate", stage=0)
        raise UsageError(f"{field}: {len(spec.stages)} levels are too many; allowed are {MOST_STAGES} in one run")
    for number, stage in enumerate(spec.stages):
        _check_stage(spec, stage, lambda *names, number=number: called(*names, stage=number))
    _check_lengths(called("input_tokens"), spec.input_tokens, MOST_INPUT_TOKENS)
    _check_lengths(called("output_tokens"), spec.output_tokens, MOST_OUTPUT_TOKENS)
    _within(called("inputs"), spec.inputs, _least(spec.input_tokens))
    _within(called("prefix_tokens"), spec.prefix_tokens, MOST_INPUT_TOKENS, least=0)
    _check_workload(spec, called)
    _within(called("retry"), spec.retries, MOST_RETRIES, least=0)
    if spec.turns is None and spec.dataset is None and spec.history != "real":
        raise UsageError(f"{called('history')}: {spec.history} is for sessions; give --turns too")
    if spec.turns is not None and most_turns(spec) > MOST_TURNS:
        raise UsageError(
            f"{called('turns')}: {spec.turns.text} is too large; allowed are up to {MOST_TURNS} turns a session"
        )
    if not 0 <= spec.seed < 1 << 63:
        raise UsageError(f"{called('seed')}: {spec.seed} is out of range; allowed is 0 to 2^63 - 1")
    if spec.workers is not None:
        _within(called("workers"), spec.workers, MOST_CONCURRENCY)
    _lasts(called("cooldown"), spec.cooldown_s, least_s=0)
    for name in ("connect_timeout", "first_byte_timeout", "idle_timeout", "timeout"):
        _lasts(called(name), getattr(spec, f"{name}_s"))
    if spec.spin and (spec.transport == "aiohttp" or spec.proxy is not None):
        raise UsageError(f"{called('spin')}: this is for the kernel transport, which has no proxies")
    if spec.proxy is not None:
        if "//***@" in spec.proxy:
            raise UsageError(f"{called('proxy')}: run.json does not keep a proxy's password; give --proxy with it")
        check_url(called("proxy"), spec.proxy, schemes=("http",))
        if spec.transport == "kernel":
            raise UsageError(f"{called('proxy')}: the kernel transport has no proxies; use --transport aiohttp or auto")
    if spec.insecure and spec.tls_ca is not None:
        raise UsageError(f"{called('insecure', 'tls_ca')}: give one of the two, a certificate is checked or it is not")
    if (spec.insecure or spec.tls_ca) and "https" not in schemes:
        raise UsageError(f"{called('tls_ca', 'insecure')}: these are for https:// URLs")
    if spec.tls_ca is not None:
        _check_certificates(called("tls_ca"), spec.tls_ca)
    return spec


def _check_targets(spec: Spec, called: Callable[..., str]) -> set[str]:
    """What a target may have of its own; gives the schemes of all URLs."""
    if len(spec.targets) > MOST_TARGETS:
        raise UsageError(
            f"{called('target')}: {len(spec.targets)} targets are too many; allowed are {MOST_TARGETS} in one run"
        )
    seen: set[str] = set()
    for name in targets.names(spec) if spec.targets else ():
        if not (name.strip() and name.isprintable()):
            raise UsageError(f"{called('target')}: {name!r} is no name; allowed is printable text")
        if name in seen:
            raise UsageError(f"{called('target')}: two targets have the name {name!r}; give each a name of its own")
        seen.add(name)
    schemes = set()
    for number, one in enumerate(targets.each(spec)):

        def its(*names: str, number: int = number) -> str:
            return called(*names, target=number)

        urls = targets.urls(spec, number)
        schemes |= {check_url(its("url"), url, keyless=True).scheme for url in urls}
        if len(set(urls)) < len(urls):
            raise UsageError(f"{its('url')}: the same URL twice; give each once")
        _among(its("usage"), one.usage, USAGES)
        if one.model is not None:
            _check_model(its("model"), one.model)
        if one.api_key_env is not None and one.api_key_file is not None:
            raise UsageError(f"{its('api_key_env', 'api_key_file')}: give one of the two, there is one key")
        if one.max_tokens_field is not None and not all(one.max_tokens_field.split(".")):
            raise UsageError(f"{its('max_tokens_field')}: {one.max_tokens_field!r} is no name of a field")
        if one.traceparent and any(name.lower() == "traceparent" for name, _ in one.header):
            raise UsageError(f"{its('traceparent')}: --header has a traceparent of its own; give one of the two")
    if spec.calibrate_prompts and len(spec.targets) > 1:
        raise UsageError(
            f"{called('calibrate_prompts')}: each of several targets may count prompts in its own way; leave it out"
        )
    return schemes


def _least(tokens: Distribution | FromFile | None) -> int:
    """The least that a prompt has, as far as the spec says: it may be sent as so many inputs."""
    return int(tokens.a) if isinstance(tokens, Distribution) and tokens.kind in ("fixed", "uniform") else 1


def _check_lengths(field: str, lengths: Distribution | FromFile | None, most: int) -> None:
    if isinstance(lengths, FromFile):
        _check_readable(field, lengths.path, "a file of lengths")
    elif lengths is not None and lengths.kind == "fixed":
        _within(field, int(lengths.a), most)
    elif lengths is not None and lengths.mean > most:
        raise UsageError(f"{field}: {lengths.text} is too large; allowed are tokens up to {most}")


def _check_workload(spec: Spec, called: Callable[..., str]) -> None:
    files = [name for name in ("dataset", "trace", "replay") if getattr(spec, name) is not None]
    if len(files) > 1:
        raise UsageError(f"{called(*files)}: give one of them, they all say what is asked")
    of_trace = spec.trace is not None or spec.replay is not None
    for name, is_given, fits, what in (
        ("columns", spec.columns is not None, bool(files) or _has_lengths_file(spec), "a file with columns"),
        ("conversations", spec.conversations != "auto", spec.dataset is not None, "--dataset"),
        ("once", spec.once, spec.dataset is not None, "--dataset"),
        ("skip_bad_lines", spec.skip_bad_lines, bool(files), "--dataset or --trace"),
        ("time_scale", spec.time_scale != 1, of_trace, "--trace or --replay"),
        ("from", spec.from_s != 0, of_trace, "--trace or --replay"),
        ("to", spec.to_s is not None, of_trace, "--trace or --replay"),
        ("sample", spec.sample != 1, of_trace, "--trace or --replay"),
    ):
        if is_given and not fits:
            raise UsageError(f"{called(name)}: this goes with {what}; give that too, or leave it out")
    if files and spec.turns is not None:
        raise UsageError(f"{called('turns')}: the sessions are those of the file; leave it out")
    if spec.lengths is not None:
        if files or spec.input_tokens is not None or spec.output_tokens is not None:
            raise UsageError(f"{called('lengths')}: pairs say both lengths; leave out the other settings of lengths")
        _check_readable(called("lengths"), spec.lengths, "a file of two columns of numbers")
    if spec.prefixes is not None and spec.prefix_tokens:
        raise UsageError(f"{called('prefixes', 'prefix_tokens')}: give one of the two")
    if not 1 / MOST_TIME_SCALE <= spec.time_scale <= MOST_TIME_SCALE:
        raise UsageError(f"{called('time_scale')}: {spec.time_scale:g} is out of range; allowed is above 0, as in 0.5")
    _lasts(called("from"), spec.from_s, least_s=0)
    if spec.to_s is not None:
        _lasts(called("to"), spec.to_s)
        if spec.to_s <= spec.from_s:
            raise UsageError(f"{called('to')}: it is not behind --from; allowed is a later time")


def _has_lengths_file(spec: Spec) -> bool:
    return spec.lengths is not None or any(isinstance(one, FromFile) for one in (spec.input_tokens, spec.output_tokens))


def _check_stage(spec: Spec, stage: StageSpec, called: Callable[..., str]) -> None:
    _check_load(spec, stage, called)
    _check_end(spec, stage, called)
    if stage.name is not None and not (stage.name.strip() and stage.name.isprintable()):
        raise UsageError(f"{called('name')}: {stage.name!r} is no name; allowed is printable text")
    for name in ("ramp_up", "warmup", "drain"):
        _lasts(called(name), getattr(stage, f"{name}_s"), least_s=0)
    _within(called("warmup_requests"), stage.warmup_requests, MOST_REQUESTS, least=0)
    if stage.warmup_s and stage.warmup_requests:
        raise UsageError(
            f"{called('warmup', 'warmup_requests')}: give one of the two, a warm-up ends by time or by number"
        )
    if stage.is_open_loop:
        if stage.max_in_flight is not None:
            _within(called("max_in_flight"), stage.max_in_flight, MOST_CONCURRENCY)
        if stage.late_drop_s is not None:
            _lasts(called("late"), stage.late_drop_s, least_s=0)
        if spec.think is not None and spec.turns is None:
            raise UsageError(
                f"{called('think')}: requests of an open loop wait for nobody; allowed with --concurrency or with --turns"
            )
        return
    for name, value in (("max_in_flight", stage.max_in_flight), ("late", stage.late_drop_s)):
        if value is not None:
            raise UsageError(f"{called(name)}: this is for the open loop, where requests are due; give --rate with it")


def _check_load(spec: Spec, stage: StageSpec, called: Callable[..., str]) -> None:
    arrivals = stage.arrivals
    if stage.concurrency is not None:
        if stage.rate is not None:
            raise UsageError(
                f"{called('concurrency', 'rate')}: give one of the two, a stage is closed loop or open loop"
            )
        if arrivals is not None:
            raise UsageError(
                f"{called('arrivals')}: a stage with --concurrency sends when a place is free; arrivals go with --rate"
            )
        _check_concurrency(called("concurrency"), stage.concurrency)
    elif arrivals is None:
        raise UsageError(f"{called('arrivals')}: not given; a stage without --concurrency needs them")
    elif arrivals.kind in TIMED_ARRIVALS:
        if stage.rate is not None:
            raise UsageError(f"{called('rate', 'arrivals')}: {arrivals.kind} brings its own rate; give one of the two")
        if stage.ramp_up_s:
            raise UsageError(f"{called('ramp_up')}: {arrivals.kind} brings its own times and has no ramp; leave it out")
        if arrivals.kind == "recorded" and spec.trace is None and spec.replay is None:
            raise UsageError(f"{called('arrivals')}: recorded arrivals are those of a trace; give --trace or --replay")
        if arrivals.file is not None:
            _check_readable(called("arrivals"), arrivals.file)
    elif stage.rate is None:
        raise UsageError(f"{called('arrivals')}: {arrivals.kind} needs a rate; give --rate with it")
    elif not 0 < stage.rate.peak <= MOST_RATE:
        words = (
            f"too large; allowed are up to {MOST_RATE} arrivals a second"
            if stage.rate.peak
            else "too small; it must be above 0"
        )
        raise UsageError(f"{called('rate')}: {stage.rate.text} is {words}")
    count = "requests" if stage.sessions is None else "sessions"
    if stage.load is not None and stage.is_over_time and getattr(stage, count) is not None:
        raise UsageError(f"{called(count)}: a load that changes over time ends with it, or by --duration")


def _check_end(spec: Spec, stage: StageSpec, called: Callable[..., str]) -> None:
    if spec.turns is None and spec.dataset is None and stage.sessions is not None:
        raise UsageError(f"{called('sessions')}: there are sessions with --turns only; give that, or --requests")
    if spec.turns is not None and stage.requests is not None:
        raise UsageError(f"{called('requests')}: with --turns a stage counts whole sessions; give --sessions instead")
    unit = "requests" if spec.turns is None else "sessions"
    count = stage.requests if spec.turns is None else stage.sessions
    if spec.dataset is not None and stage.sessions is not None:
        unit, count = "sessions", stage.sessions
    is_trace = stage.arrivals is not None and stage.arrivals.kind in OWN_LENGTH
    given = [value for value in (stage.requests, stage.sessions, stage.duration_s) if value is not None]
    if len(given) != 1 and not (is_trace and not given):
        raise UsageError(f"{called(unit, 'duration')}: give one of the two, a stage ends by its {unit} or by its time")
    if count is not None:
        _within(called(unit), count, MOST_REQUESTS)
        if (count + stage.warmup_requests) * most_turns(spec) > MOST_REQUESTS:
            raise UsageError(
                f"{called(unit)}: {count} {unit} of up to {most_turns(spec)} turn(s), and the warm-up, are too many; "
                f"allowed are {MOST_REQUESTS} requests in a stage"
            )
    if stage.duration_s is not None:
        _lasts(called("duration"), stage.duration_s)


def _check_concurrency(field: str, levels: Profile) -> None:
    ends = [value for segment in levels.segments for value in (segment.first, segment.last)]
    if odd := [value for value in ends if not value.is_integer()]:
        raise UsageError(f"{field}: {odd[0]:g} is no whole number; allowed are whole numbers from 1")
    if levels.peak < 1:
        raise UsageError(f"{field}: {levels.text} is too small; allowed are whole numbers from 1")
    if levels.peak > MOST_CONCURRENCY:
        raise UsageError(f"{field}: {levels.text} is too large; allowed are whole numbers up to {MOST_CONCURRENCY}")


def _among(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{field}: {value!r} is not known; allowed is {', '.join(allowed)}")


def _within(field: str, value: int, most: int, least: int = 1) -> None:
    if value < least:
        raise UsageError(f"{field}: {value} is too small; allowed are whole numbers from {least}")
    if value > most:
        raise UsageError(f"{field}: {value} is too large; allowed are whole numbers up to {most}")


def _lasts(field: str, span_s: float, least_s: float = 1e-9) -> None:
    if not least_s <= span_s:
        raise UsageError(f"{field}: {span_s:g} s is too short; it must be {'above 0' if least_s else '0 or more'}")
    if span_s > MOST_S:
        raise UsageError(f"{field}: {span_s:g} s is too long; allowed is up to {MOST_S / 3600:.0f}h")


def _check_readable(field: str, path: str, what: str = "a file with a time in seconds a line") -> None:
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        words = getattr(error, "strerror", None) or error
        raise UsageError(f"{field}: {path!r} cannot be read ({words}); allowed is {what}") from None


def check_url(field: str, url: str, schemes: tuple[str, ...] = ("http", "https"), *, keyless: bool = False) -> Any:
    """The split URL (urllib.parse.SplitResult). UsageError if it cannot be called."""
    allowed = " or ".join(f"{scheme}://HOST[:PORT][/PATH]" for scheme in schemes)
    if not url.isprintable() or " " in url:
        raise UsageError(f"{field}: a URL holds no white space and no control characters; allowed is {allowed}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{field}: {url!r} is no URL ({error}); allowed is {allowed}") from None
    if parts.scheme not in schemes or not parts.hostname:
        hint = f" (did you mean http://{url}?)" if "://" not in url and "http" in schemes else ""
        lack = f"is {parts.scheme}" if parts.scheme and parts.hostname else "has no scheme or host"
        raise UsageError(f"{field}: {url!r} {lack}{hint}; allowed is {allowed}")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise UsageError(f"{field}: {parts.hostname!r} is no host name; allowed is {allowed}") from None
    if port == 0:
        raise UsageError(f"{field}: port 0 cannot be called; allowed is 1 to 65535")
    if parts.username and keyless:
        raise UsageError(f"{field}: a key or password does not belong into the URL; set OPENAI_API_KEY instead")
    if keyless and (name := secret_of_query(parts.query)):
        raise UsageError(
            f"{field}: {name} in the URL looks like a secret, and run.json would keep it; "
            "put it into the environment and give --api-key-env VARIABLE, or --header-env NAME=VARIABLE"
        )
    return parts


def _check_certificates(field: str, path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        words = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{field}: {path!r} cannot be used ({words}); allowed is a file of PEM certificates") from None


def _check_model(field: str, model: str) -> None:
    try:
        model.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{field}: {model!r} cannot be sent; allowed is UTF-8") from None
    if not model:
        raise UsageError(f"{field}: the name is empty; leave it out to take the first model that the endpoint lists")
