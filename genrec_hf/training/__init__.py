"""Training: TRL's trainers with thin additions, and a small decoder that compares semantic ids.

Import its modules by name: `import genrec_hf` must not import trl.
"""
