import json

import pytest

from loadgen.errors import UsageError
from loadgen.job.environment import credentials, spec_of
from loadgen.planner import resolved
from loadgen.spec import Spec, spec_of_json
from loadgen.spec.file import layer_of, read_spec_file
from loadgen.spec.layers import Document, settled
from loadgen.spec.targets import each, names, urls, weights, with_target

URL = "http://127.0.0.1:8000"


def made(**settings) -> Spec:
    return spec_of(layer_of(settings), None)


def refusal(**settings) -> str:
    with pytest.raises(UsageError) as caught:
        made(**settings)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    return words


def of_file(tmp_path, text: str, **flags) -> Spec:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return settled(layer_of(flags), read_spec_file(str(path)), {})


def test_one_url_and_one_model_are_a_run_without_targets():
    for told in (made(url=URL, model="m"), made(target=[{"url": URL, "model": "m", "weight": 7}])):
        assert (told.url, told.model, told.targets) == (URL, "m", ())
        assert (names(told), weights(told), urls(told, 0), each(told)) == (("m",), (1.0,), (URL,), (told,))


def test_a_single_model_is_a_name_whatever_is_in_it():
    assert made(url=URL, model="phi=3").model == "phi=3"


def test_models_with_weights_are_targets():
    told = made(url=URL, model=["base=3", "org/a:b=0.5", "plain"])
    assert names(told) == ("base", "org/a:b", "plain")
    assert weights(told) == (3.0, 0.5, 1.0)
    assert [one.model for one in each(told)] == ["base", "org/a:b", "plain"]
    assert {one.url for one in each(told)} == {URL}


def test_several_urls_are_one_target_that_is_balanced():
    told = made(url=[URL, "http://127.0.0.1:8001"], model="m", balance="least-in-flight")
    assert urls(told, 0) == (URL, "http://127.0.0.1:8001")
    assert (names(told), told.balance, told.url) == (("m",), "least-in-flight", URL)


def test_what_a_target_does_not_say_is_as_for_the_run():
    told = made(
        url=URL,
        ignore_eos=True,
        extra_body={"top_p": 0.9},
        target=[
            "model=a,weight=3",
            "name=other,url=http://h:1,url=http://h:2,api-key-env=B,ignore_eos=false,extra_body={}",
        ],
    )
    first, second = each(told)
    assert (first.url, first.ignore_eos, first.extra_body, first.api_key_env) == (URL, True, {"top_p": 0.9}, None)
    assert (second.url, second.ignore_eos, second.extra_body) == ("http://h:1", False, {})
    assert (second.api_key_env, urls(told, 1)) == ("B", ("http://h:1", "http://h:2"))
    assert names(told) == ("a", "other")
    assert first.targets == second.targets == ()


def test_a_comma_in_a_value_is_part_of_it():
    told = made(
        url=URL, target=['extra_body={"a": 1, "b": [2, 3]},model=x, y', "model=z,header=X-A: 1, 2,header=X-B: 3"]
    )
    first, second = each(told)
    assert (first.extra_body, first.model) == ({"a": 1, "b": [2, 3]}, "x, y")
    assert second.header == (("X-A", "1, 2"), ("X-B", "3"))


def test_targets_have_names_that_tell_them_apart():
    told = made(
        target=[{"url": "http://h:1", "model": "m"}, {"url": "http://h:2", "model": "m"}, {"url": "http://h:3"}]
    )
    assert names(told) == ("m at h:1", "m at h:2", "h:3")
    same = made(url=URL, target=[{"model": "m", "header": "X-A: 1"}, {"model": "m"}])
    assert len(set(names(same))) == 2


def test_targets_in_a_file_are_tables_and_flags_win_over_them(tmp_path):
    text = f"""
        url = "{URL}"
        [[target]]
        model = "base"
        weight = 3
        [[target]]
        model = "adapter"
        url = ["http://h:1", "http://h:2"]
        extra_body = {{ priority = 1 }}
    """
    told = of_file(tmp_path, text)
    assert (names(told), weights(told)) == (("base", "adapter"), (3.0, 1.0))
    assert urls(told, 1) == ("http://h:1", "http://h:2")
    assert each(told)[1].extra_body == {"priority": 1}
    moved = of_file(tmp_path, text, url="http://g:9")
    assert [one.url for one in each(moved)] == ["http://g:9", "http://g:9"]
    replaced = of_file(tmp_path, text, target=["model=x", "model=y"])
    assert (names(replaced), {one.url for one in each(replaced)}) == (("x", "y"), {URL})


def test_run_json_makes_the_same_targets_again(tmp_path):
    told = made(
        target=[{"url": ["http://h:1", "http://h:2"], "model": "a", "header_env": "X-K=K"}, {"url": URL, "weight": 2}],
        seed=1,
    )
    written = json.loads(json.dumps(told.to_json()))
    assert spec_of_json(written) == told
    (tmp_path / "run.json").write_text(json.dumps({"spec": written}))
    assert settled({}, read_spec_file(str(tmp_path)), {}) == told


def test_what_an_endpoint_tells_of_a_target_is_that_targets_alone():
    told = made(target=[{"url": "http://h:1"}, {"url": "http://h:2", "model": "b"}])
    first, second = each(told)
    found = with_target(told, 0, with_target(first, 0, each(made(url="http://h:1", model="found"))[0]))
    assert [one.model for one in each(found)] == ["found", "b"]
    assert (found.model, each(found)[1]) == ("found", second)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": ["model=a"]}, "--url: not given"),
        (
            {"url": URL, "target": ["modell=a"]},
            "'modell' is no setting of a target; allowed is name, weight, url, model",
        ),
        ({"url": URL, "target": ["a", "model=b"]}, "target 1: 'a' is no setting; allowed is KEY=VALUE"),
        ({"url": URL, "target": ["model=a", "model=b,weight=0"]}, "target 2: weight: '0' is no weight"),
        ({"url": URL, "target": [{"model": "a", "weight": float("nan")}]}, "weight: nan is no weight"),
        ({"url": URL, "target": ["model=a,model=b"]}, "model is given twice"),
        ({"url": URL, "target": [{"concurrency": 3}]}, "'concurrency' is no setting of a target"),
        ({"url": URL, "target": [3]}, "3 is no target; allowed is KEY=VALUE, or a table"),
        (
            {"url": URL, "target": ["model=a", "model=b,url=ftp://h"]},
            "target 2: url: 'ftp://h' is ftp; allowed is http",
        ),
        (
            {"url": URL, "target": ["model=a,api_key_env=A,api_key_file=f", "model=b"]},
            "target 1: api_key_env, api_key_file",
        ),
        ({"url": URL, "target": ["name=x,model=a", "name=x,model=b"]}, "two targets have the name 'x'"),
        ({"url": URL, "target": ["name=x\x07,model=a", "model=b"]}, "is no name; allowed is printable text"),
        ({"url": URL, "target": ["model=,weight=1", "model=b"]}, "target 1: model: the name is empty"),
        ({"url": URL, "model": ["a", "b"], "target": ["model=c"]}, "give one of the two, a target has its model"),
        ({"url": URL, "model": ["a=0", "b"]}, "a=0: '0' is no weight"),
        ({"url": [URL, URL]}, "the same URL twice"),
        ({"url": URL, "balance": "random"}, "is not one of 'round-robin', 'least-in-flight'"),
        ({"url": URL, "model": ["a", "b"], "calibrate_prompts": True}, "each of several targets may count prompts"),
        ({"url": URL, "target": [{"model": f"m{n}"} for n in range(1001)]}, "1001 targets are too many"),
        ({"url": URL, "target": ["model=a,header=Authorization: Bearer x", "model=b"]}, "looks like a secret"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings, words):
    assert words in refusal(**settings)


def test_a_document_without_targets_is_none():
    assert settled(layer_of({"url": URL}), Document({}), {}).targets == ()


def test_a_key_from_python_is_for_the_targets_that_name_none(monkeypatch):
    monkeypatch.setenv("B", "sk-of-b")
    told = resolved(
        made(target=[{"url": "http://h:1", "model": "a"}, {"url": "http://h:2", "model": "b", "api_key_env": "B"}])
    )
    assert [one.key for one in credentials(told, "sk-given")] == ["sk-given", "sk-of-b"]
    alone = resolved(made(url=URL, api_key_env="B"))
    assert [one.key for one in credentials(alone, "sk-given")] == ["sk-given"]


def test_urls_that_are_balanced_are_of_one_api_and_one_model():
    with pytest.raises(
        UsageError, match="--url: http://h:1/generate is of the sglang API, http://h:2/v1 of the chat API"
    ) as caught:
        resolved(made(url=["http://h:1/generate", "http://h:2/v1"]))
    assert "give two --target instead" in str(caught.value)
    told = resolved(made(target=[{"url": "http://h:1/generate", "name": "x"}, {"url": "http://h:2/v1"}]))
    assert [one.api for one in each(told)] == ["sglang", "chat"]
    with pytest.raises(UsageError, match=r"\(target x\)"):
        resolved(made(target=[{"url": "http://h:1", "name": "x", "api": "none-such"}, {"url": "http://h:2/v1"}]))
