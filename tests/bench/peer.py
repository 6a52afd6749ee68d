"""One public package on one table, in an environment of its own: `python peer.py PACKAGE TABLE`.

Prints one line of JSON: wall and processor seconds of the fit (imports and reading left out; with
4000 draws where the package makes intervals) and the law found. Knows nothing of isoflop.
"""

import csv
import json
import resource
import sys
import tempfile
import time

DELTA = 1e-3
DRAWS = 4000


def read(path):
    with open(path) as stream:
        rows = list(csv.DictReader(stream))
    return [[float(r[k]) for r in rows] for k in ("params", "tokens", "loss")]


def timed(call):
    """Wall and processor seconds, worker processes counted, and the result."""

    def spent():
        used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    wall, processor = time.perf_counter(), spent()
    found = call()
    return {"wall": time.perf_counter() - wall, "processor": spent() - processor}, found


def chinchilla(n, d, loss):
    """Its BFGS from the papers' 4500 starts, log-Huber at 1e-3, in extended precision."""
    import functools

    import numpy as np
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    grid = {
        "e": list(np.arange(-1, 1.5, 0.5)),
        "a": list(np.arange(0, 30, 5.0)),
        "b": list(np.arange(0, 30, 5.0)),
        "alpha": list(np.arange(0, 2.5, 0.5)),
        "beta": list(np.arange(0, 2.5, 0.5)),
    }
    with tempfile.TemporaryDirectory() as folder:
        law = Chinchilla(
            folder,
            param_grid=grid,
            loss_fn=functools.partial(log_huber, delta=DELTA),
            log_level=50,
        )
        for row in zip(n, d, loss, strict=True):
            law.append(**dict(zip(("N", "D", "loss"), row, strict=True)))
        law.visualizer.optim = lambda *args, **kwargs: None  # a figure is no part of the fit
        point, _ = timed(law.fit)
    return {"point": point, "theta": [law.E, law.A, law.B, law.alpha, law.beta]}


def simple_scaling_laws(n, d, loss):
    """Its separable law, once with few draws and once with 4000; least squares on the loss."""
    import polars
    from simple_scaling_laws import fit

    frame = polars.DataFrame(
        {
            "training_run_id": [f"run{i}" for i in range(len(n))],
            "model_size__params": n,
            "dataset_size__tokens": d,
            "test_loss__loss": loss,
        }
    )
    fit(frame, n_draws=10)  # compiles and caches whatever it does
    point, _ = timed(lambda: fit(frame, n_draws=10))
    draws, model = timed(lambda: fit(frame, n_draws=DRAWS))
    name = "test_loss__loss"
    theta = model.fits[name].to_dict(model.law, model._reference)["params_raw_scale"]
    names = ("E", "A", "B", "alpha", "beta")
    return {"point": point, "draws": draws, "theta": [theta[k] for k in names]}


if __name__ == "__main__":
    package, path = sys.argv[1:]
    print(json.dumps(globals()[package](*read(path)), default=float))
