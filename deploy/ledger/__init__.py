"""Why no speed-up: from the ceiling of the hardware to the measured latency, part by part."""
