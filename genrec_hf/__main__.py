"""`python -m genrec_hf RECIPE ...`: the command `genrec-hf`, for `accelerate launch -m genrec_hf RECIPE ...`."""

from genrec_hf.console import run

if __name__ == "__main__":
    run()
