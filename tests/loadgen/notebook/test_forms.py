import inspect

import pytest

import loadgen


@pytest.mark.parametrize("name", ["run", "sweep", "saturate"])
def test_a_function_and_its_form_for_a_running_loop_take_the_same_and_say_what_they_give(name):
    waits, goes_on = getattr(loadgen, name), getattr(loadgen, f"{name}_async")
    assert inspect.iscoroutinefunction(goes_on)
    assert not inspect.iscoroutinefunction(waits)
    assert inspect.signature(waits) == inspect.signature(goes_on)
    assert inspect.signature(waits).return_annotation is loadgen.Result
    assert {"spec", "out", "api_key", "progress", "settings"} <= inspect.signature(waits).parameters.keys()
    assert (waits.__name__, goes_on.__name__) == (name, f"{name}_async")
    assert f"`{name}`" in goes_on.__doc__
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes 0 positional"):
        waits("http://127.0.0.1:8000")
