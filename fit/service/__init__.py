"""The service: the answers of the command line over HTTP, and the web page (`page/`).

`serve` starts the server. `app` has the routes and `routes` the questions; `fits` holds the fits in
service and `jobs` runs worker processes; `http` has what every request passes through; `openapi`
describes the interface.
"""
