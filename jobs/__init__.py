"""The batch side: one file a job, named after its output; `python -m jobs.<name> --help`."""
