"""Audit a configuration of one's own: which of the paper's conditions it meets, and why it violates the others."""

import saccade

CONFIGURATION = {"loss": "hinge(negatives=1, block=true)", "schedule": "rll", "rule": "dtp", "optimizer": "sgd"}


def main(epochs: float = 1) -> None:
    report = saccade.audit("digits", epochs=epochs, **CONFIGURATION)
    for finding in report.findings:
        if finding.verdict != "met":
            print(f"{finding.part}, {finding.condition}: {finding.verdict}\n    {finding.evidence[0]}")
    print(
        f"{sum(finding.verdict == 'met' for finding in report.findings)} of {len(report.findings)} verdicts are 'met'."
    )


if __name__ == "__main__":
    main()
