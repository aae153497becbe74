"""From text to masked batches. numpy and grain; no jax."""
