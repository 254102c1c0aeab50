"""Manners on the terminal: colours, progress, completion, JSON, exit codes, summaries."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import pytest
import shtab

from saccade.cli import COMMANDS, EXIT_CODES, _parser_of, main
from saccade.config.names import EXPORTS, LOSSES, RULES
from saccade.config.run import recipes

COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;[0-9;]*)m")
BAR = (
    "import sys\n"
    "from saccade import progress\n"
    "with progress.bar('training', '--quiet' in sys.argv) as update:\n"
    "    update(1, 4, 2.0); update(4, 4, 1.0)"
)


def on_a_terminal(code: str, *arguments: str, **environment: str) -> str:
    """What a Python process shows on standard error where that is a terminal."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    env = clean | {"TERM": "xterm-256color"} | environment
    subprocess.run(
        [sys.executable, "-c", code, *arguments], stderr=follower, stdout=subprocess.PIPE, env=env, check=True
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # the terminal has closed
        pass
    os.close(leader)
    return shown.decode()


def test_progress_has_the_time_left_and_colour_where_one_looks_on():
    shown = on_a_terminal(BAR)
    assert COLOUR.search(shown) and "100%" in shown and re.search(r"\d:\d\d:\d\d", shown) and "loss 1" in shown


def test_no_color_and_quiet():
    shown = on_a_terminal(BAR, NO_COLOR="1")
    assert "100%" in shown and not COLOUR.search(shown)
    assert on_a_terminal(BAR, "--quiet") == ""


def test_what_is_piped_has_no_colour_and_no_bar():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, env=os.environ | {"TERM": "xterm-256color"})
    assert done.stdout == done.stderr == b""


@pytest.mark.parametrize("shell", shtab.SUPPORTED_SHELLS)
def test_completion_knows_commands_options_and_names(shell, capsys):
    assert main(["--print_completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, *LOSSES, *RULES, *EXPORTS, *recipes(), "--schedule", "--checkpoint_seconds"):
        assert word in script
    assert main(["--print_completion", "cmd"]) == 2 and main(["--print_completion"]) == 2


def test_bash_completes(capsys, tmp_path):
    main(["--print_completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        line = " ".join(words)
        script = (
            f"source completion; COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; "
            f"COMP_LINE={line!r}; COMP_POINT={len(line)}; _shtab_saccade; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        return set(done.stdout.split())

    assert {"compare", "completion"} & completed("saccade", "com") == {"compare"}
    assert completed("saccade", "train", "--rule", "u") == {"urf"}
    assert completed("saccade", "train", "--sch") == {"--schedule"}
    assert completed("saccade", "train", "dig") == {"digits"}
    assert completed("saccade", "export", "run", "--to", "o") == {"onnx"}


def test_zsh_completes(capsys, tmp_path):
    """In a zsh of its own, at whose prompt lines are typed that end with the tab key."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed here")
    main(["--print_completion", "zsh"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], os.environ | {"TERM": "dumb", "PS1": "> ", "HOME": str(tmp_path)})

    def shown_after(typed: str, expected: str) -> str:
        os.write(terminal, typed.encode())
        shown, until = "", time.monotonic() + 30
        while expected not in shown and time.monotonic() < until:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode()
        return shown

    begin = f"autoload -Uz compinit; compinit -u -D; eval \"$(<{tmp_path}/completion)\"; echo rea''dy\n"
    assert "ready" in shown_after(begin, "ready")
    for typed, expected in (
        ("saccade com", "saccade compare "),
        ("saccade train --rule u", "--rule urf "),
        ("saccade train dig", "train digits "),
        ("saccade export run --to o", "--to onnx "),
    ):
        assert expected in shown_after(f"\x15{typed}\t", expected)  # ctrl-U empties the line
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(terminal)


def test_completion_imports_no_torch():
    code = "import sys; from saccade.cli import main; main(['--print_completion', 'bash']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_every_command_takes_json_and_quiet():
    for command in COMMANDS:
        flags = {option for action in _parser_of(command)._actions for option in action.option_strings}
        assert flags >= ({"--json"} if command == "list" else {"--json", "--quiet"}), command


def test_help_tells_the_exit_codes(capsys):
    for argv in ([], *([command, "--help"] for command in COMMANDS)):
        with contextlib.suppress(SystemExit):
            main(argv)
        assert " ".join(EXIT_CODES.split()) in " ".join(capsys.readouterr().out.split()), argv


def test_every_command_prints_json_and_says_where_things_are(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def said(*argv: str):
        assert main(list(argv)) == 0, argv
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err and shown.err == "", argv
        return json.loads(shown.out)

    small = ["--data=digits:train[:40]", "--views=digits", "--network=conv4 maxpool tanh", "--batch=20"]
    assert said("train", *small, "--epochs=1", "--dry-run", "--json")["steps"] == "2 of 20 pictures"
    assert said("train", *small, "--epochs=1", "--print_config", "--json")["batch"] == 20
    runs = ["a", "b"]
    for run, rule in zip(runs, ("0.001", "0.002"), strict=True):
        made = said("train", *small, "--epochs=1", "--rate", rule, "--out", run, "--json")
        assert made["run"] == run and Path(made["page"]).exists() and made["steps"] == 2
    labeled = ["--train", "digits:train[:40]", "--test", "digits:test[:20]"]
    assert said("probe", "a", *labeled, "--json")[0]["test_size"] == 20
    assert said("embed", "a", "digits:test[:5]", "--json") == {
        "embeddings": "embeddings.npz",
        "arrays": {"embeddings": [5, 4 * 14 * 14], "labels": [5]},
    }
    assert said("views", "digits", "--rows", "2", "--json") == {"views": "views.png"}
    assert said("page", "a", "--json") == {"page": "a/page.html"}
    assert said("verify", "a", "--json")["exact"] is True
    assert said("compare", *runs, "--json")["configuration"] == {"rate": [0.001, 0.002]}
    assert said("export", "a", "--to", "huggingface", "model", "--json") == {"huggingface": "model"}
    assert said("export", "a", "a.pt2", "--to", "pt2", "--json") == {"pt2": "a.pt2"}
    assert Path("model/README.md").exists() and Path("a.pt2").exists()
    assert set(said("list", "--json")["losses"]) == set(LOSSES)
    told = said("reproduce", "table1", "--scale", "smoke", "--render", "--json")
    assert told["table"]["header"][:3] == ["loss", "learning", "update"] and Path(told["page"]).exists()
    assert said("reproduce", "figure3", "--json") == {"rendered": "runs/paper/figure3-small", "page": ANY}
    assert len(said("margins", *small, "--figure", "m.svg", "--json")["table"]["rows"]) == 1 and Path("m.svg").exists()
    assert {"findings", "versions"} <= said("audit", *small, "--json").keys()
    pytest.importorskip("tensorboard")
    assert said("tensorboard", "a", "--json")["events"] == "a/tensorboard"

    assert main(["compare", *runs, "--page", "both.html"]) == 0
    shown = capsys.readouterr().out
    assert "rate" in shown and shown.splitlines()[-1] == "page  both.html" and "\x1b" not in shown

    def silent(*argv: str) -> str:
        assert main([*argv, "--quiet"]) == 0, argv
        shown = capsys.readouterr()
        assert shown.err == "", argv
        return shown.out

    for argv in ("page a", "verify a", "embed a digits:test[:5]", "views digits", "export a b.pt2 --to pt2"):
        assert silent(*argv.split()) == "", argv
    assert silent("train", *small, "--epochs=1", "--rate", "0.001", "--out", "a") == ""
    assert silent("reproduce", "figure3") == silent("tensorboard", "a") == ""
    assert "page" not in silent("compare", *runs, "--page", "both.html")
    assert "kept in" not in silent("probe", "a", *labeled)


def test_refusals_of_the_new_commands(tmp_path, capsys):
    for argv, part in (
        (["compare", "a"], "two different runs"),
        (["compare", "a", "b", "--page", str(tmp_path / "no" / "where.html")], "where.html"),
        (["export", str(tmp_path), "out"], "no run's folder"),
        (["export", str(tmp_path), "out", "--to", "tflite"], "huggingface, onnx, pt2"),
        (["tensorboard", str(tmp_path)], "no run's folder"),
        (["tensorboard", str(tmp_path), "--count", "0"], "at least 1"),
    ):
        assert main(argv) == 2, argv
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1 and part in shown.err, (argv, shown.err)
