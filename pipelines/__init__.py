"""The jobs, one file each; `cli.py` makes them the commands of `anomalib-gan`."""
