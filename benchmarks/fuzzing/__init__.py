"""The parts of `benchmarks/fuzz.py`: files to damage, ways to damage them, readers to compare."""
