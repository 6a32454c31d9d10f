"""Programs that Triton's Python backend runs: copied into repositories, imported by nothing here.

They need what stands at their top and nothing else: the server has an environment of its own.
"""
