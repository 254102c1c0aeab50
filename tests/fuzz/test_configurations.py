"""Recipes, option strings and command lines of any kind: refused in one sentence, or they run."""

import dataclasses
import functools

import yaml
from fuzzed import FIELDS, fuzzed, mutated, networks, numbers, one_sentence, run, texts, values, views
from hypothesis import strategies as st

import saccade
from saccade.cli import COMMANDS
from saccade.config.grammar import Call, parse_calls
from saccade.config.run import TrainConfig, from_dict, recipe, to_yaml
from saccade.errors import InputError
from saccade.training import build, train_step

TINY = {
    "data": "digits:train[:20]",
    "views": "digits",
    "network": "conv2 maxpool tanh | conv3 maxpool tanh",
    "head": "flatten linear4",
    "loss": "hinge(negatives=2)",
    "epochs": 1,
    "batch": 10,
    "precision": "float32",
}
images = functools.cache(lambda: saccade.load_images(TINY["data"]))


@fuzzed(content=st.binary(max_size=200) | texts.map(str.encode) | mutated(to_yaml(TrainConfig()).encode()))
def test_a_recipe_of_any_bytes(folder, content):
    (folder / "mine.yaml").write_bytes(content)
    run(["train", "mine.yaml", "--print_config"])
    run(["train", "--config", "mine.yaml", "--print_config"])
    try:
        assert isinstance(recipe("mine.yaml"), TrainConfig)
    except InputError as error:
        one_sentence(error)


@fuzzed(fields=st.dictionaries(st.sampled_from(list(FIELDS)) | texts, values | st.none() | texts, max_size=4))
def test_a_recipe_of_any_mapping(folder, fields):
    (folder / "mine.yaml").write_text(yaml.safe_dump(TINY | fields))
    code, _ = run(["train", "mine.yaml", "--print_config"])
    assert code in (0, 2)


@fuzzed(text=texts | st.text("abc_.-()[]=,'\"\\ 01e{}*#\n\0", max_size=40) | views | networks)
def test_any_text_is_calls_that_read_back_or_is_refused(folder, text):
    try:
        found = parse_calls(text)
    except InputError as error:
        one_sentence(error)
    else:
        assert repr(parse_calls(" ".join(map(str, found)))) == repr(found)


@fuzzed(text=texts | st.text("a ()[]'\"\\", max_size=12))
def test_any_text_is_an_option(folder, text):
    calls = [Call("f", (text,), {"option": text}), Call("g")]
    assert parse_calls(" ".join(map(str, calls))) == calls


def runs_or_is_refused(folder, fields):
    try:
        config = from_dict(TINY | fields, "drawn")
        model = build(config, images())
    except InputError as error:
        one_sentence(error)
    else:
        train_step(model, images(), 0, [] if config.diagnostics else None)
        assert from_dict(yaml.safe_load(to_yaml(config)), "again") == dataclasses.replace(config)


@fuzzed(fields=st.fixed_dictionaries({}, optional=FIELDS))
def test_a_configuration_takes_a_step_or_is_refused(folder, fields):
    runs_or_is_refused(folder, fields)


@fuzzed(field=st.sampled_from(list(FIELDS)).flatmap(lambda name: st.tuples(st.just(name), FIELDS[name])))
def test_a_configuration_with_one_odd_field_takes_a_step_or_is_refused(folder, field):
    runs_or_is_refused(folder, dict([field]))


_WORDS = st.sampled_from(
    (
        "digits:train[:20]",
        "digits",
        "digits[5:2]",
        "run",
        ".",
        "/",
        "--help",
        "--",
        "-",
        "=",
        "paper",
        "x.npz",
        "1,2",
        "all",
    )
)
_OPTIONS = st.sampled_from(
    (
        *(
            "--out",
            "--rows",
            "--count",
            "--seed",
            "--seeds",
            "--size",
            "--views",
            "--alone",
            "--layer",
            "--layers",
            "--train",
        ),
        *(
            "--test",
            "--protocol",
            "--epochs",
            "--rate",
            "--batch",
            "--device",
            "--json",
            "--dry_run",
            "--config",
            "--rule",
        ),
        *(
            "--print_config",
            "--quiet",
            "--cells",
            "--scale",
            "--format",
            "--results",
            "--data_root",
            "--loss",
            "--network",
        ),
        *("--head", "--init_from", "--diagnostics", "--download"),
    )
)
_ARGUMENT = _WORDS | _OPTIONS | numbers.map(str) | texts | st.builds("{}={}".format, _OPTIONS, numbers | texts | _WORDS)


@fuzzed(command=st.sampled_from([*COMMANDS, "--version", "x"]) | texts, arguments=st.lists(_ARGUMENT, max_size=5))
def test_a_command_line_of_any_words(folder, command, arguments):
    if command in ("quickstart", "reproduce"):  # what they do in minutes where all is right
        arguments = [*arguments, "--seeds", "0"]
    if command == "train":
        arguments = [*(f"--{k}={v}" for k, v in TINY.items()), *arguments, "--epochs=1", "--batch=10", "--dry-run"]
    if command == "views":
        arguments = ["digits:train[:20]", *arguments]
    before = list(folder.iterdir())
    code, _ = run([command, *arguments])
    assert code == 0 or list(folder.iterdir()) == before
