"""Training: TRL's trainers with thin additions, and a small decoder that tells what semantic ids are worth.

Import its modules by name: `import genrec_hf` must not import trl.
"""
