"""Training: TRL's trainers with thin additions. Import its modules by name: `import genrec_hf` must not import trl."""
