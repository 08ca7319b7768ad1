"""Mutated data files against the readers: read, refused with one line, or a defect of ours.

python -m tests.tools.fuzz_data --count 10000 --seed 0 --keep FOLDER
"""
