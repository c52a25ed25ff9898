"""What is asked, and in which words."""

from typing import Final

from loadgen.spec import BALANCES, USAGES
from loadgen.spec.body import (
    read_body_fields,
    read_extra_body,
    read_header_variables,
    read_headers,
    read_images,
    read_template,
    read_tools,
)
from loadgen.spec.notation import read_switch, read_text, read_texts, read_whole
from loadgen.spec.settings.setting import Setting, choice
from loadgen.spec.settings.target import read_targets

ENDPOINT: Final = (
    Setting(
        "url",
        read_texts,
        "Base URL (http://host:8000, https://host/v1) or whole path. May be given several times: the requests are "
        "balanced over them. [env: OPENAI_BASE_URL]",
        metavar="URL",
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
    choice(
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
    choice(
        "usage",
        USAGES,
        help="When the server is asked for its count of tokens: at the end, in every event (vLLM, SGLang), never.",
    ),
    Setting("return_token_ids", read_switch, "Ask for the ids of each event's tokens (vLLM), and count them.", False),
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
)
