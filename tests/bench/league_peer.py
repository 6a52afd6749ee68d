"""One public package, fitted to tables from standard input: `python league_peer.py PACKAGE`.

One line of JSON is one table (params, tokens, loss), one line of JSON the answer: theta (E, A, B,
alpha, beta on raw counts) and processor seconds, or an error. Knows nothing of isoflop.
"""

import json
import sys
import time

DELTA = 1e-3


def chinchilla_package(n, d, loss):
    """Its BFGS from 3^5 starts, log-Huber at 1e-3; the papers' 4500 starts take minutes a fit."""
    import functools
    import tempfile

    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    steps = {"e": [-1, 0, 0.5], "a": [0, 8, 16], "b": [0, 8, 16]}
    grid = {**steps, "alpha": [0.2, 0.5, 1.0], "beta": [0.2, 0.5, 1.0]}
    with tempfile.TemporaryDirectory() as folder:
        loss_fn = functools.partial(log_huber, delta=DELTA)
        law = Chinchilla(folder, param_grid=grid, loss_fn=loss_fn, log_level=50)
        for row in zip(n, d, loss, strict=True):
            law.append(**dict(zip(("N", "D", "loss"), row, strict=True)))
        law.visualizer.optim = lambda *args, **kwargs: None  # a figure is no part of the fit
        law.fit(parallel=False)
    return [law.E, law.A, law.B, law.alpha, law.beta]


def simple_scaling_laws(n, d, loss):
    """Its separable law, least squares on the loss; the point estimate alone."""
    import polars
    from simple_scaling_laws import fit

    columns = {"model_size__params": n, "dataset_size__tokens": d, "test_loss__loss": loss}
    runs = [f"run{i}" for i in range(len(n))]
    model = fit(polars.DataFrame({"training_run_id": runs, **columns}), n_draws=10)
    law = model.fits["test_loss__loss"].to_dict(model.law, model._reference)["params_raw_scale"]
    return [law[k] for k in ("E", "A", "B", "alpha", "beta")]


def vpnls(n, d, loss):
    """Its grid under the Huber loss of its README; millions and billions."""
    import numpy as np
    from vpnls.api import fit_vpnls, huber

    scaled = np.array(n) / 1e6, np.array(d) / 1e9, np.array(loss)
    r = fit_vpnls(*scaled, resolution=0.01, loss=huber(DELTA))
    return [r.E, r.A * 1e6**r.alpha, r.B * 1e9**r.beta, r.alpha, r.beta]


FITS = {
    "chinchilla-package": ("chinchilla", chinchilla_package),
    "simple-scaling-laws": ("simple_scaling_laws", simple_scaling_laws),
    "vpnls": ("vpnls", vpnls),
}


def main(name):
    """Answer until the input ends; packages may print, so that answers have a stream of theirs."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, fit = FITS[name]
    missing = None
    try:
        __import__(module)
    except ImportError as error:
        missing = f"not installed: {error}"
    for line in sys.stdin:
        table = json.loads(line)
        started = time.process_time()
        try:
            if missing:
                answer = {"missing": missing}
            else:
                theta = [float(v) for v in fit(table["params"], table["tokens"], table["loss"])]
                answer = {"theta": theta, "seconds": time.process_time() - started}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
