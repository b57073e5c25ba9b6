"""The command line of the experiments."""

import pytest

from experiments import runner
from experiments.__main__ import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_cifar"], "train_cifar10"),
        (["train_cifar10", "--scale", "quick"], "runs at cpu"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(words, message, capsys):
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("experiments: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_list_has_a_line_for_each(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == runner.names()


@pytest.mark.parametrize("error", [FileExistsError, TypeError])
def test_one_that_fails_does_not_keep_the_others(monkeypatch, capsys, error):
    def run(name, scale, **options):
        if name == "bias":
            raise error("a better one is there")
        return f"{name}.json"

    monkeypatch.setattr(runner, "run", run)
    assert main(["bias", "cost", "--scale", "quick"]) == 1
    said = capsys.readouterr()
    assert said.out == "cost.json\n"
    assert "bias: a better one is there" in said.err
