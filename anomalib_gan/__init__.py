"""Visual anomaly detection with generative adversarial networks: learn what is normal, show where an image is not."""

__version__ = "0.1.0"
