"""The same training by three rules, over three seeds: accuracy on deformed digits, mean and standard deviation."""

from statistics import mean, stdev

import saccade

RULES, SEEDS = ("bp", "rf", "dtp"), 3


def main(epochs: float = 10) -> None:
    for rule in RULES:
        accuracies = []
        for seed in range(SEEDS):
            run = saccade.train("digits", rule=rule, seed=seed, epochs=epochs)
            [found] = saccade.probe(run, "digits:train", "digits:test", test_views="digits", seed=seed)
            accuracies.append(found.accuracy)
        print(f"{rule:<4} {mean(accuracies):.1f} ± {stdev(accuracies):.1f} % ({SEEDS} seeds)")


if __name__ == "__main__":
    main()
