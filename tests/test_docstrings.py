"""The examples in docstrings run, and every public class and function has an example."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import jaxlm

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    for found in pkgutil.walk_packages(jaxlm.__path__, "jaxlm."):
        if not found.name.endswith("__main__"):
            yield found.name


def examples(name):
    """Return the docstrings of a module that have examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    module = importlib.import_module(name)
    return [test for test in finder.find(module, name) if test.examples]


@pytest.mark.full
@pytest.mark.parametrize("name", list(modules()))
def test_the_examples_of_a_module_run(name, monkeypatch):
    # Tables and errors are printed without colours.
    monkeypatch.setenv("NO_COLOR", "1")
    for test in examples(name):
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=OPTIONS)
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)


# Names without an example: results of functions with examples, and the base of SettingError.
WITHOUT = {"Comparison", "Mixed", "PairScores", "Report", "UserError"}


@pytest.mark.parametrize("name", sorted(set(jaxlm.__all__) - WITHOUT))
def test_a_public_class_or_function_has_an_example(name):
    public = getattr(jaxlm, name)
    if not (inspect.isclass(public) or inspect.isfunction(public)):
        return
    text = inspect.getdoc(public) or ""
    settings = name.endswith("Config")
    assert settings or ">>>" in text or "jaxlm." in text, f"{name} has no example"
