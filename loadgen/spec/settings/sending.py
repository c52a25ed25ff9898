"""How it is sent, and by what it is judged."""

from typing import Final

from loadgen.spec import TRANSPORTS
from loadgen.spec.notation import read_cpus, read_slo, read_switch, read_text, read_whole, read_workers
from loadgen.spec.settings.setting import Setting, choice, duration

SENDING: Final = (
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
    choice("transport", TRANSPORTS, help="How bytes are received and stamped."),
    Setting("spin", read_switch, "Busy-wait for due times (kernel transport, cores of its own).", False),
    Setting("tls_ca", read_text, "Certificates to trust.", metavar="FILE"),
    Setting("insecure", read_switch, "Do not verify the server's certificate.", False),
    Setting("proxy", read_text, "HTTP proxy (aiohttp transport).", metavar="URL"),
    duration("connect_timeout", help="Limit on connecting.", default="10s"),
    duration("first_byte_timeout", help="Limit on the wait for the first byte.", default="10m"),
    duration("idle_timeout", help="Limit on silence in a stream.", default="2m"),
    duration("timeout", help="Limit on a whole response.", default="20m"),
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
