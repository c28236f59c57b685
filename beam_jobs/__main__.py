"""`python -m beam_jobs` is `echobeam`, for where the script is not on PATH."""

from beam_jobs.command import main

main(prog_name="echobeam")
