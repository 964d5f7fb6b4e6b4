"""What a factory PC needs: read an image, run a detector, decide. Nothing here imports torch."""
