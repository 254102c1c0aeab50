"""Pictures of one's own from an .npz file, views and a network written on the spot, features out for use elsewhere."""

import numpy as np

import saccade


def pictures(count: int = 300) -> np.ndarray:
    """Stripes of random direction and width in colour: uint8 (count, 3, 32, 32). Yours go here."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    angle, width = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0.2, 0.8, (count, 1, 1))
    stripes = 0.5 + 0.5 * np.sin(width * (np.cos(angle) * x + np.sin(angle) * y))
    colours = rng.uniform(0, 1, (count, 3, 1, 1))
    return (255 * stripes[:, None] * colours).astype(np.uint8)


def main(epochs: float = 5) -> None:
    np.savez("stripes.npz", images=pictures())
    run = saccade.train(
        data="stripes.npz",
        views="crop(scale=[0.4, 1]) flip jitter(brightness=0.4, hue=0.1)",
        network="conv16 maxpool tanh | conv32 maxpool tanh",
        loss="hinge(m1=1, m2=3, negatives=5, block=true)",
        schedule="rll",
        rule="rf",
        rate=1e-3,
        epochs=epochs,
        batch=50,
    )
    print("features:", tuple(saccade.embed(run, "stripes.npz").shape))


if __name__ == "__main__":
    main()
