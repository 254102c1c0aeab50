"""Train an encoder on digits without labels, and probe its upper layers on deformed digits, before and after."""

import saccade


def main(epochs: float = 10) -> None:
    run = saccade.train("digits", epochs=epochs)
    print("run:", run)
    for initial in (True, False):
        found = saccade.probe(run, "digits:train", "digits:test", layers=[2, 3], test_views="digits", initial=initial)
        accuracies = ", ".join(f"layer {one.layer}: {one.accuracy:.1f} %" for one in found)
        print(f"{'before training' if initial else 'after training':<16} {accuracies}")
    print("page:", saccade.page(run))


if __name__ == "__main__":
    main()
