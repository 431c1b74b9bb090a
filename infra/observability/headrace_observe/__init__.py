"""Looking at a running platform: what the broker knows of it, the metric catalogue, and Prometheus over a local stack."""
