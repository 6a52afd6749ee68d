"""The same answers over HTTP, and the page (fit/service/page/)."""
