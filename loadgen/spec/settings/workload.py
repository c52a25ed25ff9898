"""What a request holds: synthetic prompts, data sets, traces."""

from typing import Final

from loadgen.spec import CONVERSATIONS, NONCES
from loadgen.spec.notation import (
    read_columns,
    read_factor,
    read_lengths,
    read_prefixes,
    read_share,
    read_switch,
    read_text,
    read_whole,
)
from loadgen.spec.settings.setting import Setting, choice, duration

WORKLOAD: Final = (
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
    choice(
        "conversations",
        CONVERSATIONS,
        help="A conversation of a data set is a session, its first turn alone, or one request with all of it.",
    ),
    choice(
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
    duration("from", help="Begin a trace here.", default="0s"),
    duration("to", help="End a trace here (its own time, as --from)."),
    Setting("sample", read_share, "Play this share of a trace's sessions (or rows).", "100%", "SHARE"),
)
