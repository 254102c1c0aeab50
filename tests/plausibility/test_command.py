"""The command `saccade audit`."""

from saccade.cli import main


def test_audit(capsys, tmp_path):
    stack = ["--network", "conv32 tanh | conv40 tanh maxpool", "--views", "digits", "--data", "digits:train[:64]"]
    page = tmp_path / "audit.html"
    assert main(["audit", *stack, "--rule", "rf", "--format", "markdown", "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "| (iii) no symmetric connections | rule | met |" in shown
    assert "no symmetric connections" in page.read_text()
    assert main(["audit", *stack, "--format", "json"]) == 0
    assert '"asymmetric": "violated"' in capsys.readouterr().out
    assert main(["audit", *stack, "--format", "pdf"]) == 2
    assert "terminal, markdown or json" in capsys.readouterr().err
