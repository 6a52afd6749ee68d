"""One public package, fitted to tables from standard input: `python league_peer.py PACKAGE`.

A line of JSON is a request, a line of JSON its answer. A request is a table (params, tokens, loss,
per: FLOP per parameter and token), answered by theta (E, A, B, alpha, beta on raw counts), seconds
of processor and whether the package makes intervals; or, of a package that does, `predict` (params,
tokens) or `optimum` (a budget [FLOP]) of the last table, answered by `numbers`: medians, lows and
highs at 90%. What fails is answered by `error`. Knows nothing of isoflop.
"""

import json
import sys
import time

DELTA = 1e-3


def chinchilla_package(params, tokens, loss, per):
    """Its BFGS from 2^5 starts, log-Huber at 1e-3; the papers' 4500 starts take minutes a fit."""
    import functools
    import tempfile

    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    grid = {"e": [-0.5, 0.5], "a": [5, 15], "b": [5, 15], "alpha": [0.3, 0.7], "beta": [0.3, 0.7]}
    with tempfile.TemporaryDirectory() as folder:
        loss_fn = functools.partial(log_huber, delta=DELTA)
        law = Chinchilla(folder, param_grid=grid, loss_fn=loss_fn, log_level=50)
        for row in zip(params, tokens, loss, strict=True):
            law.append(**dict(zip(("N", "D", "loss"), row, strict=True)))
        law.visualizer.optim = lambda *args, **kwargs: None  # a figure is no part of the fit
        law.fit(parallel=False)
    return [law.E, law.A, law.B, law.alpha, law.beta], None, None


def simple_scaling_laws(params, tokens, loss, per):
    """Its separable law, least squares on the loss, with intervals from its default 1000 draws."""
    import polars
    from simple_scaling_laws import fit
    from simple_scaling_laws.cost import cost_model

    size, data, target = "model_size__params", "dataset_size__tokens", "test_loss__loss"
    runs = [f"run{i}" for i in range(len(params))]
    model = fit(
        polars.DataFrame({"training_run_id": runs, size: params, data: tokens, target: loss})
    )
    law = model.fits[target].to_dict(model.law, model._reference)["params_raw_scale"]
    quantiles = [0.05, 0.5, 0.95]

    def columns(frame, name):
        return [frame[f"{name}__{q}"].to_list() for q in ("median", "q050", "q950")]

    def predict(n, d):
        points = polars.DataFrame({size: n, data: d})
        return columns(model.predict(points, kind="new-run", quantiles=quantiles), target)

    def optimum(budget):
        cost = cost_model("power", k=per, a=1.0, b=1.0)
        frame = model.optimal_allocation([budget], cost, quantiles=quantiles)
        return [v[0] for v in columns(frame, size)]

    return [law[k] for k in ("E", "A", "B", "alpha", "beta")], predict, optimum


def vpnls(params, tokens, loss, per):
    """Its grid under the Huber loss of its README; millions and billions."""
    import numpy as np
    from vpnls.api import fit_vpnls, huber

    scaled = np.array(params) / 1e6, np.array(tokens) / 1e9, np.array(loss)
    r = fit_vpnls(*scaled, resolution=0.01, loss=huber(DELTA))
    theta = [r.E, r.A * 1e6**r.alpha, r.B * 1e9**r.beta, r.alpha, r.beta]
    return theta, None, None


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
    predict = optimum = None
    for line in sys.stdin:
        request = json.loads(line)
        started = time.process_time()
        try:
            if missing:
                answer = {"missing": missing}
            elif "predict" in request:
                answer = {"numbers": predict(*request["predict"])}
            elif "optimum" in request:
                answer = {"numbers": optimum(request["optimum"])}
            else:
                theta, predict, optimum = fit(**request)
                answer = {"theta": [float(v) for v in theta], "intervals": predict is not None}
                answer["seconds"] = time.process_time() - started
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
